"""Models and data sets by address: copied, so that a digest is checked before they are read."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from lepton_ai import model_folder
from lepton_ai.record import FailureError, InvalidModelError, SourceNotFoundError
from lepton_ai.store import PART_BYTES, Progress, Store, StoreAddress, open_store
from lepton_ai.versions import MODEL_FILE

STORE_SCHEMES = ("s3", "gs", "az")
MOUNT = Path("/mnt/source")
TIMEOUT_SECONDS = 30.0


def fetch_model(uri: str, folder: Path, mount: Path = MOUNT) -> str:
    """Copy a model, one .onnx file or a folder with model.onnx, and return its digest."""
    if uri.endswith(".onnx") or urlsplit(uri).scheme == "https":
        fetch_file(uri, folder / MODEL_FILE, mount)
        return model_folder.source_digest(folder / MODEL_FILE)
    parts = urlsplit(uri)
    if parts.scheme in STORE_SCHEMES:
        _copy_objects(uri, folder)
    else:
        _copy_folder(uri, _local_path(uri, mount), folder)
    if not (folder / MODEL_FILE).is_file():
        raise SourceNotFoundError(
            f"There is no {MODEL_FILE} at {uri}. Name an .onnx file, or a folder that has one."
        )
    return model_folder.source_digest(folder)


def fetch_file(uri: str, target: Path, mount: Path = MOUNT) -> None:
    """Copy one file of any scheme."""
    parts = urlsplit(uri)
    if parts.scheme in STORE_SCHEMES:
        if _bucket(uri).download(unquote(parts.path).strip("/"), target) is None:
            raise _missing(uri)
    elif parts.scheme == "https":
        _download(uri, target)
    else:
        path = _local_path(uri, mount)
        if not path.is_file():
            raise _missing(uri)
        shutil.copyfile(path, target)


def _missing(uri: str) -> FailureError:
    return SourceNotFoundError(
        f"There is no file at {uri}. Check the address, and that it is there."
    )


def _bucket(uri: str) -> Store:
    parts = urlsplit(uri)
    return open_store(StoreAddress.from_environment().at(f"{parts.scheme}://{parts.netloc}"))


def _copy_objects(uri: str, folder: Path) -> None:
    store, prefix = _bucket(uri), unquote(urlsplit(uri).path).strip("/")
    for path in store.paths_below(prefix):
        name = path.removeprefix(prefix).lstrip("/")
        if model_folder.belongs_to_version(name):
            _check_inside(folder / name, folder, uri)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            store.download(path, folder / name)


def _copy_folder(uri: str, source: Path, folder: Path) -> None:
    if not source.is_dir():
        raise _missing(uri)
    for file in model_folder.files(source):
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file.path, folder / file.path)


def _local_path(uri: str, mount: Path) -> Path:
    """Return where a file:// or pvc:// address is; a claim is mounted by the operator."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if parts.scheme != "pvc":
        raise SourceNotFoundError(
            f"The address {uri} cannot be read yet: hf:// and oci:// come with a later release. "
            "Use s3://, gs://, az://, https:// or pvc://."
        )
    path = mount / unquote(parts.path).strip("/")
    _check_inside(path, mount, uri)
    return path


def _check_inside(path: Path, root: Path, uri: str) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise InvalidModelError(f"{uri} leads out of its volume or bucket. Name a path inside it.")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to an address inside the cluster that its sender cannot reach."""

    def redirect_request(  # noqa: PLR0917  # the signature is the standard library's
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> None:
        del fp, msg, newurl
        raise urllib.error.HTTPError(
            req.full_url, code, "it redirects, which is not followed", headers or Message(), None
        )


def _download(uri: str, target: Path) -> None:
    opener = urllib.request.build_opener(_NoRedirects())
    try:
        with opener.open(uri, timeout=TIMEOUT_SECONDS) as answer, target.open("wb") as file:
            size_bytes = int(answer.headers.get("Content-Length") or 0)
            parts = Progress(f"downloading {target.name}", size_bytes).over(_parts(answer))
            for part in parts:
                file.write(part)
    except OSError as error:
        raise SourceNotFoundError(
            f"{uri} cannot be downloaded ({error}). Name the address where the file itself is."
        ) from None


def _parts(answer: IO[bytes]) -> Iterator[bytes]:
    while part := answer.read(PART_BYTES):
        yield part
