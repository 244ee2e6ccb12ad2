"""The figures of a rollout, from requests that were made up."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from e2e.load import CLIENTS, Heard, Request
from e2e.load.requests import (
    gap_seconds,
    heard,
    in_flight,
    percentile_ms,
    read,
)
from e2e.rollout.events import Event
from e2e.rollout.measure import judged
from e2e.rollout.said import Saying, Sayings

EVENT_AT = 110.0


def request(number: int, at: float, *, client: str = "keep_alive", error: str = "") -> Request:
    return Request(client, number, at, ms=50.0, version="" if error else "1", error=error)


def requests(*failed: int, rate: float = 26.0, seconds: float = 20.0) -> list[Request]:
    """Return those of all clients from 100 s on; these numbers of each failed."""
    found = [
        request(number, 100 + number / rate, client=client, error="503" if number in failed else "")
        for client in CLIENTS
        for number in range(int(seconds * rate))
    ]
    return sorted(found, key=lambda each: each.at)


def saying(at: float, gap: int | None, sentence: str = "") -> Saying:
    rollout = {"waitingFor": sentence} | ({"gapSeconds": gap} if gap is not None else {})
    return Saying(at, {"rollout": rollout})


def never() -> Event:
    return Event(lambda _: EVENT_AT)


def test_what_is_written_is_read_up_to_the_last_whole_line(tmp_path: Path) -> None:
    whole = request(0, 1.5)
    (tmp_path / "told").write_text(f'{json.dumps(asdict(whole))}\n{{"client": "keep_al')
    assert read([tmp_path / "told", tmp_path / "not yet"]) == [whole]


def test_a_request_that_was_begun_and_has_not_ended_is_lost() -> None:
    found = [request(0, 1.0), request(2, 3.0)]
    assert heard(found, ["keep_alive"], 2.5) == Heard(found[:1], lost=1)
    whole = [*found, request(1, 2.0)]
    assert heard(whole, ["keep_alive"], 2.5) == Heard([whole[0], whole[2]])


def test_nothing_is_known_before_every_client_has_begun_a_later_one() -> None:
    assert heard([request(0, 1.0)], ["keep_alive"], 2.5) is None
    assert heard([request(0, 1.0), request(1, 3.0)], CLIENTS, 2.5) is None


def test_a_request_that_looked_at_the_clock_late_is_not_lost() -> None:
    found = [request(0, 1.0), request(2, 2.4), request(1, 2.6), request(3, 2.7)]
    assert heard(found, ["keep_alive"], 2.5) == Heard(found[:1])


def test_who_is_in_flight_has_begun_and_not_ended() -> None:
    found = [request(0, 109.9), request(1, 109.96), request(2, 110.01)]
    assert in_flight(found, 110.0) == 1


def test_a_percentile_is_one_of_the_times() -> None:
    found = [Request("keep_alive", n, 1.0, ms=float(n), version="1", error="") for n in range(200)]
    assert percentile_ms(found, 0.99) == 197.0
    assert percentile_ms([], 0.99) == 0.0


def test_a_gap_is_from_the_first_failure_to_the_first_answer_after_the_last() -> None:
    found = [request(n, 100.0 + n, error="503" if n in (2, 4) else "") for n in range(8)]
    assert gap_seconds(found) == 3.0
    assert gap_seconds(found[:2]) == 0.0


def test_nothing_is_missed_where_nothing_fails() -> None:
    found = judged(never(), Heard(requests()), EVENT_AT, Sayings())
    assert (found.missed, found.too_slow, found.figures.failed) == ((), (), 0)


def test_one_request_that_never_ends_is_one_too_many() -> None:
    found = judged(never(), Heard(requests(), lost=1), EVENT_AT, Sayings())
    assert (found.figures.failed, bool(found.missed)) == (1, True)


def test_one_request_that_fails_is_one_too_many() -> None:
    assert judged(never(), Heard(requests(7)), EVENT_AT, Sayings()).missed


@pytest.mark.parametrize(("failed", "missed"), [([259, 260], False), ([259, 260, 261], True)])
def test_a_kill_may_cut_what_was_on_its_way(failed: list[int], *, missed: bool) -> None:
    killed = Event(lambda _: EVENT_AT, may_cut=True)
    found = judged(killed, Heard(requests(*failed)), EVENT_AT + 0.001, Sayings())
    assert found.figures.in_flight_at_event == 2 * len(CLIENTS)
    assert bool(found.missed) is missed


SENTENCE = "an old pod goes for it, and nothing answers for up to about 9 s"


@pytest.mark.parametrize(
    ("sayings", "missed"),
    [
        ([saying(105, 9, SENTENCE)], False),
        ([saying(105, None)], True),
        ([saying(105, 9)], True),
        ([saying(111, 9, SENTENCE)], True),
        ([saying(105, 1, SENTENCE.replace("9", "1"))], True),
    ],
    ids=["said", "not said", "no sentence", "said too late", "said too short"],
)
def test_a_gap_must_be_said_before(sayings: list[Saying], *, missed: bool) -> None:
    gap = Event(lambda _: EVENT_AT, may_gap=True)
    found = judged(gap, Heard(requests(*range(270, 320))), EVENT_AT, Sayings(sayings))
    assert found.figures.gap_s == pytest.approx(1.9)
    assert bool(found.missed) is missed


def test_a_client_that_asks_too_seldom_proves_nothing() -> None:
    found = judged(never(), Heard(requests(rate=20.0)), EVENT_AT, Sayings())
    assert len(found.too_slow) == len(CLIENTS)
