"""What the three kinds share: base models, allow-listed pod settings, conditions.

The docstrings and descriptions here are the text of `kubectl explain`. Every string, list and map
is bounded, because the API server refuses CEL rules over unbounded ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
)
from pydantic.alias_generators import to_camel

GROUP = "lepton.ai"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CONTROLLER = f"{GROUP}/lepton-operator"
"""Who does the work, where an object's spec.managedBy names somebody."""

MAX_NAME_LENGTH = 40
MAX_VERSION = 2_147_483_647  # of a model, here and in the store's records
NAME_PATTERN = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_MESSAGE = (
    f"metadata.name is the root of every child's name: use at most {MAX_NAME_LENGTH} characters, "
    "lower-case letters, digits and '-', starting with a letter"
)

# No control characters anywhere: they are how text becomes something else (a second line of a
# header, a second document).
LINE_PATTERN = "^[^\\x00-\\x1f\\x7f]*$"
QUANTITY_PATTERN = "^[0-9]+([.][0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"

ObjectName = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_NAME_LENGTH, pattern=NAME_PATTERN)
]
KubernetesName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=253, pattern="^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"),
]
Line = Annotated[str, StringConstraints(max_length=1024, pattern=LINE_PATTERN)]
LabelKey = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=317,
        # Lengths stand in the pattern: a CRD can bound a map's keys in no other way.
        pattern="^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?"
        "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
    ),
]
LabelValue = Annotated[
    str,
    StringConstraints(max_length=63, pattern="^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"),
]
ImageReference = Annotated[
    str, StringConstraints(min_length=1, max_length=512, pattern="^[A-Za-z0-9][-A-Za-z0-9_./:@]*$")
]
Digest = Annotated[str, StringConstraints(max_length=71, pattern="^sha256:[0-9a-f]{64}$")]
Decimal = Annotated[str, StringConstraints(max_length=24, pattern="^-?[0-9]+(\\.[0-9]+)?$")]


def cel(rule: str, message: str) -> dict[str, str]:
    """Return one CEL rule of `x-kubernetes-validations`."""
    return {"rule": rule, "message": message}


@dataclass(frozen=True, slots=True)
class Rule:
    """What a schema alone can't say: in CEL for the API server, in Python for everybody else.

    Both say the same sentence; a test feeds both the same objects.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]

    def check(self, value: Any) -> Any:
        """Return the value, or raise ValueError with the rule's sentence."""
        if not self.holds(value):
            raise ValueError(self.message)
        return value


def checked(*rules: Rule, **schema_extra: Any) -> tuple[Any, ...]:
    """Return the annotations that hold a field to these rules; further schema keys go along."""
    schema = Field(json_schema_extra=cel_rules(*rules) | schema_extra)
    return (schema, *(AfterValidator(rule.check) for rule in rules))


def cel_rules(*rules: Rule) -> dict[str, Any]:
    """Return the schema extra that carries the rules' CEL."""
    return {"x-kubernetes-validations": [cel(rule.cel, rule.message) for rule in rules]}


_QUANTITY = Rule(
    "type(self) != int || self >= 0",  # the schema's pattern speaks of strings
    "a quantity is a number that is not negative, with a unit if it needs one: 2, 500m, 16Gi",
    lambda value: value >= 0 if isinstance(value, int) else bool(re.match(QUANTITY_PATTERN, value)),
)
INT_OR_STRING: dict[str, Any] = {"x-kubernetes-int-or-string": True}
Quantity = Annotated[
    int | str, *checked(_QUANTITY, pattern=QUANTITY_PATTERN, maxLength=32, **INT_OR_STRING)
]


# A year can be added to any of these, and any time zone: Python's calendar ends with 9999.
EARLIEST_YEAR = 1970
LATEST_YEAR = 8999

_CALENDAR = Rule(
    f"self.getFullYear() >= {EARLIEST_YEAR} && self.getFullYear() <= {LATEST_YEAR}",
    f"a time must lie between the years {EARLIEST_YEAR} and {LATEST_YEAR}",
    lambda moment: EARLIEST_YEAR <= moment.year <= LATEST_YEAR,
)


def _timestamp(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# Whole seconds, as metav1.Time: what is read back equals what was written.
Timestamp = Annotated[
    datetime,
    *checked(_CALENDAR, format="date-time", type="string"),
    PlainSerializer(_timestamp, return_type=str),
]


class ApiModel(BaseModel):
    """A part of a spec: unknown fields are refused, and nothing changes after reading."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


class StatusModel(BaseModel):
    """A part of a status, or what another controller wrote: unknown fields are ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )

    def wire(self) -> dict[str, Any]:
        """Return this as the API server stores it: camel case, absent instead of null or empty."""
        dumped = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {key: value for key, value in dumped.items() if value not in ([], {})}


class Metadata(StatusModel):
    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: Timestamp | None = None
    deletion_timestamp: Timestamp | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Toleration(ApiModel):
    """a taint that the pods tolerate, as in a pod's spec"""

    key: Annotated[str, StringConstraints(max_length=317)] | None = Field(
        default=None, description="key of the taint. Unset, with Exists: every taint."
    )
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="operator: Exists asks for no value. Unset: Equal."
    )
    value: LabelValue | None = Field(default=None, description="value of the taint, with Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="effect of the taint. Unset: every effect."
    )
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        default=None,
        description="tolerationSeconds: how long NoExecute is tolerated. Unset: for ever.",
    )


