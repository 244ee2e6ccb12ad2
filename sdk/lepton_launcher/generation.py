"""The ranks of this pod from their start to their end. Started again, they are the next generation.

One rank alone is a child of the launcher; several are started by torchrun's agent.
"""

from __future__ import annotations

import math
import os
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from lepton_launcher import flight, records, stacks
from lepton_launcher.agent import Failure, Job, Result, agent_command, read_result
from lepton_launcher.coordinator import END, LEAVE, PART, RUNNING, STOP, STUCK, Report
from lepton_launcher.departure import Departure, fastest_to_save
from lepton_launcher.exchange import Exchange
from lepton_launcher.hangs import HangWatch
from lepton_launcher.ledger import Ending
from lepton_launcher.memory import oom_kills
from lepton_launcher.observer import LOOK_SECONDS, Observer
from lepton_launcher.progress import Progress
from lepton_launcher.rank import has_loaded, pipe_of, rank_command, stacks_of
from lepton_launcher.sightings import RankWatch
from lepton_launcher.speech import say
from lepton_launcher.stderr import RankStderr, blames_a_peer

if TYPE_CHECKING:
    from pathlib import Path

    from lepton_launcher.attempts import Attempt, AttemptFile
    from lepton_launcher.coordinator import Order
    from lepton_launcher.gang import Leader, Member
    from lepton_launcher.hangs import Hang
    from lepton_launcher.ledger import Ledger
    from lepton_launcher.options import Options
    from lepton_launcher.processes import Children, Signals
    from lepton_launcher.progress import Before
    from lepton_launcher.saves import Saves

# What is left of the grace period, once the ranks are gone, for the record and its answer.
_RESERVE_SECONDS = 3.0
# Ranks that have saved and left may hang in what their script does last; nothing is lost with it.
_LEFT_SECONDS = 5.0
# Then torchrun's agents wait for each other, and a pod that was killed meanwhile has none any more.
_GONE_SECONDS = 1.0
# The end of what all ranks of the pod wrote to stderr, in which the sidecar looks for patterns.
_TAIL_BYTES = 64 * 1024


class Pod(NamedTuple):
    """What all generations of ranks in this pod share."""

    options: Options
    attempt: Attempt
    signals: Signals
    children: Children
    exchange: Exchange
    gang: Leader | Member | None
    saves: Saves
    ledger: Ledger
    attempt_file: AttemptFile | None

    @property
    def is_superseded(self) -> bool:
        """Whether the operator has closed the attempt: what its ranks do counts no more."""
        told = self.attempt_file
        return told is not None and told.is_closed(self.attempt.number)


