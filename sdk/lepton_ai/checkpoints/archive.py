"""A run's checkpoints: which there are, whether they are whole, and which may go."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from lepton_ai.checkpoints.manifest import (
    Attempt,
    AttemptClosedError,
    Beginning,
    CheckpointError,
    Contents,
    Manifest,
    Place,
    StoredFile,
    line_of,
)
from lepton_ai.checkpoints.storage import Storage, sha256_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """A checkpoint that an attempt may begin with, or why it may not.

    Attributes:
        place: where it lies.
        manifest: None if it has none that can be read.
        problem: a sentence; empty if nothing is known against it yet.
        counts: whether it led to where the training is; its loss would be felt.

    """

    place: Place
    manifest: Manifest | None
    problem: str = ""
    counts: bool = True


@dataclass(frozen=True)
class Archive:
    """All checkpoints of one run."""

    storage: Storage

    # Before an attempt

    def next_attempt(self) -> Attempt:
        """Return an attempt after all others, where nobody else counts them (on a laptop)."""
        known = self._contents().attempts
        return Attempt(max((each.number for each in known), default=-1) + 1, 0)

    def offers(self, attempt: Attempt) -> Iterator[Offer]:
        """Yield what an attempt may begin with, newest first; those that never count, too.

        Raises:
            AttemptClosedError: a later attempt has begun.

        """
        contents = self._contents()
        self._check_open(attempt, contents)
        earlier = {each: self._beginning(each) for each in contents.attempts if each < attempt}
        counting = list(line_of(max(earlier, default=None), contents.complete, earlier))
        yield from self._never_counting(contents, counting)
        for place in counting:
            try:
                yield Offer(place, Manifest.parse(self.storage.get(place.manifest), place))
            except CheckpointError as error:
                yield Offer(place, None, str(error))

    def _never_counting(self, contents: Contents, counting: list[Place]) -> Iterator[Offer]:
        newest = counting[0].step if counting else -1
        for place in sorted(contents.incomplete, reverse=True):
            if place.step > newest:
                sentence = f"The checkpoint of {place} has no manifest: its save never ended."
                yield Offer(place, None, sentence, counts=False)
        for place in sorted(contents.complete.difference(counting), reverse=True):
            if place.step > newest:
                sentence = (
                    f"The checkpoint of {place} was completed after that attempt was closed: it "
                    "does not count."
                )
                yield Offer(place, None, sentence, counts=False)

    def check_files(self, manifest: Manifest, part: int = 0, parts: int = 1) -> None:
        """Read one of `parts` of a checkpoint's files; raise CheckpointError if one is damaged."""
        for file in manifest.files[part::parts]:
            self._check_file(manifest.place, file)

    def _check_file(self, place: Place, file: StoredFile) -> None:
        path = f"{place.folder}/{file.path}"
        found_bytes = self.storage.size_bytes(path)
        if found_bytes is None:
            raise CheckpointError(f"The checkpoint of {place} lacks its file {file.path}.")
        if found_bytes != file.size_bytes:
            raise CheckpointError(
                f"The checkpoint of {place} is damaged: {file.path} has {found_bytes} bytes, not "
                f"{file.size_bytes}."
            )
        if sha256_of(self.storage, path, file.size_bytes) != file.sha256:
            raise CheckpointError(
                f"The checkpoint of {place} is damaged: the sha256 of {file.path} is another one."
            )

    def interruptions(self, since: int, attempt: Attempt) -> tuple[int, float]:
        """Count what ended attempts before this one, from number `since` on; in how many seconds.

        Ranks that are started again in their pods are an attempt of the next generation.
        """
        earlier = [each for each in self._contents().attempts if (since, 0) <= each < attempt]
        known = filter(None, map(self._beginning, earlier))
        first = min((each.created for each in known), default=None)
        if first is None:
            return 0, 0.0
        return len(earlier), max(0.0, (datetime.now(UTC) - first).total_seconds())

    # An attempt

    def begin(self, attempt: Attempt, base: Place | None) -> None:
        """Close all earlier attempts: from now on only this one's checkpoints count.

        Raises:
            CheckpointError: somebody else has begun as this very attempt.

        """
        beginning = Beginning(created=datetime.now(UTC))
        if base is not None:
            beginning = Beginning(
                created=beginning.created,
                step=base.step,
                attempt=base.attempt.number,
                generation=base.attempt.generation,
            )
        if not self.storage.put_new(attempt.record, beginning.encoded()):
            raise CheckpointError(
                f"Attempt {attempt} has begun already at {self.storage.url}: two trainings, or two "
                "Checkpointers of one, share this place. Give each a uri of its own."
            )

    def publish(self, manifest: Manifest) -> None:
        """Make a checkpoint exist, once all its files are seen to be there.

        Raises:
            CheckpointError: a file is not there for this process, or the manifest is.
            AttemptClosedError: a later attempt has begun.

        """
        for file in manifest.files:
            if self.storage.size_bytes(f"{manifest.place.folder}/{file.path}") != file.size_bytes:
                raise CheckpointError(
                    f"The checkpoint of {manifest.place} lacks {file.path}, which another rank has "
                    f"written: the ranks do not share {self.storage.url}. Give a volume that all "
                    "nodes mount (ReadWriteMany), or an object store."
                )
        self._check_open(manifest.place.attempt, self._contents())
        if not self.storage.put_new(manifest.place.manifest, manifest.encoded()):
            raise CheckpointError(
                f"There is a checkpoint of {manifest.place} already; it stays as it is."
            )

    def discard(self, place: Place) -> None:
        """Remove what a failed save has left, so that its space can be used again."""
        self.storage.remove_folder(place.folder)

    def retain(self, keep: int, newest: Manifest) -> None:
        """Keep the last few checkpoints that led to the newest one, and remove the rest.

        Those of another model are somebody's mistake, but their owner's: they stay.

        Raises:
            AttemptClosedError: a later attempt has begun, and nothing was removed.

        """
        contents = self._contents()
        attempt = newest.place.attempt
        self._check_open(attempt, contents)
        beginnings = {each: self._beginning(each) for each in contents.attempts}
        kept = list(line_of(attempt, contents.complete, beginnings))[:keep]
        for place in (contents.complete | contents.incomplete).difference(kept, {newest.place}):
            if not self._is_foreign(place, newest.model_fingerprint):
                self.storage.remove_folder(place.folder)

    def _is_foreign(self, place: Place, fingerprint: str) -> bool:
        try:
            found = Manifest.parse(self.storage.get(place.manifest), place)
        except CheckpointError:
            return False
        return found.model_fingerprint != fingerprint

    # What is there

    def _contents(self) -> Contents:
        return Contents.of(self.storage.paths())

    def _beginning(self, attempt: Attempt) -> Beginning | None:
        return Beginning.parse(self.storage.get(attempt.record) or b"")

    def _check_open(self, attempt: Attempt, contents: Contents) -> None:
        latest = max(contents.attempts, default=attempt)
        if latest > attempt:
            raise AttemptClosedError(
                f"Attempt {attempt} is closed: attempt {latest} has begun at {self.storage.url}. "
                "This one ends."
            )
