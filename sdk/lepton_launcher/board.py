"""The board: how one rank tells the launcher of its pod where it stands.

A file of one page that the rank maps into its memory, so that a write costs microseconds and no
system call, and what a killed rank wrote last is still there. It holds two slots that are written
in turn, each with a sequence number and a checksum: a reader takes the newest one that is whole.
Nothing depends on the order in which memory becomes visible, or on the writer living on.

The rank's environment names the file in LEPTON_BOARD. A script's own code, this package's hooks and
`lepton_ai` share one writer, `of_this_process()`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import mmap
import os
import struct
import sys
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from lepton_launcher.slow import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from types import FrameType

BOARD_VARIABLE = "LEPTON_BOARD"
PHASES = (
    "starting",
    "rendezvous",
    "restoring",
    "training",
    "evaluating",
    "checkpointing",
    "done",
)
MOST_METRICS = 16

_MAGIC = b"LEPTON\x00\x02"
_FILE_BYTES = 4096
_HEADER = struct.Struct("<8sQ")  # the magic with the layout's version, the rank's process id
_SLOT_OFFSETS = (64, 2080)
_CHECKSUM = struct.Struct("<I")
_FACTS = struct.Struct(f"<QIBBBBqqqqqdqqqqqqdqddd{len(PHASES)}d")
_SAVES_ON_REQUEST = 1
_HAS_LEFT = 2
_METRICS_BYTES = 1536
_METRIC_NAME_CHARACTERS = 48
_LARGEST = 2**63 - 1
_SECOND = 1_000_000_000
_NO_SECONDS = (0.0,) * len(PHASES)
_PULSE_SECONDS = 1.0
# Where torch's own Python waits for other ranks. DistributedDataParallel waits inside backward; the
# rest of torch.distributed, such as what writes checkpoints, works.
_WAITING_IN = (
    "/torch/distributed/distributed_c10d.py",
    "/torch/distributed/_functional_collectives.py",
    "/torch/autograd/graph.py",
)
# A thread of theirs that lasts for ever only reads from the compiler's processes.
_COMPILERS = ("/torch/_dynamo/", "/torch/_functorch/", "/torch/_inductor/compile_fx")


class Standing(NamedTuple):
    """Where a rank stands. Times are monotonic nanoseconds of its machine; 0 is never."""

    phase: str = "starting"
    phase_at: int = 0
    phase_changes: int = 0
    """How often the phase changed: between two steps, an evaluation may have come and gone."""
    step: int = 0
    total_steps: int = 0
    """0 if nobody said how many there will be."""
    step_at: int = 0
    is_reported: bool = False
    """The script told its own step; False if optimizer steps of this process were counted."""
    collective_seconds: float = 0.0
    """The time spent waiting in collectives, of all steps together."""
    collectives: int = 0
    collective_at: int = 0
    samples: int = 0
    resumed_step: int = -1
    """The step of the checkpoint that this rank began with; -1 if it began from nothing."""
    checkpoint_step: int = -1
    """The step of the last checkpoint that is complete; -1 without one."""
    checkpoint_at: int = 0
    checkpoint_seconds: float = 0.0
    alive_at: int = 0
    """When the rank's interpreter last ran a thread; 0 if it has no such thread."""
    is_waiting: bool = False
    """Whether the main thread was seen inside a collective then."""
    saves_on_request: bool = False
    """The rank saves at the end of the step that exchange/save names, and leaves."""
    has_left: bool = False
    """It did so: what it ends with now is no end of the training."""
    learning_rate: float | None = None
    own_seconds: float = 0.0
    """The recent time of a step outside collectives; 0 before it is known."""
    own_error_seconds: float = 0.0
    phase_seconds: tuple[float, ...] = _NO_SECONDS
    """The time in each of PHASES, up to `phase_at`; of the first one, only when it came again."""
    metrics: Mapping[str, float] = {}