class Generation:
    """One start of this pod's ranks."""

    def __init__(self, pod: Pod, number: int, folder: Path, before: Before) -> None:
        folder.mkdir()
        self._pod = pod
        self._options = pod.options
        self.number = number
        self._folder = folder
        count = pod.options.nproc_per_node
        self._pipes = [RankStderr(pipe_of(folder, index)) for index in range(count)]
        first = pod.attempt.node_rank * count
        self._watches = [
            RankWatch(folder, first + index, index, pipe) for index, pipe in enumerate(self._pipes)
        ]
        self._observer = self._new_observer(before)
        pod.saves.begin(lambda: any(has_loaded(folder, index) for index in range(count)))
        # On a laptop nobody shares a folder with the ranks but we.
        self._shared = folder if pod.options.alone else pod.options.exchange
        asks = Exchange(self._shared)
        self._departure = Departure(count, pod.options.leave_signal, asks, pod.children)
        self._left_by = math.inf
        self._oom_kills_before = oom_kills()
        self.order: Order | None = None
        """What the gang stopped these ranks by; None if they ended by themselves."""
        self._is_superseded = False

    @property
    def is_superseded(self) -> bool:
        """Whether these ranks were ended because the operator had closed their attempt."""
        return self._is_superseded

    @property
    def furthest(self) -> int:
        """The furthest step that was reported or saved; -1 if none was."""
        return self._observer.progress.furthest

    def run(self) -> records.Record:
        """Start the ranks, watch them to their end, and say how that was."""
        for pipe in self._pipes:
            pipe.start()
        self._start_child()
        hang, order = self._wait_for_child()
        found_at = time.monotonic()
        say(f"the ranks of generation {self.number} end: {self._why(hang, order)}")
        self.order = order
        names = self._leave_stacks() if hang or (order and order.stacks) else {}
        self._pod.children.kill_all()
        for pipe in self._pipes:
            pipe.close()
        self._leave_tail()
        self._observer.look_back()
        record = self._record_of(hang, order, names)
        self._observer.end(_ending(record, hang, order, found_at))
        return self._with_steps(record)

    def _why(self, hang: Hang | None, order: Order | None) -> str:
        """For the log, whose time tells how soon a failure was noticed."""
        if hang:
            return hang.message
        if order:
            return order.why or "the gang ends"
        if self._pod.signals.asked_to_leave_at is not None:
            return "asked to leave"
        if self._is_superseded:
            return "their attempt was closed"
        return "one of them failed" if self._has_failed() else "by themselves"

    def _leave_tail(self) -> None:
        if self._options.alone:
            return
        share = _TAIL_BYTES // len(self._pipes)
        try:
            self._pod.exchange.leave_tail(b"\n".join(pipe.tail(share - 1) for pipe in self._pipes))
        except OSError as error:
            say(f"the end of the log cannot be handed to the sidecar: {error}")

    # The ranks

    def _new_observer(self, before: Before) -> Observer:
        options, now = self._options, time.monotonic()
        sees_all = options.num_nodes == 1
        return Observer(
            self._watches,
            Progress(
                self._pod.attempt.number,
                self.number,
                now,
                before,
                saves=self._pod.saves,
                ledger=self._pod.ledger,
                node=self._pod.attempt.node_rank,
            ),
            HangWatch(options.patience, now, sees_all=sees_all) if options.patience else None,
            None if options.alone else self._pod.exchange,
        )

    def _start_child(self) -> None:
        options, attempt = self._options, self._pod.attempt
        environment = {
            **os.environ,
            "LEPTON_OUTPUT_DIR": str(options.output),
            "LEPTON_ATTEMPT": str(attempt.number),
            "LEPTON_GENERATION": str(self.number),
            "LEPTON_EXCHANGE": str(self._shared),
            "LEPTON_GRACE_SECONDS": str(math.floor(self._patience_seconds())),
        }
        if options.world_size == 1:
            command = rank_command(self._folder, options.entrypoint)
            environment.update(_only_rank(attempt, self.number))
            self._pod.children.start(command, environment)
        else:
            self._pod.children.start(agent_command(self._job()), environment)

    def _job(self) -> Job:
        attempt = self._pod.attempt
        host = f"[{attempt.address}]" if ":" in attempt.address else attempt.address
        return Job(
            folder=str(self._folder),
            attempt=attempt.number,
            node_rank=attempt.node_rank,
            num_nodes=attempt.num_nodes,
            nproc_per_node=self._options.nproc_per_node,
            endpoint=f"{host}:{attempt.port}",
            shutdown_seconds=max(1, math.floor(self._patience_seconds())),
            entrypoint=self._options.entrypoint,
        )

    def _wait_for_child(self) -> tuple[Hang | None, Order | None]:
        """Until the child ends, hangs, or the gang orders it; a request to leave is passed on."""
        signals = self._pod.signals
        while self._pod.children.status is None:
            remaining = self._kill_at() - time.monotonic()
            if remaining <= 0:
                break
            hang = self._observer.look()
            order = self._obeyed()
            self._compare()
            asked_at = signals.asked_to_leave_at
            if asked_at is None and (hang or order):
                return hang, order
            if asked_at is not None:
                # Ranks whose peers were ended cannot save with them; each may that got a signal.
                if order and not self._departure.has_signalled:
                    return None, order
                self._leave(asked_at)
            self._is_superseded = self._pod.is_superseded
            if self._is_superseded or (signals.asked_to_leave_at is None and self._has_failed()):
                break
            self._pod.signals.pause(min(remaining, LOOK_SECONDS))
            self._pod.children.reap()
        return None, None

    def _leave(self, asked_at: float) -> None:
        order = self._pod.gang.order() if self._pod.gang else None
        seen, step_seconds = self._observer.sightings, self._observer.progress.step_seconds
        self._departure.proceed(asked_at, seen, step_seconds, order)

    def _has_failed(self) -> bool:
        """Whether the agent said so already; to unload torch takes it another second."""
        result = read_result(self._folder) if self._options.world_size > 1 else None
        return result is not None and bool(result.failures or result.error)

    def _obeyed(self) -> Order | None:
        """An order that ends these ranks, after the gang was told how they are."""
        gang, waiting = self._pod.gang, self._observer.waiting
        if gang is None:
            return None
        record = self._with_steps(self._hung(waiting, {})) if waiting else {}
        gang.tell(self.report(STUCK if waiting else RUNNING, record))
        order = gang.order()
        if order is None or order.generation != self.number:
            return None
        if order.act == LEAVE:
            self._pod.signals.ask_to_leave(for_others=True)
        is_hang = order.act == END and order.stacks
        return order if order.act in (STOP, PART) or is_hang else None

    def _compare(self) -> None:
        """Look for a slow rank, where all ranks are known: on node 0."""
        gang, attempt = self._pod.gang, self._pod.attempt
        if attempt.node_rank == 0 and (gang is not None or attempt.num_nodes == 1):
            self._observer.progress.compare(gang.own_times(self.number) if gang else ())

    def report(self, state: str, record: records.Record) -> Report:
        """What the gang is told of these ranks."""
        progress = self._observer.progress
        node = self._pod.attempt.node_rank
        return Report(
            node,
            self.number,
            state,
            record,
            self.furthest,
            progress.collectives,
            progress.slowest,
            self._pod.signals.asked_to_leave_at is not None,
            fastest_to_save(self._observer.sightings, self._options.nproc_per_node),
            progress.step_seconds,
        )

    def _leave_stacks(self) -> dict[int, str]:
        """Write the stacks of all ranks for the sidecar; the names of the files, by rank."""
        seen = [(each.look(), stacks_of(self._folder, each.local_rank)) for each in self._watches]
        ranks = [(found, path) for found, path in seen if found]
        asked = flight.ask(ranks)
        texts = stacks.gather(ranks)
        flights = flight.gather(asked)
        begun = f"{self._pod.attempt.number}-{self.number}"
        names = {rank: f"{begun}-{rank}.txt" for rank in texts}
        if self._options.alone:
            for text in texts.values():
                say(text.decode("utf-8", "replace"))
            return {}
        try:
            for rank, text in texts.items():
                self._pod.exchange.leave_stacks(names[rank], text)
            for rank, record in flights.items():
                self._pod.exchange.leave_stacks(f"{begun}-{rank}.flight.json", record)
        except OSError as error:
            say(f"the stacks cannot be handed to the sidecar: {error}")
            return {}
        return names

    # How they ended

    def _result(self) -> Result | None:
        """How the ranks ended; None if the child was stopped, or died without a word."""
        status = self._pod.children.status
        if self._options.world_size > 1:
            return read_result(self._folder)
        if status is None:
            return None
        return Result([Failure(0, 0, status, 0)] if status else [])

    def _with_steps(self, record: records.Record) -> records.Record:
        progress = self._observer.progress
        reached = {
            "step": progress.step,
            "resumedFrom": progress.resumed_from,
            "furthest": progress.furthest if progress.furthest >= 0 else None,
        }
        return {**{name: at for name, at in reached.items() if at is not None}, **record}

    def _record_of(
        self, hang: Hang | None, order: Order | None, names: dict[int, str]
    ) -> records.Record:
        if hang:
            return self._hung(hang, names)
        if order is None:
            return self._judge(self._result())
        if order.act == PART:
            return records.partitioned(order.why, order.silent_node)
        if order.act == END:
            waiting, is_ours = self._observer.waiting, order.leaver == self._pod.attempt.node_rank
            return self._hung(waiting, names) if waiting and is_ours else records.hang(order.why)
        return records.terminated(f"Its ranks were stopped to start the gang again: {order.why}")

    def _hung(self, hang: Hang, names: dict[int, str]) -> records.Record:
        where = {"stacks": names[hang.rank]} if hang.rank in names else {}
        return records.hang(hang.message, rank=hang.rank, **where)

    def _judge(self, result: Result | None) -> records.Record:
        if self._observer.progress.left_at is not None:
            return records.saved(self._observer.progress.left_at)
        metrics = records.read_metrics(self._options.output / records.METRICS_FILE)
        # A script may answer the signal with 0, and is then no success.
        complete = result is not None and not result.failures and not result.error
        if complete and not self._departure.has_signalled:
            return records.succeeded(metrics)
        record = self._failed(result)
        return {**record, "metrics": metrics} if metrics else record

    def _failed(self, result: Result | None) -> records.Record:
        if self._pod.signals.asked_to_leave_at is not None:
            return records.terminated(self._how_it_left(result))
        if self._is_superseded:
            return records.terminated("Its attempt was closed.")
        if result is None:
            return self._agent_lost()
        if result.error:
            return records.user_error(result.error, exitCode=1)
        failed = _failed_rank(_first(result.failures, self._pipes), self._pipes)
        is_oom = failed.get("signal") == signal.SIGKILL and oom_kills() > self._oom_kills_before
        return records.out_of_memory(failed) if is_oom else failed

    def _how_it_left(self, result: Result | None) -> str:
        if self._pod.children.status == -signal.SIGKILL:
            return f"Asked to leave; killed after {self._patience_seconds():.0f} s of grace."
        failures = [each for each in result.failures if each.status > 0] if result else []
        if failures:
            first = _failed_rank(_first(failures, self._pipes), self._pipes)
            return f"Asked to leave, rank {first['rank']} did not end well: {first['message']}"
        return "Asked to leave, before the ranks had ended."

    def _agent_lost(self) -> records.Record:
        status = self._pod.children.status or 0
        if status < 0:
            name = records.signal_name(-status)
            return records.user_error(f"torchrun's agent was killed by {name}.", signal=-status)
        return records.user_error(
            f"torchrun's agent ended with exit code {status} and no result.", exitCode=status or 1
        )

    # Deadlines (monotonic seconds)

    def _kill_at(self) -> float:
        if self._observer.progress.left_at is not None:
            are_gone = all(each.is_gone for each in self._observer.sightings)
            seconds = _GONE_SECONDS if are_gone else _LEFT_SECONDS
            self._left_by = min(self._left_by, time.monotonic() + seconds)
            return self._left_by
        asked = self._pod.signals.asked_to_leave_at
        return math.inf if asked is None else asked + self._patience_seconds()

    def _patience_seconds(self) -> float:
        """How long the ranks may take to leave, so that there is time left to say so."""
        grace = self._options.grace_seconds
        return grace - min(_RESERVE_SECONDS, grace / 4)


