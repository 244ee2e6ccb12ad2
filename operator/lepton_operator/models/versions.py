"""The list of versions: what the store tells is added, and nothing that is listed ever changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lepton_operator.api.model import (
    KEPT_VERSIONS,
    MAX_LISTED,
    LeptonModelStatus,
    Version,
    VersionEvaluation,
)
from lepton_operator.records import EvaluationRecord, VersionRecord
from lepton_operator.views import VersionUse


def newest(versions: Iterable[Version]) -> Version | None:
    return max(versions, key=lambda each: each.version, default=None)


def find(versions: Iterable[Version], number: int | None) -> Version | None:
    return next((each for each in versions if each.version == number), None)


def with_record(
    versions: Sequence[Version], record: VersionRecord, dataset: str | None
) -> tuple[Version, ...]:
    """Return the list with this record in it; a listed version keeps its digest, whatever comes."""
    listed = find(versions, record.version)
    if listed is None:
        return _sorted((*versions, _version(record)))
    if record.evaluation is None or listed.digest != record.digest:
        return tuple(versions)
    return with_evaluation(versions, record.version, evaluation(record.evaluation), dataset)


def with_evaluation(
    versions: Sequence[Version], number: int, found: VersionEvaluation, dataset: str | None
) -> tuple[Version, ...]:
    """Return the list with this evaluation; one on the dataset that is asked for stays."""
    return tuple(
        each.model_copy(update={"evaluation": found})
        if each.version == number and _says_more(found, each.evaluation, dataset)
        else each
        for each in versions
    )


def _says_more(
    found: VersionEvaluation, listed: VersionEvaluation | None, dataset: str | None
) -> bool:
    return listed is None or (listed.dataset != dataset and found.dataset == dataset)


def contradicts(versions: Iterable[Version], record: VersionRecord) -> bool:
    """Return whether the record claims another digest for a version that is listed."""
    listed = find(versions, record.version)
    return listed is not None and listed.digest != record.digest


def kept(versions: Sequence[Version], in_use: frozenset[int]) -> tuple[Version, ...]:
    """Return the newest twenty and those in use, newest first."""
    ordered = _sorted(versions)
    rest = (each for each in ordered[KEPT_VERSIONS:] if each.version in in_use)
    return (*ordered[:KEPT_VERSIONS], *rest)[:MAX_LISTED]


def pinned(uses: Iterable[VersionUse]) -> frozenset[int]:
    """Return the versions that services name in their specs."""
    return frozenset(each.version for each in uses if each.pinned)


def in_use(status: LeptonModelStatus, uses: Iterable[VersionUse]) -> frozenset[int]:
    """Return the versions that must stay listed: pinned, on pods, served, imported last."""
    used = {each.version for each in uses}
    served = {status.served.version} if status.served else set()
    imported = {status.imported.version} if status.imported else set()
    return frozenset(used | served | imported)


def evaluation(record: EvaluationRecord) -> VersionEvaluation:
    return VersionEvaluation(
        dataset=record.dataset,
        dataset_digest=record.dataset_digest,
        samples=record.samples,
        metrics=record.metrics,
    )


def _version(record: VersionRecord) -> Version:
    return Version(
        version=record.version,
        digest=record.digest,
        size_bytes=record.size_bytes,
        metrics=record.metrics,
        lineage=record.lineage,
        evaluation=evaluation(record.evaluation) if record.evaluation else None,
    )


def _sorted(versions: Iterable[Version]) -> tuple[Version, ...]:
    return tuple(sorted(versions, key=lambda each: each.version, reverse=True))