class Reading(NamedTuple):
    """What a reader found: the rank's process, and how often it has written."""

    pid: int
    sequence: int
    standing: Standing


class Board:
    """The writer of one rank. Writes of any other process, such as a fork, do nothing."""

    def __init__(self, path: str | Path, *, pulses: bool = False) -> None:
        """Open the file that `create` made; raises OSError or ValueError if it is no board.

        With `pulses`, a thread says each second that the interpreter runs, from the first step on.
        """
        with open(path, "r+b") as file:  # noqa: PTH123 - a rank's start pays for every import
            self._memory = mmap.mmap(file.fileno(), _FILE_BYTES)
        magic, self._pid = _HEADER.unpack_from(self._memory)
        if magic != _MAGIC:
            raise ValueError(f"{path} is no board of this version")
        # Re-entrant: a script may report from its own signal handler.
        self._lock = threading.RLock()
        self._pulses = pulses
        self._at_pulse: list[Callable[[], None]] = []
        self._is_waiting = False
        self._stopwatch = Stopwatch()
        found = _newest(self._memory)
        self._sequence = found.sequence if found else 0
        self._standing = found.standing if found else Standing()

    @property
    def is_ours(self) -> bool:
        """Whether this process is the rank that the board belongs to."""
        return bool(os.getpid() == self._pid)

    @property
    def standing(self) -> Standing:
        """What was written last."""
        return self._standing

    def enter(self, phase: str) -> None:
        """Say that the rank is in another phase now; raises ValueError for an unknown one."""
        if phase not in PHASES:
            raise ValueError(f"{phase!r} is no phase: use one of {', '.join(PHASES)}")
        self._write(**self._change_of(phase, time.monotonic_ns()))

    def finish_step(
        self,
        step: int,
        *,
        total_steps: int | None = None,
        samples: int | None = None,
        metrics: Mapping[str, float] | None = None,
        reported: bool = True,
    ) -> None:
        """Say that `step` is done. Counted steps are left aside once a step was reported."""
        before = self._standing
        if before.is_reported and not reported:
            return
        now = time.monotonic_ns()
        changed: dict[str, Any] = {"step": _whole(step), "step_at": now, "is_reported": reported}
        changed.update(self._change_of("training", now))
        changed.update(self._own_time(step, now))
        if total_steps is not None:
            changed["total_steps"] = _whole(total_steps)
        if samples is not None:
            changed["samples"] = _whole(samples)
        if metrics is not None:
            changed["metrics"] = _fitting(metrics)
        self._write(**changed)
        self._start_pulse()

    def at_pulse(self, act: Callable[[], None]) -> None:
        """Let the pulse do something more each second."""
        self._at_pulse.append(act)

    def learn_at(self, rate: float) -> None:
        """Say which learning rate the optimizer has now."""
        if rate != self._standing.learning_rate:
            self._write(learning_rate=rate)

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        """Count the time inside as waiting in one collective; of the main thread only."""
        if self._is_waiting or threading.current_thread() is not threading.main_thread():
            yield
            return
        begun = time.monotonic()
        self._is_waiting = True
        try:
            yield
        finally:
            self._is_waiting = False
            self.finish_collective(time.monotonic() - begun)

    def finish_collective(self, seconds: float, *, collectives: int = 1) -> None:
        """Add time spent waiting in collectives."""
        before = self._standing
        self._stopwatch.wait(seconds, collectives)
        self._write(
            collective_seconds=before.collective_seconds + max(0.0, seconds),
            collectives=before.collectives + collectives,
            collective_at=time.monotonic_ns(),
        )

    def resume(self, step: int) -> None:
        """Say that the rank goes on from the checkpoint of `step`."""
        self._write(resumed_step=_whole(step))

    def finish_checkpoint(self, step: int, seconds: float) -> None:
        """Say that the checkpoint of `step` is complete, and how long saving took."""
        self._write(
            checkpoint_step=_whole(step),
            checkpoint_at=time.monotonic_ns(),
            checkpoint_seconds=max(0.0, seconds),
        )

    def offer_to_save(self) -> None:
        """Say that this rank looks into exchange/save after each step, and answers it."""
        self._write(saves_on_request=True)

    def leave(self) -> None:
        """Say that the last step is saved, as it was asked for, and that the rank leaves now."""
        self._write(has_left=True, **self._change_of("done", time.monotonic_ns()))

    def beat(self, *, is_waiting: bool) -> None:
        """Say that the interpreter runs, and whether its main thread waits in a collective."""
        self._write(alive_at=time.monotonic_ns(), is_waiting=is_waiting)

    def _own_time(self, step: int, now: int) -> dict[str, float]:
        before = self._standing
        if step <= before.step:
            return {}
        changes = before.phase_changes + (before.phase != "training")
        found = self._stopwatch.lap(now / _SECOND, step - before.step, changes)
        return {"own_seconds": found[0], "own_error_seconds": found[1]} if found else {}

    def _change_of(self, phase: str, now: int) -> dict[str, Any]:
        before = self._standing
        if phase == before.phase:
            return {}
        return {
            "phase": phase,
            "phase_at": now,
            "phase_changes": before.phase_changes + 1,
            "phase_seconds": _with_last(before, now),
        }

    def _start_pulse(self) -> None:
        """From the first step on: a thread in a script that may still fork is no gift."""
        if self._pulses and self.is_ours:
            self._pulses = False
            self.beat(is_waiting=False)
            threading.Thread(target=self._pulse, name="lepton-pulse", daemon=True).start()

    def _pulse(self) -> None:
        never = threading.Event()
        while not never.wait(_PULSE_SECONDS):
            self.beat(is_waiting=self._is_waiting or _main_thread_waits())
            for act in self._at_pulse:
                act()

    def _write(self, **changed: Any) -> None:
        if not self.is_ours:
            return
        with self._lock:
            self._standing = self._standing._replace(**changed)
            self._sequence += 1
            content = _encode(self._sequence, self._standing)
            offset = _SLOT_OFFSETS[self._sequence % 2]
            self._memory[offset : offset + len(content)] = content


