"""One pod, from the sidecar's start to the termination message: mostly one attempt.

When its gang loses a peer, the pod waits and goes on in the next attempt, with all that it has.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_launcher import records
from lepton_launcher.attempts import Attempt, AttemptFile, attempt_alone
from lepton_launcher.exchange import Exchange
from lepton_launcher.gang import join
from lepton_launcher.generation import Generation, Pod
from lepton_launcher.ledger import Earlier, Ledger
from lepton_launcher.options import Options, parse_options
from lepton_launcher.processes import Children, Signals
from lepton_launcher.progress import Before
from lepton_launcher.rank import site_of
from lepton_launcher.restarts import Final, Restarts
from lepton_launcher.saves import Saves, place_in
from lepton_launcher.site_folder import write_site_folder
from lepton_launcher.speech import say
from lepton_launcher.stderr import blames_a_peer
from lepton_launcher.succession import Ended, GangSuccession, OwnSuccession

if TYPE_CHECKING:
    from collections.abc import Sequence

# An attempt that did not succeed has nothing to lose by going on without its sidecar's answer.
_ANSWER_SECONDS = 10.0
# Ranks whose peer is gone fail moments after it. Their pod ends last, so that whoever looks at the
# pods of the gang (their statuses count in whole seconds) meets the cause first.
_VICTIM_SECONDS = 2.0
# Who lost a peer waits for the operator, be it dead or busy. If that sees nothing amiss in all this
# time, and cannot ask this pod, the pod's end tells it.
_UNHEARD_SECONDS = 3600.0
# As many attempts as the status of a job keeps.
_TOLD_ATTEMPTS = 10


def main(arguments: list[str]) -> int:
    """The command `run`."""
    return Supervisor(parse_options(arguments)).run()


class Supervisor:
    """The launcher of one pod: waits, starts the ranks, and reports how they ended."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._signals = Signals()
        self._children = Children(self._signals)
        self._exchange = Exchange(options.exchange)
        self._attempt_file = AttemptFile(options)
        self._began_at = time.monotonic()
        self._attempt_number = options.attempt

    def run(self) -> int:
        """Run the pod's attempt to its end; the exit code is 0 only for a success."""
        self._signals.listen()
        if self._options.alone:
            return self._end(self._outcome() or records.terminated("Asked to leave."))
        if not self._children.wait_for(self._exchange.started, self._end_of_waiting):
            return self._end(records.terminated("Asked to leave before the sidecar had started."))
        found = self._exchange.found()
        if found:
            return self._end(found)
        record = self._outcome()
        if record is None:  # nothing is told of an attempt that was closed by others
            return self._end(records.terminated("Asked to leave while waiting for an attempt."))
        self._let_the_cause_end_first(record)
        return self._end(self._answered(record))

    # Before the ranks

    def _outcome(self) -> records.Record | None:
        """How the ranks ended; None if the pod is asked to leave between two attempts."""
        problem = self._options.entrypoint_problem()
        if problem:
            return records.user_error(problem)
        attempt = self._attempt()
        if attempt is None or self._signals.asked_to_leave_at is not None:
            return records.terminated("Asked to leave before the attempt had begun.")
        try:
            return self._follow(attempt)
        except (OSError, RuntimeError) as error:  # no such folder, no process or thread left, ...
            self._children.kill_all()
            return self._of_attempt(records.user_error(f"The ranks cannot be started: {error}."))

    def _attempt(self) -> Attempt | None:
        if self._options.alone:
            return attempt_alone(self._options)
        self._signals.also_heed(self._attempt_file.says_leave)
        attempt = self._told_after(self._options.attempt - 1)
        if attempt is not None:
            return attempt
        say("waiting for the operator to tell where node 0 is")
        return self._children.wait_for(
            lambda: self._told_after(self._options.attempt - 1), self._end_of_waiting
        )

    def _told_after(self, number: int) -> Attempt | None:
        told = self._attempt_file.after(number)
        if told is not None and told.leave:
            self._signals.ask_to_leave()  # now: the file is looked into for that only now and then
        return told

    # The ranks

    def _follow(self, attempt: Attempt) -> records.Record | None:
        """Train in this attempt, and in those that follow it as long as this pod may go on."""
        saves = Saves(place_in(os.environ) if attempt.node_rank == 0 else None)
        saves.watch()
        # Its first second is that of the container, whose start the operator can see.
        ledger = Ledger(self._began_at, self._furthest_before(attempt))
        while True:
            pod = self._pod(attempt, saves, ledger)
            ended = self._train(pod)
            record = self._of_attempt(ended.record)
            if not ended.waits:
                return record
            following = self._next_attempt(pod, ended)
            if following is None:
                return None if pod.is_superseded else record
            if pod.gang is not None:
                pod.gang.leave()
            self._begin_anew(saves)
            # A second loss may come before anybody was told of the first.
            earlier = [*ledger.earlier, Earlier(attempt.number, ledger.seconds())][-_TOLD_ATTEMPTS:]
            attempt, ledger = following, self._ledger_from_now(following, earlier)

    def _begin_anew(self, saves: Saves) -> None:
        """Leave nothing of an attempt that would be told as the next one's."""
        self._exchange.begin_anew()
        saves.begin_anew()
        with contextlib.suppress(OSError):
            (self._options.output / records.METRICS_FILE).unlink()

    def _ledger_from_now(self, attempt: Attempt, earlier: Sequence[Earlier]) -> Ledger:
        return Ledger(time.monotonic(), self._furthest_before(attempt), earlier)

    def _furthest_before(self, attempt: Attempt) -> int:
        """The furthest step of the attempts before; -1 if there is none."""
        told = attempt.furthest_step
        return self._options.furthest_step if told is None else told

    def _pod(self, attempt: Attempt, saves: Saves, ledger: Ledger) -> Pod:
        options = self._options
        self._attempt_number = attempt.number
        say(
            f"attempt {attempt.number}, node {attempt.node_rank} of {attempt.num_nodes}, "
            f"{options.nproc_per_node} per node, meeting at {attempt.address}:{attempt.port}"
        )
        return Pod(
            options,
            attempt,
            self._signals,
            self._children,
            self._exchange,
            join(attempt, self._restarts(attempt, saves)),
            saves,
            ledger,
            None if options.alone else self._attempt_file,
        )

    def _of_attempt(self, record: records.Record) -> records.Record:
        """Say which attempt it is about, where that is not the one that the pod was made for."""
        if self._attempt_number == self._options.attempt:
            return record
        return {**record, "attempt": self._attempt_number}

    def _next_attempt(self, pod: Pod, ended: Ended) -> Attempt | None:
        """Wait for the operator; None if asked to leave, or never told of one in all that time."""
        number, latest = pod.attempt.number, time.monotonic() + _UNHEARD_SECONDS
        self._signals.stay()
        if ended.loss and not pod.is_superseded:
            self._exchange.tell_loss(number, ended.loss)
        say(f"attempt {number} is over: {ended.record.get('message')} Waiting for the next one")

        def until() -> float:
            return math.inf if pod.is_superseded else latest

        following = self._children.wait_for(
            lambda: self._told_after(number), lambda: min(until(), self._end_of_waiting())
        )
        return following if self._signals.asked_to_leave_at is None else None

    def _train(self, pod: Pod) -> Ended:
        self._options.output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="lepton-") as name:
            folder = Path(name)
            write_site_folder(site_of(folder))
            return self._run_generations(pod, folder)

    def _run_generations(self, pod: Pod, folder: Path) -> Ended:
        """Start the ranks, and start them again while that may help."""
        succession = self._succession(pod)
        number = 0
        while True:
            before = Before(succession.told, succession.spent)
            generation = Generation(pod, number, folder / str(number), before)
            ended = self._end_of(succession, generation)
            if ended is not None:
                told = {**ended.record, "ledger": pod.ledger.seconds()}
                return ended._replace(record=records.with_spent(told, succession.spent))
            number += 1
            say(f"the ranks are started again: generation {number}")

    def _end_of(
        self, succession: OwnSuccession | GangSuccession, generation: Generation
    ) -> Ended | None:
        record = generation.run()
        if generation.is_superseded:
            return Ended(record, waits=True)
        return succession.end_of(generation, record)

    def _succession(self, pod: Pod) -> OwnSuccession | GangSuccession:
        if pod.gang is not None:
            return GangSuccession(pod.gang, pod)
        # Ranks of several pods are only restarted together.
        restarts = self._restarts(pod.attempt, pod.saves, alone=True)
        return OwnSuccession(restarts, self._children, self._signals)

    def _restarts(self, attempt: Attempt, saves: Saves, *, alone: bool = False) -> Restarts:
        """The budget for restarts in place: the operator's last word about it."""
        options = self._options
        most = attempt.max_restarts
        most = options.max_restarts if most is None else most
        return Restarts(
            0 if alone and options.num_nodes > 1 else most,
            self._furthest_before(attempt),
            final=Final(options.final_exit_codes, options.final_signals),
            saves=lambda: saves.count,
        )

    # After the ranks

    def _let_the_cause_end_first(self, record: records.Record) -> None:
        """Hold back a failure that blames another pod, until we are asked to leave or in time."""
        if self._options.num_nodes == 1 or not blames_a_peer(record.get("message", "")):
            return
        latest = time.monotonic() + _VICTIM_SECONDS
        self._children.wait_for(lambda: self._signals.asked_to_leave_at, lambda: latest)

    def _answered(self, record: records.Record) -> records.Record:
        """The record that the sidecar makes of ours; without an answer in time, our own."""
        precious = record["outcome"] == "Succeeded" and self._has_output()
        try:
            self._exchange.tell(record)
        except OSError as error:
            say(f"the record cannot be handed to the sidecar: {error}")
        latest = math.inf if precious else time.monotonic() + _ANSWER_SECONDS
        answer = self._children.wait_for(
            self._exchange.answer, lambda: min(latest, self._answer_by())
        )
        if answer is None and precious:
            return records.terminated("Asked to leave before the result had been stored.")
        return answer or record

    def _has_output(self) -> bool:
        try:
            return any(self._options.output.iterdir())
        except OSError:
            return False

    def _end(self, record: records.Record) -> int:
        line = records.to_line(record)
        if self._options.termination_message:
            try:
                self._options.termination_message.write_bytes(line)
            except OSError as error:
                say(f"the termination message cannot be written: {error}")
        say(line.decode())
        return records.exit_code(record)

    # Deadlines (monotonic seconds)

    def _end_of_waiting(self) -> float:
        return math.inf if self._signals.asked_to_leave_at is None else 0.0

    def _answer_by(self) -> float:
        asked = self._signals.asked_to_leave_at
        return math.inf if asked is None else asked + self._options.grace_seconds * 0.95
