"""The pods of a model's pipeline: import, index, evaluate. Each runs the agent once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from lepton_operator import names
from lepton_operator.api.model import LeptonModel
from lepton_operator.build import pods
from lepton_operator.settings import Defaults

StepKind = Literal["import", "index", "evaluate"]

CONTAINER = "step"
CLAIM_VOLUME = "source"
CLAIM_PATH = "/mnt/source"
CLAIM_SCHEME = "pvc"

# Nothing else would ever finish a step that was evicted half-way but the operator, from the start.
UNDISTURBED = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work; equal steps do the same. What a step does not need is None.

    `digest` is the source's for an import and the version's for an evaluation. `known` are the
    versions that an index need not tell again, as 3,2,1.
    """

    kind: StepKind
    version: int | None = None
    digest: str | None = None
    dataset: str | None = None
    uri: str | None = None
    known: str | None = field(default=None, compare=False)

    def written(self) -> str:
        """Return the annotation that says what a pod works on."""
        return names.canonical(_without_nones(asdict(self)))

    @property
    def claim(self) -> str | None:
        """Return the PersistentVolumeClaim that the step reads; an index only names its data."""
        if self.kind == "index":
            return None
        scheme, _, path = (self.uri or self.dataset or "").partition("://")
        return path.partition("/")[0] if scheme == CLAIM_SCHEME else None


_STEP = TypeAdapter(Step)


def read(annotations: Mapping[str, str]) -> Step | None:
    """Return what a pod works on; None if its annotation does not say so."""
    try:
        return _STEP.validate_json(annotations[names.STEP])
    except (KeyError, ValidationError):
        return None


def step_pod(model: LeptonModel, step: Step, number: int, defaults: Defaults) -> dict[str, Any]:
    """Return the pod of a step."""
    resolved = _resolved(defaults)
    parts = pods.PodParts(
        name=names.step_pod(model.metadata.name, step.kind, number, step.version),
        role=step.kind,
        containers=[_container(model, step, defaults)],
        volumes=[pods.store_volume(), *_claim_volumes(step), *_memory_volumes(model)],
        labels={names.RESOLVED_HASH: names.short_hash(resolved)},
        annotations={
            names.STEP: step.written(),
            names.RESOLVED: names.canonical(resolved),
            **UNDISTURBED,
        },
    )
    identity = pods.Identity(defaults.run_as_user, defaults.fs_group)
    return pods.pod(model.kind, model.metadata, model.spec, identity, parts)


def _resolved(defaults: Defaults) -> dict[str, Any]:
    return _without_nones(
        {
            "image": defaults.images.agent,
            "pullPolicy": defaults.images.pull_policy,
            "resources": defaults.step_resources.model_dump(by_alias=True, exclude_defaults=True),
            "maxOpset": defaults.triton.max_opset,
            "maxIr": defaults.triton.max_ir,
            "runAsUser": defaults.run_as_user,
            "fsGroup": defaults.fs_group,
        }
    )


def _container(model: LeptonModel, step: Step, defaults: Defaults) -> dict[str, Any]:
    arguments = _ARGUMENTS[step.kind](step, defaults)
    who = ["--namespace", model.metadata.namespace, "--name", model.metadata.name]
    mounts = [pods.mount(CLAIM_VOLUME, CLAIM_PATH, read_only=True)] if step.claim else []
    if model.spec.shared_memory is not None:
        mounts.append(pods.mount(pods.SHARED_MEMORY_VOLUME, pods.SHARED_MEMORY_PATH))
    where = ["--mount", CLAIM_PATH] if step.claim else []
    return pods.container(
        CONTAINER,
        defaults.images.agent,
        pull_policy=defaults.images.pull_policy,
        command=["lepton-agent", step.kind, *who, *arguments, *where],
        resources=defaults.step_resources,
        mounts=[pods.store_mount(), *mounts],
        # A step that could not even say why it ended is told by its last lines of log.
        terminationMessagePolicy="FallbackToLogsOnError",
    )


def _import(step: Step, defaults: Defaults) -> list[str]:
    bounds = ["--max-opset", defaults.triton.max_opset, "--max-ir", defaults.triton.max_ir]
    return ["--uri", str(step.uri), "--digest", str(step.digest), *map(str, bounds)]


def _index(step: Step, _: Defaults) -> list[str]:
    listed = ["--known", step.known] if step.known else []
    return [*listed, *(["--dataset", step.dataset] if step.dataset else [])]


def _evaluate(step: Step, _: Defaults) -> list[str]:
    which = ["--version", str(step.version), "--digest", str(step.digest)]
    return [*which, "--dataset", str(step.dataset)]


_ARGUMENTS = {"import": _import, "index": _index, "evaluate": _evaluate}


def _claim_volumes(step: Step) -> list[dict[str, Any]]:
    if step.claim is None:
        return []
    claim = {"claimName": step.claim, "readOnly": True}
    return [{"name": CLAIM_VOLUME, "persistentVolumeClaim": claim}]


def _memory_volumes(model: LeptonModel) -> list[dict[str, Any]]:
    """Return nothing where the spec says nothing: a step does with what the runtime gives."""
    size = model.spec.shared_memory
    if size is None:
        return []
    return [pods.empty_volume(pods.SHARED_MEMORY_VOLUME, memory=True, size=size)]


def _without_nones(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