def create(path: Path, pid: int) -> None:
    """Make the board of a rank; it appears whole, and replaces that of an earlier rank."""
    content = bytearray(_FILE_BYTES)
    _HEADER.pack_into(content, 0, _MAGIC, pid)
    unfinished = path.with_name(f".{path.name}.{pid}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def read(path: Path) -> Reading | None:
    """What a rank wrote last; None if there is no board, or it is not one of this version."""
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES + 1)
    except OSError:
        return None
    if len(content) != _FILE_BYTES:
        return None
    magic, pid = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        return None
    return _newest(content) or Reading(pid, 0, Standing())


@functools.lru_cache(maxsize=1)
def of_this_process() -> Board | None:
    """The board of this very process; None if it is no rank of the launcher's."""
    path = os.environ.get(BOARD_VARIABLE)
    if not path:
        return None
    with contextlib.suppress(OSError, ValueError):
        board = Board(path, pulses=True)
        return board if board.is_ours else None
    return None


def _encode(sequence: int, standing: Standing) -> bytes:
    metrics = _metrics_text(standing.metrics)
    facts = _FACTS.pack(
        sequence,
        len(metrics),
        PHASES.index(standing.phase),
        standing.is_reported,
        standing.is_waiting,
        standing.saves_on_request * _SAVES_ON_REQUEST + standing.has_left * _HAS_LEFT,
        standing.phase_at,
        standing.phase_changes,
        standing.step,
        standing.total_steps,
        standing.step_at,
        standing.collective_seconds,
        standing.collectives,
        standing.collective_at,
        standing.samples,
        standing.resumed_step,
        standing.checkpoint_step,
        standing.checkpoint_at,
        standing.checkpoint_seconds,
        standing.alive_at,
        math.nan if standing.learning_rate is None else standing.learning_rate,
        standing.own_seconds,
        standing.own_error_seconds,
        *standing.phase_seconds,
    )
    body = facts + metrics
    return _CHECKSUM.pack(zlib.crc32(body)) + body


