"""One attempt of one pod, from the sidecar's start to the termination message."""

from __future__ import annotations

import math
import os
import tempfile
import time
from pathlib import Path

from lepton_launcher import records
from lepton_launcher.attempts import (
    Attempt,
    NotThisAttempt,
    attempt_alone,
    parse_attempt,
    says_leave,
)
from lepton_launcher.exchange import Exchange
from lepton_launcher.gang import join
from lepton_launcher.generation import Generation, Pod
from lepton_launcher.ledger import Ledger
from lepton_launcher.options import Options, parse_options
from lepton_launcher.processes import Children, Signals
from lepton_launcher.progress import Before
from lepton_launcher.rank import site_of
from lepton_launcher.restarts import Final, Restarts
from lepton_launcher.saves import Saves, place_in
from lepton_launcher.site_folder import write_site_folder
from lepton_launcher.speech import say
from lepton_launcher.stderr import blames_a_peer
from lepton_launcher.succession import GangSuccession, OwnSuccession

# An attempt that did not succeed has nothing to lose by going on without its sidecar's answer.
_ANSWER_SECONDS = 10.0
# Ranks whose peer is gone fail moments after it. Their pod ends last, so that whoever looks at the
# pods of the gang (their statuses count in whole seconds) meets the cause first.
_VICTIM_SECONDS = 2.0


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
        self._doubt = ""
        # Its first second is that of the container, whose start the operator can see.
        self._ledger = Ledger(time.monotonic(), options.furthest_step)

    def run(self) -> int:
        """Run the pod's attempt to its end; the exit code is 0 only for a success."""
        self._signals.listen()
        if self._options.alone:
            return self._end(self._outcome())
        if not self._children.wait_for(self._exchange.started, self._end_of_waiting):
            return self._end(records.terminated("Asked to leave before the sidecar had started."))
        found = self._exchange.found()
        if found:
            return self._end(found)
        record = self._outcome()
        self._let_the_cause_end_first(record)
        return self._end(self._answered(record))

    # Before the ranks

    def _outcome(self) -> records.Record:
        problem = self._options.entrypoint_problem()
        if problem:
            return records.user_error(problem)
        attempt = self._attempt()
        if attempt is None or self._signals.asked_to_leave_at is not None:
            return records.terminated("Asked to leave before the attempt had begun.")
        try:
            return self._train(attempt)
        except (OSError, RuntimeError) as error:  # no such folder, no process or thread left, ...
            self._children.kill_all()
            return records.user_error(f"The ranks cannot be started: {error}.")

    def _attempt(self) -> Attempt | None:
        if self._options.alone:
            return attempt_alone(self._options)
        self._signals.also_heed(self._is_told_to_leave)
        attempt = self._told_attempt()
        if attempt is not None:
            return attempt
        say("waiting for the operator to tell where node 0 is")
        return self._children.wait_for(self._told_attempt, self._end_of_waiting)

    def _is_told_to_leave(self) -> bool:
        try:
            return says_leave(self._options.attempt_file.read_text("utf-8", "replace"))
        except OSError:
            return False

    def _told_attempt(self) -> Attempt | None:
        """The attempt file's content once it is about this attempt; why not is said once."""
        try:
            text = self._options.attempt_file.read_text("utf-8", "replace")
        except OSError:
            return None
        if not text.strip():
            return None
        try:
            return parse_attempt(text, self._options)
        except NotThisAttempt as doubt:
            if self._doubt != str(doubt):
                self._doubt = str(doubt)
                say(f"the attempt file is not followed: {doubt}; waiting for another")
            return None

    # The ranks

    def _train(self, attempt: Attempt) -> records.Record:
        options = self._options
        options.output.mkdir(parents=True, exist_ok=True)
        say(
            f"attempt {attempt.number}, node {attempt.node_rank} of {attempt.num_nodes}, "
            f"{options.nproc_per_node} per node, meeting at {attempt.address}:{attempt.port}"
        )
        saves = Saves(place_in(os.environ) if attempt.node_rank == 0 else None)
        saves.watch()
        gang = join(attempt, self._restarts(options.max_restarts, saves))
        pod = Pod(
            options,
            attempt,
            self._signals,
            self._children,
            self._exchange,
            gang,
            saves,
            self._ledger,
        )
        with tempfile.TemporaryDirectory(prefix="lepton-") as name:
            folder = Path(name)
            write_site_folder(site_of(folder))
            return self._run_generations(pod, folder)

    def _run_generations(self, pod: Pod, folder: Path) -> records.Record:
        """Start the ranks, and start them again while that may help."""
        succession = self._succession(pod)
        number = 0
        while True:
            before = Before(succession.told, succession.spent)
            generation = Generation(pod, number, folder / str(number), before)
            ended = succession.end_of(generation, generation.run())
            if ended is not None:
                told = {**ended, "ledger": self._ledger.seconds()}
                return records.with_spent(told, succession.spent)
            number += 1
            say(f"the ranks are started again: generation {number}")

    def _succession(self, pod: Pod) -> OwnSuccession | GangSuccession:
        if pod.gang is not None:
            return GangSuccession(pod.gang, self._children, self._signals)
        # Ranks of several pods are only restarted together.
        most = self._options.max_restarts if self._options.num_nodes == 1 else 0
        restarts = self._restarts(most, pod.saves)
        return OwnSuccession(restarts, self._children, self._signals)

    def _restarts(self, most: int, saves: Saves) -> Restarts:
        options = self._options
        final = Final(options.final_exit_codes, options.final_signals)
        return Restarts(most, options.furthest_step, final=final, saves=lambda: saves.count)

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
