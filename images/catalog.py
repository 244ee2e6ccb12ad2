"""What each image is made of, and the reference that follows from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.progress import Progress
from images import keda_programs, mnist, prometheus_server, rootfs, store_server
from images.errors import ImageError

ROOT = Path(__file__).parent.parent
PREFIX = "localhost/lepton"


@dataclass(frozen=True)
class Artefact:
    """Something that an image holds and this machine makes, and what decides its content."""

    make: Callable[[Path, Progress], None]
    """Writes it into a folder, which becomes the folder of this name in the build context."""
    folder: str
    decided_by: tuple[str, ...] = ()
    """Files and folders of this repository, beside those in the image's own folder."""
    sha256: str = ""
    """Of its content, where that is known beforehand."""


@dataclass(frozen=True)
class Image:
    name: str
    parent: str | None
    duration: str
    """How long a first build takes on two cores, for people."""
    sources: tuple[str, ...] = ()
    """Files and folders of this repository that the Dockerfile copies, by their paths in it."""
    artefacts: tuple[Artefact, ...] = ()
    everyday: bool = True
    """Whether it is built without being asked for by name."""

    @property
    def folder(self) -> str:
        return f"images/{self.name}"


_MNIST = Artefact(mnist.make, "datasets", sha256=mnist.SHA256)
_SDK = ("sdk/lepton_ai", "sdk/lepton_launcher")

IMAGES = {
    image.name: image
    for image in (
        Image(
            "debian",
            parent=None,
            duration="a minute",
            artefacts=(Artefact(rootfs.make, "rootfs"),),
        ),
        Image("base", parent="debian", duration="seconds"),
        Image("torch", parent="base", duration="4 minutes", sources=("locks/torch.txt",)),
        Image(
            "agent",
            parent="base",
            duration="half a minute",
            sources=("locks/agent.txt", *_SDK),
            artefacts=(_MNIST,),
        ),
        Image("triton", parent="base", duration="half a minute"),
        Image("sleeper", parent="triton", duration="seconds"),
        Image("door", parent="base", duration="half a minute"),
        Image(
            "store",
            parent="base",
            duration="a minute",
            artefacts=(Artefact(store_server.make, "bin", store_server.DECIDED_BY),),
        ),
        Image(
            "prometheus",
            parent="base",
            duration="4 minutes",
            artefacts=(Artefact(prometheus_server.make, "bin", prometheus_server.DECIDED_BY),),
        ),
        Image(
            "keda",
            parent="base",
            duration="10 minutes",
            artefacts=(Artefact(keda_programs.make, "bin", keda_programs.DECIDED_BY),),
            everyday=False,
        ),
        Image(
            "operator",
            parent="base",
            duration="half a minute",
            sources=("locks/operator.txt", "operator/lepton_operator"),
        ),
        Image(
            "trainer",
            parent="torch",
            duration="a minute",
            sources=("locks/sdk.txt", *_SDK),
            artefacts=(_MNIST,),
        ),
    )
}
"""Parents before children."""


@dataclass(frozen=True)
class File:
    """An input as it was when it was read: what is named by it is also made of it."""

    path: str
    """In the repository and in the build context."""
    content: bytes
    is_program: bool


def references(base: str | None = None, root: Path = ROOT) -> dict[str, str]:
    """The reference of every image, by name, whether it is built or not.

    With `base`, images stand on that one instead of on our own Debian.
    """
    return named({image.name: read(image, root) for image in IMAGES.values()}, base)


def named(inputs: Mapping[str, Sequence[File]], base: str | None = None) -> dict[str, str]:
    """The references that follow from these inputs, by the image's name."""
    found: dict[str, str] = {}
    for image in IMAGES.values():
        if base is not None and image.parent is None:
            found[image.name] = base
        else:
            parent = found[image.parent] if image.parent else "scratch"
            tag = _content_hash(image, inputs[image.name], parent)[:16]
            found[image.name] = f"{PREFIX}/{image.name}:{tag}"
    return found


def read(image: Image, root: Path = ROOT) -> list[File]:
    """Every file that decides the image, without what Python and editors leave beside them."""
    return [
        File(path, (root / path).read_bytes(), bool((root / path).stat().st_mode & 0o100))
        for path in _paths(image, root)
    ]


def lineage(name: str) -> list[str]:
    """The image and all it stands on, the lowest first."""
    try:
        image = IMAGES[name]
    except KeyError:
        raise ImageError(f"There is no image {name!r}; there are {', '.join(IMAGES)}.") from None
    return [*(lineage(image.parent) if image.parent else []), name]


def _paths(image: Image, root: Path) -> Iterator[str]:
    made_from = (path for artefact in image.artefacts for path in artefact.decided_by)
    for path in (image.folder, *image.sources, *made_from):
        whole = root / path
        if not whole.exists():
            raise ImageError(f"{path} is an input of an image, but there is no such file.")
        for file in sorted(whole.rglob("*")) if whole.is_dir() else [whole]:
            inner = file.relative_to(whole).parts
            if file.is_file() and not any(_is_leftover(part) for part in inner):
                yield str(file.relative_to(root))


def _content_hash(image: Image, inputs: Iterable[File], parent: str) -> str:
    digest = hashlib.sha256()
    _add(digest.update, "parent", parent.encode())
    for artefact in image.artefacts:
        _add(digest.update, f"artefact {artefact.folder}", artefact.sha256.encode())
    for file in inputs:
        _add(digest.update, f"{file.path} {file.is_program}", file.content)
    return digest.hexdigest()


def _is_leftover(part: str) -> bool:
    return part == "__pycache__" or part.startswith(".") or part.endswith((".pyc", "~"))


def _add(update: Callable[[bytes], None], name: str, content: bytes) -> None:
    """Lengths keep one file's end apart from the next one's beginning."""
    for part in (name.encode(), content):
        update(len(part).to_bytes(8, "big") + part)
