"""The first container of a serving pod: brings a version into a Triton model repository."""

from __future__ import annotations

import argparse

from lepton_ai.record import Record
from lepton_ai.store import open_store
from lepton_ai.triton_repository import model_config, model_folder, write_config
from lepton_ai.versions import MODEL_FILE, ModelVersions


def run(options: argparse.Namespace) -> Record:
    """Bring the model file, checked by digest, and write its config.pbtxt."""
    versions = ModelVersions(open_store(), options.namespace, options.name)
    version = versions.read_exactly(options.version, options.digest)
    folder = model_folder(options.repository, options.model) / str(version.version)
    folder.mkdir(parents=True, exist_ok=True)
    versions.download(version, MODEL_FILE, folder / MODEL_FILE)
    config = model_config(
        options.model, version.version, version.manifest.signature, options.max_batch_size
    )
    write_config(options.repository, options.model, config)
    return Record.succeeded(
        f"Version {version.version} of {options.name} is in {folder}.", model=version.reference
    )
