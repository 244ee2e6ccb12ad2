"""Debian's smallest system with Python, from the building machine's own package mirror."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.progress import Progress
from images.errors import ImageError

RECIPE = Path(__file__).parent / "debian/rootfs.toml"


@dataclass(frozen=True)
class Recipe:
    suite: str
    packages: list[str]
    removed: list[str]
    kept_documents: list[str]


def make(folder: Path, progress: Progress) -> None:
    """Write `rootfs.tar` into the folder."""
    if shutil.which("debootstrap") is None:
        raise ImageError(
            "debootstrap is missing, which makes the base image. Install it (apt-get install "
            "debootstrap), or name an image to build on: python -m images build --base IMAGE."
        )
    recipe = Recipe(**tomllib.loads(RECIPE.read_text()))
    root = folder / "root"
    progress(f"debootstrap of Debian {recipe.suite} with {', '.join(recipe.packages)} ...")
    _debootstrap(recipe, root, folder / "log")
    _slim(recipe, root)
    _archive(root, folder / "rootfs.tar")
    shutil.rmtree(root)


def mirror(suite: str) -> str:
    """The address that this machine's own packages of the suite come from."""
    listed = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(RELEASE) $(COMPONENT) $(REPO_URI)",
            "Identifier: Packages",
        ],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    for line in listed.splitlines():
        release, component, address = line.split(maxsplit=2)
        if (release, component) == (suite, "main"):
            return address
    raise ImageError(
        f"This machine has no package source for Debian {suite}, which the base image is made "
        "of. Add one to apt's sources, or name an image to build on: "
        "python -m images build --base IMAGE."
    )


def _debootstrap(recipe: Recipe, root: Path, log: Path) -> None:
    # In a mount namespace of its own, so that a kill leaves none of its mounts behind.
    argv = ["unshare", "--mount", "debootstrap", "--variant=minbase"]
    with log.open("w") as output:
        ended = subprocess.run(
            [
                *argv,
                f"--include={','.join(recipe.packages)}",
                recipe.suite,
                str(root),
                mirror(recipe.suite),
            ],
            stdout=output,
            stderr=output,
            check=False,
        )
    if ended.returncode != 0:
        last = "\n".join(log.read_text().splitlines()[-5:])
        raise ImageError(f"debootstrap failed, so there is no base image. It ended with:\n{last}")


def _slim(recipe: Recipe, root: Path) -> None:
    for path in recipe.removed:
        folder = root / path
        if folder.is_dir():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)
    for document in (root / "usr/share/doc").glob("*/*"):
        if document.is_file() and document.name not in recipe.kept_documents:
            document.unlink()
    for needed in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log"):
        (root / needed).mkdir(parents=True, exist_ok=True)


def _archive(root: Path, archive: Path) -> None:
    subprocess.run(
        [
            "tar",
            "--create",
            "--numeric-owner",
            "--sort=name",
            "--one-file-system",
            "--exclude=./proc/*",
            "--exclude=./sys/*",
            "--exclude=./dev/*",
            "--directory",
            str(root),
            "--file",
            str(archive),
            ".",
        ],
        check=True,
    )
