"""The first container of a serving pod: brings a version into a Triton model repository."""

from __future__ import annotations

import argparse

from lepton_ai.record import Record
from lepton_ai.store import open_store
from lepton_ai.triton_repository import Serving, model_config, model_folder, write_config
from lepton_ai.versions import MODEL_FILE, ModelVersions


def run(options: argparse.Namespace) -> Record:
    """Bring the model file, checked by digest, and write its config.pbtxt.

    A model that cannot be served as it is asked for is refused before its bytes are fetched.
    """
    versions = ModelVersions(open_store(), options.namespace, options.name)
    version = versions.read_exactly(options.version, options.digest)
    config = model_config(
        options.model, version.version, version.manifest.signature, _serving(options)
    )
    folder = model_folder(options.repository, options.model) / str(version.version)
    folder.mkdir(parents=True, exist_ok=True)
    versions.download(version, MODEL_FILE, folder / MODEL_FILE)
    write_config(options.repository, options.model, config)
    return Record.succeeded(
        f"Version {version.version} of {options.name} is in {folder}.", model=version.reference
    )


def _serving(options: argparse.Namespace) -> Serving:
    return Serving(
        max_batch_size=options.max_batch_size,
        must_batch=options.must_batch,
        preferred_batch_sizes=tuple(sorted(options.preferred_batch_sizes)),
        max_queue_delay_microseconds=options.max_queue_delay_microseconds,
        instances=options.instances,
        response_cache=options.response_cache,
        priority_levels=options.priority_levels,
    )
