"""One attempt of one pod, from the sidecar's start to the termination message."""

from __future__ import annotations

import math
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from lepton_launcher import records
from lepton_launcher.agent import Failure, Job, Result, agent_command, read_result
from lepton_launcher.attempts import Attempt, NotThisAttempt, attempt_alone, parse_attempt
from lepton_launcher.exchange import Exchange
from lepton_launcher.options import Options, parse_options
from lepton_launcher.processes import Children, Signals
from lepton_launcher.rank import pipe_of, rank_command, site_of
from lepton_launcher.site_folder import write_site_folder
from lepton_launcher.stderr import RankStderr, blames_a_peer

# An attempt that did not succeed has nothing to lose by going on without its sidecar's answer.
_ANSWER_SECONDS = 10.0
# Ranks whose peer is gone fail moments after it. Their pod ends last, so that whoever looks at the
# pods of the gang (their statuses count in whole seconds) meets the cause first.
_VICTIM_SECONDS = 2.0
# What is left of the grace period, once the ranks are gone, for the record and its answer.
_RESERVE_SECONDS = 3.0


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
        if attempt is None:
            return records.terminated("Asked to leave before the attempt had begun.")
        try:
            return self._train(attempt)
        except (OSError, RuntimeError) as error:  # no such folder, no process or thread left, ...
            self._children.kill_all()
            return records.user_error(f"The ranks cannot be started: {error}.")

    def _attempt(self) -> Attempt | None:
        if self._options.alone:
            return attempt_alone(self._options)
        attempt = self._told_attempt()
        if attempt is not None:
            return attempt
        say("waiting for the operator to tell where node 0 is")
        return self._children.wait_for(self._told_attempt, self._end_of_waiting)

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
        with tempfile.TemporaryDirectory(prefix="lepton-") as name:
            folder = Path(name)
            write_site_folder(site_of(folder))
            pipes = [RankStderr(pipe_of(folder, i)) for i in range(options.nproc_per_node)]
            for pipe in pipes:
                pipe.start()
            self._start_child(folder, attempt)
            self._wait_for_child()
            self._children.kill_all()
            for pipe in pipes:
                pipe.close()
            return self._judge(self._result(folder), pipes)

    def _start_child(self, folder: Path, attempt: Attempt) -> None:
        options = self._options
        environment = {
            **os.environ,
            "LEPTON_OUTPUT_DIR": str(options.output),
            "LEPTON_ATTEMPT": str(attempt.number),
        }
        say(
            f"attempt {attempt.number}, node {attempt.node_rank} of {attempt.num_nodes}, "
            f"{options.nproc_per_node} per node, meeting at {attempt.address}:{attempt.port}"
        )
        if options.world_size == 1:
            command = rank_command(folder, options.entrypoint)
            self._children.start(command, {**environment, **_only_rank(attempt)})
        else:
            self._children.start(agent_command(self._job(folder, attempt)), environment)

    def _job(self, folder: Path, attempt: Attempt) -> Job:
        host = f"[{attempt.address}]" if ":" in attempt.address else attempt.address
        return Job(
            folder=str(folder),
            attempt=attempt.number,
            node_rank=attempt.node_rank,
            num_nodes=attempt.num_nodes,
            nproc_per_node=self._options.nproc_per_node,
            endpoint=f"{host}:{attempt.port}",
            shutdown_seconds=max(1, math.floor(self._patience_seconds())),
            entrypoint=self._options.entrypoint,
        )

    def _wait_for_child(self) -> None:
        """Sleep until the child ends; a request to leave is passed on, and enforced in time."""
        asked = False
        while self._children.status is None:
            remaining = self._kill_at() - time.monotonic()
            if remaining <= 0:
                return
            if self._signals.asked_to_leave_at is not None and not asked:
                asked = True
                self._children.terminate()
            self._signals.pause(min(remaining, 3600))
            self._children.reap()

    def _result(self, folder: Path) -> Result | None:
        """How the ranks ended; None if the child was stopped, or died without a word."""
        status = self._children.status
        if self._options.world_size > 1:
            return read_result(folder)
        if status is None:
            return None
        return Result([Failure(0, 0, status, 0)] if status else [])

    def _judge(self, result: Result | None, pipes: list[RankStderr]) -> records.Record:
        metrics = records.read_metrics(self._options.output / "metrics.json")
        # The agent tells ranks that ended by themselves from ranks that were told to; a rank
        # without an agent may answer SIGTERM with 0, and is then no success.
        complete = result is not None and not result.failures and not result.error
        if complete and (self._signals.asked_to_leave_at is None or self._options.world_size > 1):
            return records.succeeded(metrics)
        record = self._failed(result, pipes)
        return {**record, "metrics": metrics} if metrics else record

    def _failed(self, result: Result | None, pipes: list[RankStderr]) -> records.Record:
        if self._signals.asked_to_leave_at is not None:
            return records.terminated(self._how_it_left())
        if result is None:
            return self._agent_lost()
        if result.error:
            return records.user_error(result.error, exitCode=1)
        return _failed_rank(_first(result.failures, pipes), pipes)

    def _how_it_left(self) -> str:
        if self._children.status == -signal.SIGKILL:
            return f"Asked to leave; killed after {self._patience_seconds():.0f} s of grace."
        return "Asked to leave by SIGTERM, before the ranks had ended."

    def _agent_lost(self) -> records.Record:
        status = self._children.status or 0
        if status < 0:
            name = records.signal_name(-status)
            return records.user_error(f"torchrun's agent was killed by {name}.", signal=-status)
        return records.user_error(
            f"torchrun's agent ended with exit code {status} and no result.", exitCode=status or 1
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

    def _kill_at(self) -> float:
        asked = self._signals.asked_to_leave_at
        return math.inf if asked is None else asked + self._patience_seconds()

    def _answer_by(self) -> float:
        asked = self._signals.asked_to_leave_at
        return math.inf if asked is None else asked + self._options.grace_seconds * 0.95

    def _patience_seconds(self) -> float:
        """How long the ranks may take to leave, so that there is time left to say so."""
        grace = self._options.grace_seconds
        return grace - min(_RESERVE_SECONDS, grace / 4)


def say(text: str) -> None:
    """One line of the launcher's own in the pod's log."""
    try:
        print(f"lepton: {text}", file=sys.stderr, flush=True)
    except OSError:
        return


def _only_rank(attempt: Attempt) -> dict[str, str]:
    """What torchrun's agent sets for the one rank of a run of one rank, which needs no agent."""
    zeros = dict.fromkeys(("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK"), "0")
    sizes = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE")
    return {
        **zeros,
        **dict.fromkeys(sizes, "1"),
        "ROLE_NAME": "default_role",
        "MASTER_ADDR": attempt.address,
        "MASTER_PORT": str(attempt.port),
        "TORCHELASTIC_RESTART_COUNT": "0",
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
