{{- define "lepton.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "lepton.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The operator's settings: lepton_operator/settings.py is their schema. */}}
{{- define "lepton.settings" -}}
{{- $defaults := deepCopy .Values.defaults -}}
{{- $_ := set $defaults "images" (pick .Values.images "agent" "trainer" "triton" "door" "pullPolicy") -}}
{{- $_ := set $defaults "triton" .Values.triton -}}
{{- /* Helm drops what is null from the values, and the operator would take a default of its own. */ -}}
{{- range list "runAsUser" "fsGroup" -}}
{{- $_ := set $defaults . (index $defaults .) -}}
{{- end -}}
{{- $gpu := dict "limits" (dict .Values.defaults.gpuResource 1) -}}
{{- range list "trainingResources" "inferenceResources" -}}
{{- if kindIs "invalid" (index $defaults .) -}}
{{- $_ := set $defaults . $gpu -}}
{{- end -}}
{{- end -}}
{{- with .Values.priorityClasses.training.name -}}
{{- $_ := set $defaults "trainingPriorityClass" . -}}
{{- end -}}
{{- with .Values.priorityClasses.inference.name -}}
{{- $_ := set $defaults "inferencePriorityClass" . -}}
{{- end -}}
{{- $operator := dict
  "namespaceLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace)
  "podLabels" (include "lepton.selector" (dict "root" . "component" "operator") | fromYaml) -}}
{{- $door := pick .Values.door "replicas" "resources" "drainTimeoutSeconds" "scrapers" -}}
{{- $prometheus := pick .Values.prometheus "url" "matchers" "maxAgeSeconds" -}}
{{- if .Values.prometheus.enabled -}}
{{- $scraper := dict
  "namespaceLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace)
  "podLabels" (include "lepton.selector" (dict "root" . "component" "prometheus") | fromYaml) -}}
{{- $_ := set $door "scrapers" (append $door.scrapers $scraper) -}}
{{- $_ := set $prometheus "url" (printf "http://%s-prometheus.%s.svc:9090" .Release.Name .Release.Namespace) -}}
{{- $_ := set $prometheus "matchers" dict -}}
{{- end -}}
{{- $_ := set $door "xdsAddress" (printf "%s:18000" (include "lepton.xdsHost" .)) -}}
{{- $_ := set $door "operator" $operator -}}
{{- $_ := set $door "pods" (pick .Values.door "imagePullSecrets" "nodeSelector" "tolerations") -}}
{{- dict
  "defaults" $defaults
  "door" $door
  "prometheus" $prometheus
  "xds" (dict "port" 18000 "certificates" "/etc/lepton-xds")
  "watchNamespaces" .Values.watchNamespaces
  "workers" .Values.operator.workers
  "resyncSeconds" .Values.operator.resyncSeconds
  "logLevel" .Values.operator.logLevel
  | toPrettyJson -}}
{{- end }}

{{/* The name that doors ask for, and that the operator's certificate must have. */}}
{{- define "lepton.xdsHost" -}}
lepton-operator-xds.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "lepton.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "lepton.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.defaults.runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .Values.defaults.fsGroup }}
fsGroup: {{ int64 . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* What a PodMonitor takes at most of a pod, as a job of files/prometheus/scrape.yaml says it. */}}
{{- define "lepton.scrapeLimits" -}}
sampleLimit: {{ int .sample_limit }}
bodySizeLimit: {{ .body_size_limit }}
labelLimit: {{ int .label_limit }}
labelNameLengthLimit: {{ int .label_name_length_limit }}
labelValueLengthLimit: {{ int .label_value_length_limit }}
{{- end }}
