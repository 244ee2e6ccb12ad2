"""Saves a training while it goes on, and goes on from what was saved."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.optim import Optimizer

from lepton_ai import lineage
from lepton_ai.checkpoints.archive import Archive, Offer
from lepton_ai.checkpoints.cost import SaveMeter
from lepton_ai.checkpoints.distributed import Reader, Writer
from lepton_ai.checkpoints.gang import Gang, Wishes
from lepton_ai.checkpoints.interval import FailureRate, Interval, best_interval
from lepton_ai.checkpoints.manifest import (
    Attempt,
    AttemptClosedError,
    CheckpointError,
    DataPosition,
    Manifest,
    Place,
    StoredFile,
)
from lepton_ai.checkpoints.sampler import GlobalSampler
from lepton_ai.checkpoints.settings import AUTO, Settings
from lepton_ai.checkpoints.state import Stateful, TrainingState, random_state, set_random_state
from lepton_ai.curves import Curves
from lepton_launcher.board import of_this_process
from lepton_launcher.ending import leave_out_garbage

RETRY_SECONDS = 10.0
LAST_SAVE_TRIES = 3

logger = logging.getLogger(__name__)


class Board(Protocol):
    """Where a rank says how far it is."""

    def enter(self, phase: str) -> None: ...

    def resume(self, step: int) -> None: ...

    def finish_step(
        self,
        step: int,
        *,
        total_steps: int | None,
        samples: int | None,
        metrics: Mapping[str, float] | None,
    ) -> None: ...

    def finish_checkpoint(self, step: int, seconds: float) -> None: ...

    def offer_to_save(self) -> None: ...

    def leave(self) -> None: ...


@dataclass
class _Save:
    """A save under way."""

    place: Place
    position: DataPosition | None
    began: float
    ended: float = 0.0
    outcome: Future[BaseException | None] = field(default_factory=Future)


class Checkpointer:
    """Saves in the background, all ranks at the end of one agreed step; restores what is whole.

    ::

        with Checkpointer(model=model, optimizer=optimizer, sampler=sampler) as checkpointer:
            step = checkpointer.restore()
            for inputs, labels in DataLoader(dataset, batch_sampler=sampler):
                ...
                optimizer.step()
                step += 1
                checkpointer.step(step)

    All ranks make one together, after `init_process_group`. Whatever is not given comes from the
    operator's environment; on a laptop checkpoints lie in `./checkpoints`.

    Args:
        model: the model, wrapped for data parallelism or sharded or neither.
        optimizer: one or several, of the model's parameters.
        sampler: whose position is saved, and moved on by `step`.
        uri: `file:///folder`, or a prefix in an object store.
        interval_seconds: from one save's begin to the next one's; "auto" wastes least.
        keep: complete checkpoints that stay.
        board: where to report; by default to the launcher, where there is one.
        curves: of the metrics that `step` is given; saved and restored with the rest.
        objects: whatever else has a state, by a name of your choice: `scheduler=scheduler`. Their
            states are those of rank 0.

    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer] = (),
        sampler: GlobalSampler | None = None,
        uri: str | None = None,
        interval_seconds: float | Literal["auto"] | None = None,
        keep: int | None = None,
        board: Board | None = None,
        curves: Curves | None = None,
        **objects: Stateful,
    ) -> None:
        settings = Settings.from_environment(os.environ)
        if interval_seconds is not None:
            seconds = None if interval_seconds == AUTO else float(interval_seconds)
            settings = replace(settings, interval_seconds=seconds)
        self._settings = replace(settings, keep=keep or settings.keep)
        self._archive = Archive(self._settings.storage(uri))
        self._gang = Gang()
        optimizers = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
        self._curves = curves or Curves()
        stateful = {**objects, "curves": self._curves}
        if sampler is not None:
            stateful["sampler"] = sampler
        self._state = TrainingState(model, optimizers, stateful, self._gang.rank)
        self._fingerprint = self._state.fingerprint()
        self._sampler = sampler
        self._board = board or of_this_process()
        self._meter = SaveMeter()
        self._failures = self._settings.failures
        self._attempt: Attempt | None = None
        self._begin_step = 0
        self._last_step = 0
        self._last_saved = 0
        self._newest: Place | None = None
        self._saving: _Save | None = None
        self._closed: AttemptClosedError | None = None
        self._next_save = 0.0
        if not self._gang.is_distributed:
            # DCP says at each save and load that it works in one process: that is what was asked.
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Save the last step of a loop that ended well; after one that failed, leave at once."""
        if kind is None:
            self._save_last_step()
            self._hand_over()
        if self._saving is None and not self._gang.is_agreeing:
            self._gang.close()

    # Going on

    def restore(self) -> int:
        """Load the newest checkpoint that is whole; return the steps done, 0 without one.

        Raises:
            CheckpointError: there are checkpoints, and none can be used.
            AttemptClosedError: a later attempt has begun.

        """
        if self._attempt is not None:
            raise RuntimeError("restore() has been called already: once is enough.")
        self._enter("restoring")
        attempt = self._settings.attempt or self._gang.from_leader(self._archive.next_attempt)
        offers = self._gang.from_leader(lambda: list(self._archive.offers(attempt)))
        refused: list[str] = []
        for manifest in self._usable(offers, refused):
            self._begin(attempt, manifest.place)
            problems = self._gang.all_problems(partial(self._load, manifest))
            if not problems:
                return self._went_on_from(manifest)
            refused.append(f"The checkpoint of {manifest.place} cannot be loaded: {problems[0]}")
            self._say(logging.WARNING, refused[-1])
        if refused:
            raise CheckpointError(
                f"None of the checkpoints at {self._archive.storage.url} can be used. "
                f"{' '.join(refused)} Remove them, or give another uri, to begin anew."
            )
        self._begin(attempt, None)
        self._enter("training")
        return 0

    def _usable(self, offers: list[Offer], refused: list[str]) -> Iterator[Manifest]:
        """Yield those that are whole and of this model; say why the others are not."""
        for offer in offers:
            problem = offer.problem or self._problem_of(offer)
            if offer.manifest is not None and not problem:
                yield offer.manifest
                continue
            self._say(logging.WARNING, problem)
            if offer.counts:
                refused.append(problem)

    def _problem_of(self, offer: Offer) -> str:
        manifest = offer.manifest
        if manifest is None:
            return ""
        if manifest.model_fingerprint != self._fingerprint:
            return (
                f"The checkpoint of {offer.place} is of another model: its parameters have other "
                "names, shapes or types."
            )
        check = partial(self._archive.check_files, manifest, self._gang.rank, self._gang.world_size)
        problems = self._gang.all_problems(check)
        return str(problems[0]) if problems else ""

    def _begin(self, attempt: Attempt, base: Place | None) -> None:
        if self._attempt is None:
            self._gang.from_leader(lambda: self._archive.begin(attempt, base))
            self._attempt = attempt
            if self._board is not None:
                self._board.offer_to_save()
            self._failures = self._gang.from_leader(partial(self._failures_before, attempt))
        self._next_save = time.monotonic() + self._interval().seconds
        self._meter.step_began(time.monotonic())

    def _failures_before(self, attempt: Attempt) -> FailureRate:
        """Add what ended earlier attempts since the operator told how often this job fails."""
        since = self._settings.failures_until
        if since is None:
            return self._settings.failures
        return self._settings.failures.after(*self._archive.interruptions(since, attempt))

    def _load(self, manifest: Manifest) -> None:
        reader = Reader(self._archive.storage, manifest.place.folder)
        keys = self._gang.from_leader(lambda: list(reader.read_metadata().state_dict_metadata))
        tree = self._state.template(keys)
        dcp.load(
            tree,
            storage_reader=reader,
            process_group=self._gang.asking,
            no_dist=not self._gang.is_distributed,
        )
        self._state.put_back(tree)
        if missing := self._state.missing(keys):
            self._say(
                logging.WARNING,
                f"The checkpoint of {manifest.place} has no state of {', '.join(missing)}: it "
                "stays as it is now.",
            )

    def _went_on_from(self, manifest: Manifest) -> int:
        self._begin_step = self._last_step = self._last_saved = manifest.step
        self._newest = manifest.place
        if self._sampler is not None:
            # A DataLoader draws a number when its iteration begins, and this run has one beginning
            # more than one that was never interrupted.
            self._sampler.before_first_batch = partial(set_random_state, random_state())
        self._say(logging.INFO, f"Training goes on from {manifest.place}.")
        if self._board is not None:
            self._board.resume(manifest.step)
        self._enter("training")
        return manifest.step

    # Training

    def step(
        self, step: int, *, batches: int = 1, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Say that `step` is done; all ranks call it at the end of each step.

        A save that is due begins here. Where the ranks were asked to save and leave, the process
        ends here with exit code 0 (SystemExit).

        Args:
            step: steps done since the training's first one.
            batches: of the sampler that the step took (gradient accumulation: more than one).
            metrics: to be reported, and added to the curves.

        Raises:
            AttemptClosedError: a later attempt has begun; this one must end.
            CheckpointError: it was to save and leave, and could not save.

        """
        if self._attempt is None:
            raise RuntimeError("Call restore() before the first step, in all ranks.")
        self._meter.step_ended(time.monotonic())
        self._last_step = step
        if self._sampler is not None:
            self._sampler.advance(batches)
        if metrics:
            self._curves.add(step, metrics)
        self._report_step(batches, metrics)
        self._collect()
        agreed = self._gang.agreed()
        if agreed.closed:
            self._end_closed()
        if agreed.leave_at and step >= agreed.leave_at:
            self._save_and_leave()
        if agreed.save and not agreed.busy:
            self._begin_save(self._attempt)
        self._gang.propose(self._wishes())
        self._meter.step_began(time.monotonic())

    def _wishes(self) -> Wishes:
        due = self._gang.leads and time.monotonic() >= self._next_save
        return Wishes(
            save=int(due),
            leave_at=self._leave_at(),
            busy=int(self._saving is not None),
            closed=int(self._closed is not None),
        )

    def _leave_at(self) -> int:
        """Return the step that the launcher wants to be the last; 0 if it wants none."""
        try:
            asked = json.loads(self._settings.save_request.read_bytes())
            step = int(asked["step"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        # One that is not after the step we began with was meant for those before us.
        return step if step > self._begin_step else 0

    def _begin_save(self, attempt: Attempt) -> _Save:
        position = self._sampler.position if self._sampler is not None else None
        save = _Save(Place(self._last_step, attempt), position, time.monotonic())
        writer = Writer(
            self._archive.storage,
            save.place.folder,
            self._gang.rank,
            partial(self._publish, save),
        )
        written = dcp.async_save(
            self._state.tree(),
            storage_writer=writer,
            # What ranks hold in common is rank 0's: buffers such as a batch norm's differ between
            # them until the next forward pass hands out those of rank 0.
            planner=DefaultSavePlanner(dedup_save_to_lowest_rank=True),
            process_group=self._gang.saving,
            no_dist=not self._gang.is_distributed,
        )
        self._saving = save
        now = time.monotonic()
        self._meter.save_began(now, now - save.began)
        written.add_done_callback(partial(self._ended, save))
        return save

    # In the save's own thread

    def _publish(self, save: _Save, files: tuple[StoredFile, ...]) -> None:
        manifest = Manifest(
            step=save.place.step,
            attempt=save.place.attempt.number,
            generation=save.place.attempt.generation,
            world_size=self._gang.world_size,
            model_fingerprint=self._fingerprint,
            data_position=save.position,
            created=datetime.now(UTC),
            save_seconds=time.monotonic() - save.began,
            files=files,
        )
        self._archive.publish(manifest)
        try:
            self._archive.retain(self._settings.keep, manifest)
        except CheckpointError as error:
            logger.warning("Older checkpoints are not removed: %s", error)

    def _ended(self, save: _Save, written: Future[Any]) -> None:
        save.ended = time.monotonic()
        error = _cause(written.exception())
        if error is not None and self._gang.leads:
            try:
                self._archive.discard(save.place)
            except CheckpointError as problem:
                logger.warning("What the failed save has left stays: %s", problem)
        save.outcome.set_result(error)

    # In the main thread again

    def _collect(self) -> None:
        if self._saving is not None and self._saving.outcome.done():
            self._finish(self._saving)

    def _finish(self, save: _Save) -> BaseException | None:
        """Wait for a save; report how it went, and when the next one is due."""
        error = save.outcome.result()
        self._saving = None
        if error is None:
            self._succeeded(save)
        else:
            self._failed(save, error)
        return error

    def _succeeded(self, save: _Save) -> None:
        seconds = save.ended - save.began
        self._last_saved, self._newest = save.place.step, save.place
        self._meter.save_ended(seconds)
        if self._board is not None:
            self._board.finish_checkpoint(save.place.step, seconds)
        self._tell_problem("")
        interval = self._interval()
        self._next_save = save.began + interval.seconds
        self._say(
            logging.INFO,
            f"The checkpoint of step {save.place.step} is complete after {seconds:.3g} s. Saved "
            f"each {interval.because}.",
        )

    def _failed(self, save: _Save, error: BaseException) -> None:
        self._meter.save_failed()
        if isinstance(error, AttemptClosedError):
            self._closed = error
            return
        retry_seconds = min(RETRY_SECONDS, self._interval().seconds)
        self._next_save = time.monotonic() + retry_seconds
        sentence = (
            f"The checkpoint of step {save.place.step} could not be saved: {error} The last good "
            f"one is {self._last_good()}; training goes on, and it is tried again in "
            f"{retry_seconds:.0f} s."
        )
        self._say(logging.WARNING, sentence)
        self._tell_problem(sentence)

    def _last_good(self) -> str:
        return f"of step {self._last_saved}" if self._last_saved else "none yet"

    def _interval(self) -> Interval:
        seconds = self._settings.interval_seconds
        if seconds is not None:
            return Interval(seconds, f"{seconds:.3g} s, as asked")
        return best_interval(self._meter.cost(), self._failures.mtbf_seconds(nodes=1))

    # The end

    def _end_closed(self) -> None:
        """Raise in all ranks at one step: one that ends alone looks like a crash to the others."""
        if self._saving is not None:
            self._finish(self._saving)
        if self._closed is not None:
            raise self._closed

    def _save_and_leave(self) -> None:
        self._enter("checkpointing")
        error = self._save_now()
        if error is not None:
            raise CheckpointError(
                f"Asked to save and leave, but step {self._last_step} could not be saved: {error} "
                f"The last good checkpoint is {self._last_good()}."
            )
        if self._board is not None:
            self._board.leave()
        self._say(logging.INFO, f"Step {self._last_step} is saved; leaving, as asked.")
        leave_out_garbage()
        raise SystemExit(0)

    def _save_last_step(self) -> None:
        self._gang.agreed()
        self._enter("checkpointing")
        if self._attempt is not None and self._save_now() is not None:
            self._say(logging.ERROR, "The last step could not be saved; its result stays.")
        self._enter("done")

    def _save_now(self) -> BaseException | None:
        """Save the last step unless that is done, and wait; return what prevents it."""
        if self._saving is not None:
            self._finish(self._saving)
        error: BaseException | None = None
        for tries in range(LAST_SAVE_TRIES):
            if self._last_saved == self._last_step or self._attempt is None:
                return None
            time.sleep(2**tries - 1)
            error = self._finish(self._begin_save(self._attempt))
            self._end_closed()
        return error

    # Telling

    def _hand_over(self) -> None:
        """Leave the curves, and which checkpoint was the last, where a launcher collects them."""
        folder = os.environ.get("LEPTON_OUTPUT_DIR")
        if not (folder and self._gang.leads):
            return
        self._curves.write(Path(folder))
        try:
            content = self._newest and self._archive.storage.get(self._newest.manifest)
            if self._newest and content:
                digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
                last = lineage.Checkpoint(step=self._newest.step, digest=digest)
                lineage.tell_checkpoint(Path(folder), last)
        except (CheckpointError, OSError) as error:
            logger.warning("The last checkpoint is not recorded in the lineage: %s", error)

    def _enter(self, phase: str) -> None:
        if self._board is not None:
            self._board.enter(phase)

    def _report_step(self, batches: int, metrics: Mapping[str, float] | None) -> None:
        if self._board is None:
            return
        sampler = self._sampler
        self._board.finish_step(
            self._last_step,
            total_steps=None if sampler is None else self._last_step + len(sampler) // batches,
            samples=None if sampler is None else sampler.position.samples,
            metrics=metrics,
        )

    def _tell_problem(self, sentence: str) -> None:
        """Leave it for the sidecar, where there is one; nothing once it is over."""
        if not self._gang.leads:
            return
        file = self._settings.problem
        partial_file = file.with_name(f".{file.name}")
        try:
            if sentence:
                partial_file.write_text(sentence)
                partial_file.replace(file)
            else:
                file.unlink(missing_ok=True)
        except OSError:
            logger.debug("Nobody is told at %s.", file)

    def _say(self, level: int, sentence: str) -> None:
        """Log in one rank what all of them know."""
        if self._gang.leads:
            logger.log(level, "%s", sentence)


def _cause(error: BaseException | None) -> BaseException | None:
    """Return what a rank raised inside torch.distributed.checkpoint."""
    if isinstance(error, CheckpointException) and error.failures:
        first: BaseException = next(iter(error.failures.values()))[0]
        return first
    return error
