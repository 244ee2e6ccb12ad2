"""A step of a model: makes a version of a file or folder that already exists somewhere."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from lepton_ai import model_folder
from lepton_ai.onnx_model import Limits
from lepton_ai.record import DigestMismatchError, Record
from lepton_ai.sources import fetch_model
from lepton_ai.store import open_store
from lepton_ai.versions import ModelVersions, Version


def run(options: argparse.Namespace) -> Record:
    """Make the version of this source digest, or find the one that was made."""
    versions = ModelVersions(open_store(), options.namespace, options.name)
    version = versions.find(options.digest) or _make(versions, options)
    return Record.succeeded(
        f"{options.uri} is version {version.version} of {options.name}.",
        versions=(version.summary(),),
        more=False,
    )


def _make(versions: ModelVersions, options: argparse.Namespace) -> Version:
    with tempfile.TemporaryDirectory(prefix="import-") as name:
        folder = Path(name)
        digest = fetch_model(options.uri, folder, options.mount)
        if digest != options.digest:
            raise DigestMismatchError(
                f"{options.uri} has the digest {digest}, and source.digest says {options.digest}. "
                "Correct source.digest if the file is the right one, else source.uri."
            )
        manifest = model_folder.read_manifest(folder, Limits(options.max_opset, options.max_ir))
        return versions.publish(
            digest,
            manifest,
            folder,
            model_folder.read_metrics(folder),
            {"uri": options.uri, "digest": digest},
        )