class ImagePullSecret(ApiModel):
    """a Secret with the credentials of a registry, in the same namespace"""

    name: KubernetesName = Field(description="name of the Secret.")


class Resources(ApiModel):
    """what a container asks for and may use, as in a pod's spec"""

    requests: Annotated[dict[LabelKey, Quantity], Field(max_length=32)] = Field(
        default_factory=dict, description="requests is what the scheduler sets aside."
    )
    limits: Annotated[dict[LabelKey, Quantity], Field(max_length=32)] = Field(
        default_factory=dict,
        description="limits is the most that is granted; GPUs stand here: nvidia.com/gpu: 1.",
    )


_RESERVED_LABELS = Rule(
    "!self.exists(k, k.startsWith('lepton.ai/') || k == 'app.kubernetes.io/managed-by')",
    "podLabels: keys under lepton.ai/ and app.kubernetes.io/managed-by belong to the operator; "
    "use a prefix of your own",
    lambda labels: (
        not any(
            key.startswith("lepton.ai/") or key == "app.kubernetes.io/managed-by" for key in labels
        )
    ),
)
# Annotations that the kubelet, container runtimes and network plugins act upon: some unconfine a
# container, hand it devices or attach it to another network.
_POWERFUL = (
    "lepton.ai/",
    "kubernetes.io/",
    "k8s.io/",
    "cncf.io/",
    "multus-cni.io/",
    "io.kubernetes.",
    "io.katacontainers.",
    "io.containerd.",
    "run.oci.",
)
_RESERVED_ANNOTATIONS = Rule(
    f"!self.exists(k, {list(_POWERFUL)}.exists(p, k.contains(p)))",
    f"podAnnotations: keys with {', '.join(_POWERFUL)} can change what a pod may do and are not "
    "passed on; use a prefix of your own",
    lambda annotations: not any(part in key for key in annotations for part in _POWERFUL),
)
_ORDINARY_PRIORITY = Rule(
    "!self.startsWith('system-')",
    "priorityClassName: classes that begin with system- are the cluster's own, and would evict "
    "others' pods",
    lambda name: not name.startswith("system-"),
)


class PodSettings(ApiModel):
    """What a user may say about the pods of any kind. Everything else is the operator's."""

    image_pull_secrets: Annotated[tuple[ImagePullSecret, ...], Field(max_length=16)] = Field(
        default=(), description="imagePullSecrets names Secrets with credentials of registries."
    )
    service_account_name: KubernetesName | None = Field(
        default=None,
        description="serviceAccountName is the pods' account; its token is not mounted.",
    )
    runtime_class_name: KubernetesName | None = Field(
        default=None, description="runtimeClassName chooses a container runtime, e.g. nvidia."
    )
    scheduler_name: KubernetesName | None = Field(
        default=None, description="schedulerName names a scheduler other than the default one."
    )
    pod_labels: Annotated[
        dict[LabelKey, LabelValue], Field(max_length=32), *checked(_RESERVED_LABELS)
    ] = Field(default_factory=dict, description="podLabels are added to every pod.")
    pod_annotations: Annotated[
        dict[LabelKey, Line], Field(max_length=32), *checked(_RESERVED_ANNOTATIONS)
    ] = Field(default_factory=dict, description="podAnnotations are added to every pod.")
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(
        default_factory=dict, description="nodeSelector: the labels that a node must have."
    )
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = Field(
        default=(), description="tolerations: the taints that the pods tolerate."
    )
    priority_class_name: Annotated[KubernetesName, *checked(_ORDINARY_PRIORITY)] | None = Field(
        default=None, description="priorityClassName replaces the chart's priority class."
    )
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = Field(
        default=None,
        description="terminationGracePeriodSeconds is the time from SIGTERM to SIGKILL; a serving "
        "pod gets no less than it needs to drain.",
    )
    shared_memory: Quantity | None = Field(
        default=None,
        description="sharedMemory is the size of /dev/shm, e.g. 8Gi; it counts as memory.",
    )
    fs_group: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = Field(
        default=None, description="fsGroup is the group that owns the pod's volumes."
    )
    run_as_user: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = Field(
        default=None, description="runAsUser is the user id of the pods' processes; never 0."
    )


class Condition(StatusModel):
    """one aspect of the object's state, as metav1.Condition"""

    type: Annotated[str, StringConstraints(max_length=64)] = Field(
        description="type is the aspect: Ready, Reconciling, Stalled, or one of this kind's own."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="status of that aspect.")
    observed_generation: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="observedGeneration is the generation of the spec it speaks of."
    )
    last_transition_time: Timestamp = Field(
        description="lastTransitionTime is when status last changed."
    )
    reason: Annotated[str, StringConstraints(max_length=64, pattern="^[A-Za-z]+$")] = Field(
        description="reason is one word of a closed list, for programs."
    )
    message: Annotated[str, StringConstraints(max_length=4096)] = Field(
        description="message says to a person what is so, and what to do about it."
    )


class Status(StatusModel):
    """What every kind's status begins with."""

    observed_generation: Annotated[int, Field(ge=-1)] | None = Field(
        default=None,
        description="observedGeneration is the generation of the spec that this status speaks of; "
        "-1 until the operator has seen the object.",
    )
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            max_length=16,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
        ),
    ] = Field(
        default=(),
        description="conditions: Ready always; Reconciling and Stalled only while they are true. "
        "Stalled means that a change of this object must mend it.",
    )
