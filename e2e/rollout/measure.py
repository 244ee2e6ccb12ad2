"""Do something to a service under load, and say what its clients noticed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from e2e.cluster.target import Target
from e2e.kubectl import Kubectl, KubectlError
from e2e.load import CLIENTS, Heard, Request, load
from e2e.load.requests import gap_seconds, in_flight, percentile_ms
from e2e.rollout.events import Event
from e2e.rollout.said import Sayings, listening
from e2e.rollout.stage import Stage, stage

LEAST_RATE = 25
"""Requests a second that each client has to have begun."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the clients noticed. `gap_said_s`: what the status had said before, None if nothing."""

    requests: int
    failed: int
    worst_ms: float
    p99_ms: float
    in_flight_at_event: int
    gap_s: float
    gap_said_s: int | None


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of an event, a sentence for each bar that it missed, and what failed.

    `too_slow`: clients that asked too seldom to prove anything; a busy machine may be the reason.
    """

    figures: Figures
    missed: tuple[str, ...]
    too_slow: tuple[str, ...]
    failures: tuple[str, ...]
    versions: frozenset[str]

    def told(self) -> dict[str, object]:
        return asdict(self.figures)


def measured(
    target: Target,
    kubectl: Kubectl,
    name: str,
    event: Event,
    *,
    before_seconds: float,
    after_seconds: float,
) -> Measured:
    """Have the event happen to a service of its own, with clients from before to after it."""
    with ExitStack() as stack:
        made = stack.enter_context(stage(target, kubectl, name.replace("_", "-"), **event.spec))
        said = stack.enter_context(listening(kubectl, made.name))
        clients = stack.enter_context(load(kubectl, made.name))
        time.sleep(before_seconds)
        at, problem = _done(event, made)
        time.sleep(after_seconds)
        return judged(event, clients.until_now(), at, said, problem)


def _done(event: Event, made: Stage) -> tuple[float, list[str]]:
    """Have it happen; return when it did, and what kept it from its end."""
    began = time.time()
    try:
        return event.act(made), []
    except (AssertionError, KubectlError) as error:
        return began, [f"it did not come to its end: {error}"]


def judged(
    event: Event,
    heard: Heard,
    at: float,
    said: Sayings,
    problem: Sequence[str] = (),
) -> Measured:
    """Hold the requests against the bars of an event that happened at this time."""
    requests = heard.requests
    failed = [each for each in requests if each.error]
    began = failed[0].at if failed else requests[-1].end
    figures = Figures(
        requests=len(requests) + heard.lost,
        failed=len(failed) + heard.lost,
        worst_ms=max(each.ms for each in requests),
        p99_ms=percentile_ms(requests, 0.99),
        in_flight_at_event=in_flight(requests, at),
        gap_s=round(gap_seconds(requests), 1),
        gap_said_s=said.gap_said_before(began),
    )
    return Measured(
        figures,
        (*problem, *_missed(event, figures)),
        tuple(_too_slow(requests)),
        tuple(_failures(failed, heard.lost, at)),
        frozenset(each.version for each in requests if each.version),
    )


def _too_slow(requests: Sequence[Request]) -> Iterator[str]:
    for client in CLIENTS:
        rate = _rate([each for each in requests if each.client == client])
        if rate < LEAST_RATE:
            yield f"{client} began {rate:.1f} requests a second, not {LEAST_RATE}"


def _missed(event: Event, figures: Figures) -> Iterator[str]:
    """Yield a sentence for each bar that was missed."""
    if event.may_gap:
        if figures.gap_said_s is None:
            yield "no status said before for how long nothing would answer"
        elif figures.gap_s > figures.gap_said_s:
            yield f"nothing answered for {figures.gap_s} s, not {figures.gap_said_s}"
        return
    allowed = figures.in_flight_at_event if event.may_cut else 0
    if figures.failed > allowed:
        yield f"{figures.failed} requests failed, not {allowed}"


def _rate(requests: Sequence[Request]) -> float:
    if len(requests) < 2:
        return 0.0
    return (len(requests) - 1) / (requests[-1].at - requests[0].at)


def _failures(failed: Iterable[Request], lost: int, at: float) -> Iterator[str]:
    if lost:
        yield f"{lost} requests had not ended when all should have"
    for each in failed:
        when = f"{each.at - at:+.2f} s after the event"
        yield f"{when}, {each.client}, after {each.ms:.0f} ms: {each.error[:200]}"