def _newest(content: Any) -> Reading | None:
    pid = _HEADER.unpack_from(content)[1]
    slots = [_slot(content, offset) for offset in _SLOT_OFFSETS]
    whole = [Reading(pid, sequence, standing) for sequence, standing in filter(None, slots)]
    return max(whole, key=lambda found: found.sequence, default=None)


def _slot(content: Any, offset: int) -> tuple[int, Standing] | None:
    """One slot's content; None if it was never written, or not to its end."""
    (checksum,) = _CHECKSUM.unpack_from(content, offset)
    body = offset + _CHECKSUM.size
    sequence, length, phase, reported, waiting, saving, *numbers = _FACTS.unpack_from(content, body)
    end = body + _FACTS.size + length
    if not sequence or length > _METRICS_BYTES or phase >= len(PHASES):
        return None
    if zlib.crc32(content[body:end]) != checksum:
        return None
    metrics = _parsed(content[body + _FACTS.size : end])
    before, after, rate = numbers[:5], numbers[5:14], numbers[14]
    flags = [bool(each) for each in (waiting, saving & _SAVES_ON_REQUEST, saving & _HAS_LEFT)]
    learning_rate = rate if math.isfinite(rate) else None
    durations = [*map(_duration, numbers[15:])]
    own, phases = durations[:2], tuple(durations[2:])
    seen = [*after, *flags, learning_rate, *own, phases, metrics]
    return sequence, Standing._make([PHASES[phase], *before, bool(reported), *seen])


def _parsed(text: bytes) -> dict[str, float]:
    """The metrics as numbers, whoever wrote them: a script may write to its own board's file."""
    try:
        return _fitting(json.loads(text)) if text else {}
    except (ValueError, RecursionError, AttributeError):
        return {}


def _fitting(metrics: Mapping[str, float]) -> dict[str, float]:
    """The first numbers that fit; what is no finite number is left out."""
    kept: dict[str, float] = {}
    for name, value in metrics.items():
        if len(kept) == MOST_METRICS:
            break
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(number):
            kept[str(name)[:_METRIC_NAME_CHARACTERS]] = number
    while len(_metrics_text(kept)) > _METRICS_BYTES:
        kept.popitem()
    return kept


def _metrics_text(metrics: Mapping[str, float]) -> bytes:
    return json.dumps(metrics, separators=(",", ":")).encode() if metrics else b""


def _main_thread_waits() -> bool:
    """Whether it is where torch waits, and no other thread compiles what it needs there."""
    frames = sys._current_frames()  # noqa: SLF001 - there is no other way to see them
    main = frames.pop(threading.main_thread().ident or 0, None)
    if main is None or not main.f_code.co_filename.endswith(_WAITING_IN):
        return False
    return not any(_compiles(frame) for frame in frames.values())


def _compiles(innermost: FrameType) -> bool:
    frame: FrameType | None = innermost
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in _COMPILERS):
            return True
        frame = frame.f_back
    return False


def _with_last(before: Standing, now: int) -> tuple[float, ...]:
    """The seconds by phase, with those of the phase that ends now."""
    if not before.phase_at:
        return before.phase_seconds
    spent = list(before.phase_seconds)
    spent[PHASES.index(before.phase)] += (now - before.phase_at) / _SECOND
    return tuple(spent)


def _duration(seconds: float) -> float:
    """Seconds, whoever wrote them."""
    return seconds if 0 <= seconds < math.inf else 0.0


def _whole(number: int) -> int:
    """A count that fits its field, whatever a script gives."""
    return min(max(int(number), 0), _LARGEST)
