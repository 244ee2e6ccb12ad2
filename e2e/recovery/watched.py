"""What is seen of a job from outside, each with the moment at which it was seen."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from e2e.kubectl import Kubectl


@dataclass(slots=True)
class Sightings:
    """By the time of day in seconds: statuses of the job, pods, and lines of their logs."""

    statuses: list[tuple[float, Mapping[str, Any]]] = field(default_factory=list)
    pods: dict[str, float] = field(default_factory=dict)  # by UID: when it was first seen
    said: list[tuple[float, str, str]] = field(default_factory=list)  # when, pod, line

    def saw_status(self, line: str) -> None:
        self.statuses.append((time.time(), json.loads(line or "{}")))

    def saw_pod(self, line: str) -> None:
        self.pods.setdefault(line, time.time())

    def heard(self, pod: str, line: str) -> None:
        """Take in what `kubectl logs --timestamps` prints; its own complaints have no time."""
        when, _, text = line.partition(" ")
        with suppress(ValueError):
            self.said.append((datetime.fromisoformat(when).timestamp(), pod, text))


@contextmanager
def watched(kubectl: Kubectl, job: str, pods: list[str]) -> Iterator[Sightings]:
    """Watch a job and its pods, and follow the logs of those that run."""
    seen, since = Sightings(), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    of_job = ("-l", f"lepton.ai/name={job}")
    watch = ("get", "--watch", "-o")
    with ExitStack() as streams:
        for lines, arguments in (
            (seen.saw_status, (*watch, 'jsonpath={.status}{"\\n"}', "trainingjob", job)),
            (seen.saw_pod, (*watch, 'jsonpath={.metadata.uid}{"\\n"}', "pods", *of_job)),
        ):
            streams.enter_context(lines_of(kubectl, arguments, lines))
        for pod in pods:
            # Not from its last line on: who is slow to ask would miss what was said meanwhile.
            which = ("-c", "train", "--timestamps", f"--since-time={since}")
            arguments = ("logs", pod, "--follow", *which)
            streams.enter_context(lines_of(kubectl, arguments, _hearing(seen, pod)))
        yield seen


def _hearing(seen: Sightings, pod: str) -> Callable[[str], None]:
    return lambda line: seen.heard(pod, line)


@contextmanager
def lines_of(
    kubectl: Kubectl, arguments: tuple[str, ...], take: Callable[[str], None]
) -> Iterator[None]:
    process = kubectl.start(*arguments)

    def read() -> None:
        for line in process.stdout or ():
            take(line.rstrip("\n"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        process.terminate()
        process.wait()
        reader.join()
        if process.stdout:
            process.stdout.close()
