"""Builds the images that are not built yet, and takes away the ones that others replaced."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from e2e.cluster import packages
from e2e.cluster.layout import cache_folder, lock
from e2e.cluster.progress import Progress, duration, say
from images import buildah, catalog, pip_configuration
from images.catalog import IMAGES, PREFIX, File, Image

_SUPERSEDED = timedelta(hours=1)
"""An image stays this long after it was last asked for: somebody may just be importing it."""
_FIXED_TIME = 946684800
"""All files of a context are from 2000-01-01: buildah's layer cache compares times too."""


def references(base: str | None = None) -> dict[str, str]:
    """The reference of every image, by name, whether it is built or not."""
    return catalog.references(base)


def build(
    names: Iterable[str] = (), progress: Progress = say, base: str | None = None
) -> dict[str, str]:
    """Build the named images, by default those of every day, and what they stand on.

    Returns the references. What is built already costs one look at the storage. Two callers never
    build at once.
    """
    wanted = list(names) or [image.name for image in IMAGES.values() if image.everyday]
    needed = {below for name in wanted for below in catalog.lineage(name)}
    packages.install(progress)  # a new machine has no buildah
    inputs = {image.name: catalog.read(image) for image in IMAGES.values()}
    found = catalog.named(inputs, base)
    _remember(found[name] for name in wanted)
    if not {found[name] for name in wanted} <= _stored() | {base}:
        with _locked():
            _remove_leftovers()
            for image in IMAGES.values():
                if image.name in needed and found[image.name] not in _stored() | {base}:
                    _build(image, inputs[image.name], found, progress)
            _remove_superseded({*found.values(), *catalog.named(inputs).values()}, progress)
    return {name: found[name] for name in wanted}


def push(
    registry: str,
    names: Iterable[str] = (),
    tag_suffix: str = "",
    progress: Progress = say,
    base: str | None = None,
) -> dict[str, str]:
    """Push the images to `<registry>/<name>:<hash><suffix>`; their references there, by name."""
    pushed = {}
    for name, reference in build(names, progress, base).items():
        tag = reference.rpartition(":")[2]
        pushed[name] = f"{registry.rstrip('/')}/{name}:{tag}{tag_suffix}"
        progress(f"{name}: pushing to {pushed[name]} ...")
        buildah.push(reference, pushed[name])
    return pushed


def _build(
    image: Image, inputs: Iterable[File], found: Mapping[str, str], progress: Progress
) -> None:
    def report(line: str) -> None:
        progress(f"{image.name}: {line}")

    began = time.monotonic()
    report(f"building (about {image.duration}, once) ...")
    with tempfile.TemporaryDirectory(
        prefix="build-", dir=_home(), ignore_cleanup_errors=True
    ) as temporary:
        context, mounted = Path(temporary, "context"), Path(temporary, "mounted")
        mounted.mkdir()
        pip_configuration.write(mounted)
        _assemble(image, inputs, context, report)
        dockerfile = context / image.folder / "Dockerfile"
        offered = {
            "BASE": found.get(image.parent or "", ""),
            "PIP_CONFIG_FILE": f"{pip_configuration.MOUNTED_AT}/pip.conf",
        }
        declared = re.findall(r"^ARG (\w+)$", dockerfile.read_text(), re.MULTILINE)
        buildah.build(
            buildah.Build(
                reference=found[image.name],
                context=context,
                dockerfile=dockerfile,
                arguments={name: offered[name] for name in declared},
                mounts={mounted: f"{pip_configuration.MOUNTED_AT}:ro"},
            ),
            _home() / f"{image.name}.log",
            report,
        )
    report(f"built in {duration(time.monotonic() - began)}: {found[image.name]}")


def _assemble(image: Image, inputs: Iterable[File], context: Path, progress: Progress) -> None:
    """Write and make everything that the image's Dockerfile may read."""
    for file in inputs:
        target = context / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)
        target.chmod(0o755 if file.is_program else 0o644)
    for artefact in image.artefacts:
        (context / artefact.folder).mkdir()
        artefact.make(context / artefact.folder, progress)
    for entry in (context, *context.rglob("*")):
        os.utime(entry, (_FIXED_TIME, _FIXED_TIME), follow_symlinks=False)


def _remove_leftovers() -> None:
    """Of builds that were killed."""
    buildah.remove_leftovers(image.parent for image in IMAGES.values() if image.parent)
    for folder in _home().glob("build-*"):
        shutil.rmtree(folder, ignore_errors=True)  # what is just being written goes the next time


def _remove_superseded(current: set[str], progress: Progress) -> None:
    """Children first: buildah keeps what something else stands on."""
    newest_first = sorted(
        buildah.stored(f"{PREFIX}/"), key=lambda image: image.created, reverse=True
    )
    before = datetime.now(UTC) - _SUPERSEDED
    old = [
        image.reference
        for image in newest_first
        if image.reference not in current and max(image.created, _asked(image.reference)) < before
    ]
    for reference in buildah.remove(old):
        _mark(reference).unlink(missing_ok=True)
        progress(f"removed {reference}, which was superseded")


def _remember(references: Iterable[str]) -> None:
    """Note that these are asked for now: another checkout may be about to remove them."""
    for reference in references:
        _mark(reference).touch()


def _asked(reference: str) -> datetime:
    """When an image was asked for last; long ago if nobody knows."""
    mark = _mark(reference)
    return datetime.fromtimestamp(mark.stat().st_mtime if mark.exists() else 0, UTC)


def _mark(reference: str) -> Path:
    folder = _home() / "asked"
    folder.mkdir(exist_ok=True)
    return folder / reference.replace("/", "_")


def _stored() -> set[str | None]:
    return {image.reference for image in buildah.stored(f"{PREFIX}/")}


def _home() -> Path:
    home = cache_folder() / "images"
    home.mkdir(parents=True, exist_ok=True)
    return home


@contextmanager
def _locked() -> Iterator[None]:
    """The storage too: it is the machine's, and others may have another cache."""
    waiting = "Another process builds images; waiting for it ..."
    with lock(_home() / ".lock", waiting), lock(buildah.storage() / "lepton.lock", waiting):
        yield
