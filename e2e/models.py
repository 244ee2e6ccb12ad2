"""Real models in a namespace's object store, for tests that need one and train none."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

from obstore.store import S3Store

from e2e.installation import RELEASE, SYSTEM
from e2e.kubectl import Kubectl
from lepton_ai.model_folder import source_digest
from tests.fixtures import onnx_models


def upload_digits(
    namespace: Kubectl, seed: int = 0, steps: int = onnx_models.STEPS
) -> dict[str, str]:
    """Put a digits model into the namespace's bucket; return what goes into spec.source.

    Other seeds give other models; `steps=0` is one that passes no gate.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = onnx_models.write_digits_version(Path(folder) / "model", seed, steps)
        return upload(namespace, made, f"uploads/digits-{seed}-{steps}")


def upload(namespace: Kubectl, folder: Path, prefix: str) -> dict[str, str]:
    """Put a folder into the namespace's bucket; return what goes into spec.source."""
    store, bucket = bucket_of(namespace)
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        store.put(f"{prefix}/{file.relative_to(folder)}", file)
    return {"uri": f"s3://{bucket}/{prefix}", "digest": source_digest(folder)}


def bucket_of(namespace: Kubectl) -> tuple[S3Store, str]:
    """Return a client of the namespace's bucket, with the namespace's own keys, and its name."""
    secret = namespace.get("secret", "lepton-store") or {}
    values = {key: base64.b64decode(text).decode() for key, text in secret["data"].items()}
    service = namespace.within(SYSTEM).get("service", f"{RELEASE}-store") or {}
    bucket = values["url"].removeprefix("s3://")
    store = S3Store(
        bucket,
        # The service's address: this process does not use the cluster's DNS.
        endpoint=f"http://{service['spec']['clusterIP']}:7070",
        region=values["region"],
        access_key_id=values["accessKey"],
        secret_access_key=values["secretKey"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    return store, bucket
