"""LeptonModel: versions by digest, evaluated, and let through a gate or not."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from lepton_operator.api.common import (
    ApiModel,
    Decimal,
    Digest,
    Metadata,
    PodSettings,
    Rule,
    Status,
    StatusModel,
    Timestamp,
    cel_rules,
    checked,
)

KEPT_VERSIONS = 20
MAX_LISTED = 2 * KEPT_VERSIONS
MAX_STEPS = MAX_LISTED + 2  # an evaluation of each version, an index, an import

MetricName = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern="^[A-Za-z][A-Za-z0-9_./-]{0,63}$")
]
Metrics = Annotated[dict[MetricName, Decimal], Field(max_length=32)]

_A_BOUND = Rule(
    "has(self.minimum) || has(self.maximum)",
    "thresholds: give a minimum, a maximum, or both",
    lambda threshold: threshold.minimum is not None or threshold.maximum is not None,
)
_BOUNDS_IN_ORDER = Rule(
    "!has(self.minimum) || !has(self.maximum) || double(self.minimum) <= double(self.maximum)",
    "thresholds: minimum must not be above maximum",
    lambda threshold: (
        threshold.minimum is None
        or threshold.maximum is None
        or float(threshold.minimum) <= float(threshold.maximum)
    ),
)
_INSIDE = Rule(
    "!self.contains('..') && !self.lowerAscii().contains('%2e')",
    "source.uri: the path must not contain '..', nor an escaped dot (%2e)",
    lambda uri: ".." not in uri and "%2e" not in uri.lower(),
)


class Source(ApiModel):
    """a model file that already exists"""

    uri: Annotated[
        str,
        StringConstraints(
            min_length=6, max_length=1024, pattern="^(s3|pvc)://[^\\x00-\\x20\\x7f]+$"
        ),
        *checked(_INSIDE),
    ] = Field(
        description="uri is an .onnx file, or a folder with model.onnx: s3://bucket/path, read "
        "with the credentials of the namespace's store, or pvc://claim/path."
    )
    digest: Digest = Field(
        description="digest is sha256:<hex> of the file, checked before anything reads it. For a "
        "folder it is what `lepton-agent digest FOLDER` prints."
    )


class Threshold(ApiModel):
    """a bound that a metric must keep"""

    metric: MetricName = Field(description="metric is a name that the evaluation reports.")
    minimum: Decimal | None = Field(
        default=None, description='minimum as a decimal in quotes, e.g. "0.90".'
    )
    maximum: Decimal | None = Field(default=None, description="maximum, likewise.")

    model_config = ApiModel.model_config | ConfigDict(
        json_schema_extra=cel_rules(_A_BOUND, _BOUNDS_IN_ORDER)
    )

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Self:
        _A_BOUND.check(self)
        _BOUNDS_IN_ORDER.check(self)
        return self


class Evaluation(ApiModel):
    """how a version is judged"""

    dataset: Annotated[
        str,
        StringConstraints(
            min_length=1,
            max_length=1024,
            pattern="^([a-z0-9][-a-z0-9_]*|(s3|pvc)://[^\\x00-\\x20\\x7f]+)$",
        ),
    ] = Field(
        default="heldout",
        description="dataset is what the version is evaluated on: heldout (the part stored with "
        "the version), a name in lepton_ai.datasets, or an s3:// or pvc:// uri of an .npz with "
        "x and y.",
    )
    thresholds: Annotated[tuple[Threshold, ...], Field(max_length=16)] = Field(
        default=(),
        description="thresholds must all be kept. None: every version passes (NotAsked).",
    )


class LeptonModelSpec(PodSettings):
    """where versions come from, and how good they must be"""

    source: Source | None = Field(
        default=None,
        description="source is a model that already exists. Unset: versions come from the "
        "TrainingJobs that name this model in output.model.",
    )
    evaluation: Evaluation | None = Field(
        default=None, description="evaluation says how a version is judged. Unset: it passes."
    )


DigestPrefix = Annotated[str, StringConstraints(max_length=19, pattern="^sha256:[0-9a-f]{12}$")]


class Lineage(StatusModel):
    """where a version comes from"""

    training_job: Annotated[str, StringConstraints(max_length=253)] | None = Field(
        default=None, description="trainingJob is the name of the job that made it."
    )
    uid: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="uid of that job: one run, one version."
    )
    uri: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        default=None, description="uri that it was imported from."
    )
    image_digest: DigestPrefix | None = Field(
        default=None, description="imageDigest of the training container, its first digits."
    )
    data_digest: DigestPrefix | None = Field(
        default=None, description="dataDigest of what the script says it trained on."
    )
    checkpoint_step: Annotated[int, Field(ge=0, le=2**53)] | None = Field(
        default=None, description="checkpointStep is the step of the script's last checkpoint."
    )


class VersionEvaluation(StatusModel):
    """what an evaluation found"""

    dataset: Annotated[str, StringConstraints(max_length=1024)] = Field(
        description="dataset that it was evaluated on, as in spec.evaluation."
    )
    dataset_digest: Digest = Field(description="datasetDigest is the digest of its bytes.")
    samples: Annotated[int, Field(ge=0)] = Field(description="samples that were judged.")
    metrics: Metrics = Field(
        default_factory=dict, description="metrics that were measured, as decimals."
    )


class Gate(StatusModel):
    """whether a version may be served"""

    outcome: Literal["Passed", "Failed", "Pending", "NotAsked"] = Field(
        description="outcome: Passed and NotAsked may be served."
    )
    message: Annotated[str, StringConstraints(max_length=1024)] = Field(
        default="", description="message compares each metric with its bound."
    )


class Version(StatusModel):
    """a version: its bytes never change"""

    version: Annotated[int, Field(ge=1)] = Field(
        description="version is its number; none is used twice."
    )
    digest: Digest = Field(description="digest of its manifest, which names every file's.")
    size_bytes: Annotated[int, Field(ge=0)] = Field(
        default=0, description="sizeBytes of all its files."
    )
    metrics: Metrics = Field(
        default_factory=dict, description="metrics that the training reported."
    )
    lineage: Lineage | None = None
    evaluation: VersionEvaluation | None = None
    gate: Gate | None = None


class Served(StatusModel):
    """the version that a service gets when it names none"""

    version: int = Field(description="version is its number.")
    digest: Digest = Field(description="digest of the version.")
    score: Annotated[str, StringConstraints(max_length=128)] | None = Field(
        default=None, description="score is the first thresholded metric, e.g. accuracy=0.9645."
    )


class StepStatus(StatusModel):
    """a step of the pipeline that did not succeed the last time"""

    step: Literal["import", "index", "evaluate"] = Field(description="step that failed.")
    version: int | None = Field(default=None, description="version that it worked on.")
    dataset: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        default=None, description="dataset that it worked with."
    )
    uri: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        default=None, description="uri that it was to import."
    )
    digest: Digest | None = Field(
        default=None, description="digest of the version, or of the source."
    )
    generation: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="generation of the spec that the step was made for."
    )
    pod: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="pod is the UID of the last pod that was counted."
    )
    failures: Annotated[int, Field(ge=0)] = Field(
        default=0, description="failures in a row: the wait before the next try doubles."
    )
    last_failure_time: Timestamp | None = Field(
        default=None, description="lastFailureTime is when it failed last."
    )
    reason: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="reason is one word of a closed list, e.g. StoreUnavailable."
    )
    message: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        default=None, description="message says what is so, and what to do about it."
    )
    final: bool = Field(
        default=False, description="final: only a change of this object can mend it."
    )


class Imported(StatusModel):
    """the source that was imported last"""

    digest: Digest = Field(description="digest of the source, as in spec.source.")
    version: Annotated[int, Field(ge=1)] = Field(description="version that it became.")


class LeptonModelStatus(Status):
    """the versions, and which one is served"""

    versions: Annotated[tuple[Version, ...], Field(max_length=MAX_LISTED)] = Field(
        default=(), description="versions: the newest twenty and those in use, newest first."
    )
    served: Served | None = Field(
        default=None,
        description="served: the newest version that passed its gate; a newer one takes its place "
        "when it has passed.",
    )
    indexed_time: Timestamp | None = Field(
        default=None, description="indexedTime is when the store was last listed."
    )
    unlisted: bool | None = Field(
        default=None, description="unlisted: the store has further versions; they are fetched."
    )
    imported: Imported | None = Field(
        default=None, description="imported: the source that became a version."
    )
    failing: Annotated[tuple[StepStatus, ...], Field(max_length=MAX_STEPS)] = Field(
        default=(), description="failing: steps that did not succeed the last time."
    )


class LeptonModel(StatusModel):
    """LeptonModel keeps the versions of a model by digest, evaluates each, and says which one is
    good enough to be served.
    """

    api_version: Literal["lepton.ai/v1alpha1"] = "lepton.ai/v1alpha1"
    kind: Literal["LeptonModel"] = "LeptonModel"
    metadata: Metadata
    spec: LeptonModelSpec = LeptonModelSpec()
    status: LeptonModelStatus = LeptonModelStatus()
