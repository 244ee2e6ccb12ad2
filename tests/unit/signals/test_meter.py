"""What pods counted, added up across their ends and starts."""

from __future__ import annotations

import pytest

from lepton_operator.autoscale.values import Computed
from lepton_operator.signals.counts import Counts, DoorCounts, TritonCounts
from lepton_operator.signals.meter import Meter, Totals

PHASES = {"a": 0.1, "b": 0.9}


def doors(**counted: tuple[float, float, float]) -> Counts:
    """Counts of doors: the time of the sample, the arrivals, and what is active."""
    return Counts(
        {pod: DoorCounts(at, arrivals, active) for pod, (at, arrivals, active) in counted.items()}
    )


def arrivals(*looks: Counts) -> list[float]:
    meter = Meter()
    totals = [meter.add(each) for each in looks]
    return [each.arrivals for each in totals if each is not None]


def test_the_first_look_is_the_beginning() -> None:
    assert arrivals(doors(a=(0, 1000, 2))) == [0]


def test_what_doors_count_in_between_is_added_up() -> None:
    assert arrivals(doors(a=(0, 10, 0), b=(0, 5, 0)), doors(a=(2, 12, 0), b=(2, 9, 0))) == [0, 6]


def test_a_door_that_began_anew_counts_from_nothing() -> None:
    assert arrivals(doors(a=(0, 1000, 0)), doors(a=(2, 3, 0))) == [0, 3]


def test_a_door_that_was_there_before_it_was_seen_counts_from_now_on() -> None:
    looks = (
        doors(a=(0, 10, 0)),
        doors(a=(2, 11, 0), b=(2, 900, 0)),
        doors(a=(4, 11, 0), b=(4, 903, 0)),
    )
    assert arrivals(*looks) == [0, 1, 4]


def test_a_door_that_is_gone_takes_nothing_back() -> None:
    assert arrivals(doors(a=(0, 10, 0), b=(0, 90, 0)), doors(a=(2, 15, 0))) == [0, 5]


def test_a_door_that_missed_a_look_loses_nothing() -> None:
    looks = (
        doors(a=(0, 10, 0), b=(0, 90, 0)),
        doors(a=(2, 10, 0)),
        doors(a=(4, 10, 0), b=(4, 95, 0)),
    )
    assert arrivals(*looks) == [0, 0, 5]


def test_a_door_that_is_there_and_tells_nothing_makes_no_other_demand() -> None:
    meter, there, rates = Meter(), ("a", "b"), []
    before = meter.add(doors(a=(0, 0, 3), b=(0, 0, 3)), there)
    for at in range(2, 40, 2):
        told = {"a": (at, at * 20, 3)} | ({} if 10 <= at < 18 else {"b": (at, at * 20, 3)})
        now = meter.add(doors(**told), there)
        assert now is not None
        assert before is not None
        assert now.in_flight == 6
        rates.append((now.arrivals - before.arrivals) / (now.at - before.at))
        before = now
    assert rates == [pytest.approx(40)] * len(rates)
    assert before is not None
    assert before.at == 38


def test_what_came_while_one_door_was_silent_is_no_demand_of_the_moment_it_speaks_again() -> None:
    looks = (
        doors(a=(0, 10, 0), b=(0, 90, 0)),
        doors(a=(60, 310, 0)),
        doors(a=(62, 320, 0), b=(62, 400, 0)),
        doors(a=(64, 330, 0), b=(64, 410, 0)),
    )
    assert arrivals(*looks) == [0, 300, 310, 330]


def test_what_is_in_flight_is_of_the_moment_and_the_time_lies_between_the_samples() -> None:
    meter = Meter()
    meter.add(doors(a=(0, 10, 7), b=(1, 5, 2)))
    totals = meter.add(doors(a=(4, 10, 3), b=(6, 5, 1)))
    assert totals is not None
    assert (totals.in_flight, totals.at) == (4, 5)