def _ending(
    record: records.Record, hang: Hang | None, order: Order | None, found_at: float
) -> Ending:
    """How the ranks ended, for the ledger: all of a gang stand still when one hangs."""
    if hang:
        return Ending(hung_since=found_at - hang.silent_seconds)
    if order and (order.stacks or order.act == PART):
        return Ending(hung_since=-math.inf)
    return Ending(is_well=record["reason"] in ("Succeeded", "Saved"))


def _only_rank(attempt: Attempt, generation: int) -> dict[str, str]:
    """What torchrun's agent sets for the one rank of a run of one rank, which needs no agent."""
    zeros = dict.fromkeys(("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK"), "0")
    sizes = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE")
    return {
        **zeros,
        **dict.fromkeys(sizes, "1"),
        "ROLE_NAME": "default_role",
        "MASTER_ADDR": attempt.address,
        "MASTER_PORT": str(attempt.port),
        "TORCHELASTIC_RESTART_COUNT": str(generation),
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": f"attempt-{attempt.number}",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }


def _first(failures: list[Failure], pipes: list[RankStderr]) -> Failure:
    """The rank that failed first.

    The agent notices failures in rounds, with a clock of whole seconds, and ends the other ranks by
    SIGTERM; within a round, the one whose traceback (or end) came first is the cause.
    """

    def order(failure: Failure) -> tuple[float, bool, bool, float]:
        pipe = pipes[failure.local_rank]
        is_victim = blames_a_peer(pipe.last_error_line())
        return failure.noticed_at, failure.status == -signal.SIGTERM, is_victim, pipe.failed_at

    return min(failures, key=order)


def _failed_rank(failure: Failure, pipes: list[RankStderr]) -> records.Record:
    said = pipes[failure.local_rank].last_error_line()
    if failure.status < 0:
        cause = f"Killed by {records.signal_name(-failure.status)}."
        message = f"{cause} Its last line on stderr: {said}" if said else cause
        return records.user_error(message, rank=failure.rank, signal=-failure.status)
    message = said or f"Exit code {failure.status}, without an error on stderr."
    return records.user_error(message, rank=failure.rank, exitCode=failure.status)
