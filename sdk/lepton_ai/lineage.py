"""Where a model comes from, as far as only its script knows: its data, and its last checkpoint.

Rank 0 leaves it as `lineage.json` in the output folder; it becomes a part of the version's lineage.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field, StringConstraints, ValidationError

from lepton_ai.record import Document

FILE = "lineage.json"
MAX_BYTES = 65_536
MOST_DATA = 32

logger = logging.getLogger(__name__)

Count = Annotated[int, Field(ge=0, lt=2**53)]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class Samples(Protocol):
    """A data set of `lepton_ai.datasets`, or a part of one."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...


class Data(Document):
    """What was trained on."""

    name: Name
    digest: Digest
    samples: Count


class Checkpoint(Document):
    """The last checkpoint; the digest is that of its manifest, which has those of its files."""

    step: Count
    digest: Digest


class Lineage(Document):
    """What a script told."""

    data: Annotated[tuple[Data, ...], Field(max_length=MOST_DATA)] | None = None
    checkpoint: Checkpoint | None = None


def tell_data(folder: Path, datasets: Iterable[Samples]) -> None:
    """Say what the training has seen; nothing is written but by rank 0."""
    told = tuple(Data(name=each.name, digest=each.digest, samples=len(each)) for each in datasets)
    _tell(folder, read(folder).model_copy(update={"data": told}))


def tell_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Say which checkpoint the training ended with; nothing is written but by rank 0."""
    _tell(folder, read(folder).model_copy(update={"checkpoint": checkpoint}))


def read(folder: Path) -> Lineage:
    """Return what was told; a file that does not fit costs a warning, and tells nothing."""
    try:
        with (folder / FILE).open("rb") as file:
            return Lineage.model_validate_json(file.read(MAX_BYTES))
    except FileNotFoundError:
        return Lineage()
    except (OSError, ValidationError):
        logger.warning("%s cannot be read: its data and checkpoint are not recorded.", FILE)
        return Lineage()


def _tell(folder: Path, lineage: Lineage) -> None:
    if os.environ.get("RANK", "0") != "0":
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(lineage.model_dump_json(by_alias=True, exclude_none=True))
