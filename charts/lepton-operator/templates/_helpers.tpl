{{- define "lepton.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "lepton.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The operator's settings: lepton_operator/settings.py is their schema. */}}
{{- define "lepton.settings" -}}
{{- $defaults := dict
  "images" (dict "agent" .Values.images.agent "trainer" .Values.images.trainer "triton" .Values.images.triton "pullPolicy" .Values.images.pullPolicy)
  "triton" .Values.triton -}}
{{- $defaults = merge $defaults .Values.defaults -}}
{{- if .Values.priorityClasses.create -}}
{{- $_ := set $defaults "trainingPriorityClass" .Values.priorityClasses.training.name -}}
{{- $_ := set $defaults "inferencePriorityClass" .Values.priorityClasses.inference.name -}}
{{- end -}}
{{- dict
  "defaults" $defaults
  "watchNamespaces" .Values.watchNamespaces
  "workers" .Values.operator.workers
  "resyncSeconds" .Values.operator.resyncSeconds
  "logLevel" .Values.operator.logLevel
  | toPrettyJson -}}
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
runAsUser: {{ . }}
{{- end }}
{{- with .Values.defaults.fsGroup }}
fsGroup: {{ . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}
