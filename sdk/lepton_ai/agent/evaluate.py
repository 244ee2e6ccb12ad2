"""A step of a model: measures one version on one data set, once."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from lepton_ai import datasets
from lepton_ai.datasets import Dataset, DatasetNotFoundError
from lepton_ai.evaluation import evaluate
from lepton_ai.record import Evaluation, Record
from lepton_ai.sources import fetch_file
from lepton_ai.store import open_store
from lepton_ai.versions import (
    HELD_OUT_FILE,
    MODEL_FILE,
    EvaluationRecord,
    ModelFile,
    ModelVersions,
    Version,
    now,
)

HELD_OUT = "heldout"


def run(options: argparse.Namespace) -> Record:
    """End with the evaluation that the store holds, or make it."""
    versions = ModelVersions(open_store(), options.namespace, options.name)
    version = versions.read_exactly(options.version, options.digest)
    with tempfile.TemporaryDirectory(prefix="evaluate-") as folder:
        made = _evaluate(versions, version, options, Path(folder))
    figures = ", ".join(f"{name} {value:.4g}" for name, value in made.metrics.items())
    return Record.succeeded(
        f"Version {made.version} of {options.name} on {made.samples} samples of {made.dataset}: "
        f"{figures}.",
        evaluation=Evaluation.model_validate(made.model_dump()),
    )


def _evaluate(
    versions: ModelVersions, version: Version, options: argparse.Namespace, folder: Path
) -> EvaluationRecord:
    name = options.dataset
    held_out = _held_out_file(versions, version) if name == HELD_OUT else None
    if held_out and (known := versions.evaluation(version.version, f"sha256:{held_out.sha256}")):
        return known
    dataset = _dataset(versions, version, name, options.mount, folder)
    if known := versions.evaluation(version.version, dataset.digest):
        return known
    versions.download(version, MODEL_FILE, folder / MODEL_FILE)
    metrics = evaluate(folder / MODEL_FILE, version.manifest.signature, dataset)
    return versions.record_evaluation(
        EvaluationRecord(
            version=version.version,
            dataset=name,
            dataset_digest=dataset.digest,
            samples=len(dataset),
            metrics=metrics,
            created=now(),
        )
    )


def _held_out_file(versions: ModelVersions, version: Version) -> ModelFile:
    file = version.manifest.file(HELD_OUT_FILE)
    if file is None:
        raise DatasetNotFoundError(
            f"Version {version.version} of {versions.name} has no held-out data. Let the training "
            f"script write {HELD_OUT_FILE} (x, y) to LEPTON_OUTPUT_DIR, or name another data set "
            "in evaluation.dataset."
        )
    return file


def _dataset(
    versions: ModelVersions, version: Version, name: str, mount: Path, folder: Path
) -> Dataset:
    """Return what to evaluate on: of a data set with a name, the part that no recipe trains on."""
    file = folder / HELD_OUT_FILE
    if name == HELD_OUT:
        versions.download(version, HELD_OUT_FILE, file)
        return datasets.read_npz(file, f"{HELD_OUT} of version {version.version}")
    if "://" in name:
        fetch_file(name, file, mount)
        return datasets.read_npz(file, name)
    _, held_out = datasets.load(name).split()
    return held_out
