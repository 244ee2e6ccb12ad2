"""A step of a model: tells the operator, which never opens the store, what versions there are."""

from __future__ import annotations

import argparse

from lepton_ai.record import Record, VersionSummary
from lepton_ai.store import open_store
from lepton_ai.versions import ModelVersions

MOST_VERSIONS = 5


def run(options: argparse.Namespace) -> Record:
    """Return up to five versions that are not known yet, newest first."""
    versions = ModelVersions(open_store(), options.namespace, options.name)
    unknown = [number for number in versions.numbers() if number not in options.known]
    listed = tuple(_summary(versions, n, options.dataset) for n in unknown[:MOST_VERSIONS])
    return Record.succeeded(
        f"The store has {len(unknown)} further versions of {options.name}.",
        versions=listed,
        more=len(unknown) > MOST_VERSIONS,
    )


def _summary(versions: ModelVersions, number: int, dataset: str | None) -> VersionSummary:
    evaluation = versions.newest_evaluation(number, dataset) if dataset else None
    return versions.read_existing(number).summary(evaluation)