@pytest.mark.parametrize("share", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("interval", [1.0, 2.0, 5.0])
def test_doors_that_are_read_at_different_moments_show_no_demand_that_is_not_there(
    share: float, interval: float
) -> None:
    """Two doors with 100 requests a second, looked at each 2.04 s, for ten minutes."""
    meter, known, rates = Meter(), Totals(0.0), []
    for turn in range(1, 295):
        now = 2.04 * turn + 20
        at = {pod: (now - phase) // interval * interval + phase for pod, phase in PHASES.items()}
        counts = {"a": 100 * share * at["a"], "b": 100 * (1 - share) * at["b"]}
        totals = meter.add(doors(**{pod: (at[pod], counts[pod], 1) for pod in at}))
        assert totals is not None
        if totals.at > known.at > 0:
            rates.append((totals.arrivals - known.arrivals) / (totals.at - known.at))
        known = totals
    # What each door has is not known before each was read twice.
    assert all(rate == pytest.approx(100) for rate in rates[4:])
    assert max(rates) <= 200
    assert known.at == pytest.approx(now, abs=interval)


def test_no_door_tells_nothing_and_forgets_nothing() -> None:
    meter = Meter()
    meter.add(doors(a=(0, 10, 0)))
    assert meter.add(Counts()) is None
    totals = meter.add(doors(a=(4, 13, 0)))
    assert totals is not None
    assert totals.arrivals == 3


def test_what_tritons_counted_is_in_seconds_with_what_was_before_anybody_looked() -> None:
    meter, door = Meter(), {"a": DoorCounts(0, 0, 0)}
    meter.add(Counts(door, {"t": TritonCounts(10, 5, 2_000_000)}))
    totals = meter.add(Counts(door, {"t": TritonCounts(16, 8, 2_600_000, hits=4)}))
    assert totals is not None
    assert totals.computed == pytest.approx(Computed(16, 2.6, 8, 4))


def test_a_triton_that_began_anew_counts_from_nothing() -> None:
    meter, door = Meter(), {"a": DoorCounts(0, 0, 0)}
    meter.add(Counts(door, {"t": TritonCounts(10, 5, 2_000_000)}))
    meter.add(Counts(door))  # the doors were asked, who know no Triton
    totals = meter.add(Counts(door, {"t": TritonCounts(2, 1, 400_000)}))
    assert totals is not None
    assert totals.computed == pytest.approx(Computed(12, 2.4, 6))


def test_a_triton_that_tells_nothing_for_a_look_is_not_counted_anew() -> None:
    meter, door = Meter(), {"a": DoorCounts(0, 0, 0)}
    both = {"t": TritonCounts(1000, 500, 2_000_000), "u": TritonCounts(9, 9, 900_000)}
    meter.add(Counts(door, both), (), both)
    meter.add(Counts(door, {"u": both["u"]}), (), both)
    totals = meter.add(Counts(door, both), (), both)
    assert totals is not None
    assert totals.computed == pytest.approx(Computed(1009, 2.9, 509))
    # One that is gone is forgotten: who has its name after it begins from nothing.
    meter.add(Counts(door, {"u": both["u"]}), (), {"u"})
    assert meter.tritons.keys() == {"u"}


def test_what_a_triton_computed_before_it_was_told_of_is_of_another_time() -> None:
    meter, door = Meter(), {"a": DoorCounts(0, 0, 0)}
    meter.add(Counts(door, {"t": TritonCounts(10, 5, 2_000_000)}))
    late = {"t": TritonCounts(12, 6, 2_400_000), "u": TritonCounts(1000, 500, 9_000_000)}
    totals = meter.add(Counts(door, late))
    assert totals is not None
    assert totals.computed == pytest.approx(Computed(12, 2.4, 6))


def test_the_first_triton_counts_whenever_it_is_told_of() -> None:
    meter, door = Meter(), {"a": DoorCounts(0, 0, 0)}
    meter.add(Counts(door))
    totals = meter.add(Counts(door, {"t": TritonCounts(2, 2, 200_000, hits=38)}))
    assert totals is not None
    assert totals.computed == pytest.approx(Computed(2, 0.2, 2, 38))


def latency(*looks: DoorCounts) -> list[tuple[float, float]]:
    """The completions, and the seconds that they took together, of one door's looks."""
    meter = Meter()
    totals = [meter.add(Counts({"a": each})) for each in looks]
    return [(each.completions, each.latency_seconds) for each in totals if each is not None]


def test_what_was_answered_is_the_doors_own_word_less_what_it_refused() -> None:
    before = DoorCounts(0, 10, 0, rejected=1, answers=10, milliseconds=1000)
    after = DoorCounts(2, 30, 0, rejected=3, answers=28, milliseconds=2600)
    assert latency(before, after) == [(0, 0), (16, 1.6)]


def test_a_door_that_tells_no_latencies_shows_them_by_littles_law() -> None:
    before, after = DoorCounts(0, 100, 4, rejected=0), DoorCounts(2, 140, 6, rejected=5)
    assert latency(before, after) == [(0, 0), (33, 10)]


def test_two_sources_in_turn_count_nothing_twice() -> None:
    looks = (
        DoorCounts(0, 1000, 0, answers=1000, milliseconds=1e5),
        DoorCounts(2, 1020, 0),
        DoorCounts(4, 1040, 0, answers=1040, milliseconds=1.04e5),
        DoorCounts(6, 1060, 0, answers=1055, milliseconds=1.06e5),
    )
    assert [done for done, _ in latency(*looks)] == [0, 20, 40, 55]


def test_a_sample_that_is_no_newer_is_none() -> None:
    looks = doors(a=(0, 10, 0)), doors(a=(4, 20, 0)), doors(a=(2, 15, 0)), doors(a=(6, 21, 0))
    assert arrivals(*looks) == [0, 10, 10, 11]


def test_two_datings_of_one_moment_are_no_rate() -> None:
    looks = doors(a=(0, 10, 0)), doors(a=(0.1, 60, 0)), doors(a=(2, 110, 0))
    assert arrivals(*looks) == [0, 0, 100]


def test_a_clock_that_was_set_back_stops_nothing() -> None:
    meter = Meter()
    for look in (doors(a=(7200, 10, 1)), doors(a=(3600, 15, 2)), doors(a=(3602, 18, 3))):
        totals = meter.add(look)
    assert totals is not None
    assert (totals.at, totals.arrivals, totals.in_flight) == (3602, 8, 3)
