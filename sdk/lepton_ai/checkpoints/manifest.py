"""What makes a checkpoint exist, and which checkpoints count.

Below the place's address, `<run>/`:

- `step-000000120/attempt-1-0/`: what attempt 1, generation 0 saved at the end of step 120; its
  `manifest.json` comes last, and without it there is no checkpoint;
- `attempts/attempt-1-0.json`: written when that attempt begins, and says where it went on from.
  Earlier attempts are closed from then on: what they still write is not on its line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Annotated, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from lepton_ai.record import Document

MANIFEST = "manifest.json"
ATTEMPTS = "attempts"

_CHECKPOINT = re.compile(r"step-(\d{9,})/attempt-(\d+)-(\d+)/(.+)")
_ATTEMPT = re.compile(ATTEMPTS + r"/attempt-(\d+)-(\d+)\.json")
_NAME = r"(?!\.{1,2}\Z)[A-Za-z0-9_.][A-Za-z0-9_.-]{0,254}"
_FOLDER = r"step-\d{9,18}/attempt-\d{1,9}-\d{1,9}"

Count = Annotated[int, Field(ge=0)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_.-]*$", max_length=255)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def is_file(path: str) -> bool:
    """Tell whether this is, in form, the path of a file below a run's folder."""
    return bool(re.fullmatch(f"{_FOLDER}/{_NAME}", path) or _ATTEMPT.fullmatch(path))


def is_folder(path: str) -> bool:
    """Tell whether this is, in form, the folder of a checkpoint."""
    return re.fullmatch(_FOLDER, path) is not None


class CheckpointError(Exception):
    """A checkpoint that cannot be used or made; its text is a sentence for people."""


class AttemptClosedError(CheckpointError):
    """A later attempt has begun: what this one saves counts no more."""


class Attempt(NamedTuple):
    """Who saves: a gang of ranks between two of its (re)starts. Later ones compare greater."""

    number: int
    generation: int

    def __str__(self) -> str:
        return f"{self.number}-{self.generation}"

    @property
    def record(self) -> str:
        """The path of what says that it has begun."""
        return f"{ATTEMPTS}/attempt-{self}.json"


class Place(NamedTuple):
    """Where a checkpoint lies in its run: whose it is, and of the end of which step."""

    step: int
    attempt: Attempt

    def __str__(self) -> str:
        return f"step {self.step} of attempt {self.attempt}"

    @property
    def folder(self) -> str:
        return f"step-{self.step:09d}/attempt-{self.attempt}"

    @property
    def manifest(self) -> str:
        return f"{self.folder}/{MANIFEST}"


class Beginning(Document):
    """How an attempt began: with the checkpoint that it went on from, if there was one."""

    created: datetime
    step: Count | None = None
    attempt: Count | None = None
    generation: Count | None = None

    @property
    def base(self) -> Place | None:
        if self.step is None or self.attempt is None or self.generation is None:
            return None
        return Place(self.step, Attempt(self.attempt, self.generation))

    def encoded(self) -> bytes:
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            return None


class DataPosition(Document):
    """Samples that all ranks together have trained on since the first step, and in which epoch."""

    samples: Count
    epoch: Count


class StoredFile(Document):
    path: FileName
    sha256: Sha256
    size_bytes: Count


class Manifest(Document):
    """What a checkpoint holds."""

    step: Count
    attempt: Count
    generation: Count
    world_size: Annotated[int, Field(ge=1)]
    model_fingerprint: str
    data_position: DataPosition | None = None
    created: datetime
    save_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    files: Annotated[tuple[StoredFile, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_are_different(self) -> Self:
        if len({file.path for file in self.files}) < len(self.files):
            raise ValueError("two files have one name")
        return self

    @property
    def place(self) -> Place:
        return Place(self.step, Attempt(self.attempt, self.generation))

    def encoded(self) -> bytes:
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=2).encode()

    @classmethod
    def parse(cls, content: bytes | None, place: Place) -> Self:
        """Read the manifest that lies at a place; raise CheckpointError with what is wrong."""
        if content is None:
            raise CheckpointError(f"The checkpoint of {place} has no manifest any more.")
        try:
            manifest = cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            what = f"{where}: {first['msg']}" if where else first["msg"]
            raise CheckpointError(
                f"The checkpoint of {place} has no readable manifest ({what})."
            ) from None
        if manifest.place != place:
            raise CheckpointError(
                f"The checkpoint of {place} has the manifest of {manifest.place}."
            )
        return manifest


class Contents(NamedTuple):
    """What the paths in a run's folder say."""

    complete: frozenset[Place]
    """With a manifest, whatever it is worth."""
    incomplete: frozenset[Place]
    attempts: frozenset[Attempt]

    @classmethod
    def of(cls, paths: Iterable[str]) -> Self:
        complete, seen, attempts = set(), set(), set()
        for path in paths:
            if found := _CHECKPOINT.fullmatch(path):
                step, number, generation = map(int, found.groups()[:3])
                place = Place(step, Attempt(number, generation))
                seen.add(place)
                if found[4] == MANIFEST:
                    complete.add(place)
            elif found := _ATTEMPT.fullmatch(path):
                attempts.add(Attempt(int(found[1]), int(found[2])))
        return cls(frozenset(complete), frozenset(seen - complete), frozenset(attempts))


def line_of(
    last: Attempt | None, complete: Iterable[Place], beginnings: Mapping[Attempt, Beginning | None]
) -> Iterator[Place]:
    """Yield the checkpoints that led to an attempt's last step, newest first.

    Those of the attempt itself, then the one that it began with and those before it, and so on. A
    checkpoint that an attempt completed after it was closed is on no line.
    """
    places = sorted(complete, reverse=True)
    latest_step: float = math.inf
    while last is not None:
        yield from (each for each in places if each.attempt == last and each.step <= latest_step)
        beginning = beginnings.get(last)
        if beginning is None:  # unreadable: whatever lies before it may be its base
            last = max((each for each in beginnings if each < last), default=None)
            continue
        base = beginning.base
        if base is None or base.attempt >= last:
            return
        last, latest_step = base.attempt, base.step
