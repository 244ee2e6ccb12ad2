from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest

from lepton_operator.autoscale.schedules import Bounds, bounds, problem
from lepton_operator.autoscale.values import Schedule, Spec

OFFICE = Schedule("0 8 * * 1-5", "0 18 * * 1-5", "Europe/Berlin", min_replicas=6)
SPEC = Spec(0.5, 95.0, min_replicas=1, max_replicas=10, schedules=(OFFICE,))
BERLIN = ZoneInfo("Europe/Berlin")


def at(*moment: int, zone: tzinfo = BERLIN) -> float:
    return datetime(*moment, tzinfo=zone).timestamp()  # type: ignore[arg-type,misc]


def least(spec: Spec, now: float, startup_seconds: float = 0.0) -> int:
    return bounds(spec, now, startup_seconds)[0]


def test_it_holds_from_start_to_end() -> None:
    assert least(SPEC, at(2026, 11, 23, 7, 59, 59)) == 1
    assert least(SPEC, at(2026, 11, 23, 8)) == 6
    assert least(SPEC, at(2026, 11, 23, 17, 59)) == 6
    assert least(SPEC, at(2026, 11, 23, 18)) == 1
    assert least(SPEC, at(2026, 11, 22, 12)) == 1  # a Sunday


def test_it_begins_a_start_up_early() -> None:
    assert least(SPEC, at(2026, 11, 23, 7, 56), 300.0) == 6
    assert least(SPEC, at(2026, 11, 23, 7, 54), 300.0) == 1
    assert least(SPEC, at(2026, 11, 23, 17, 58), 300.0) == 6


def test_the_hour_is_that_of_the_zone_in_summer_and_in_winter() -> None:
    summer, winter = datetime(2026, 7, 1, 6, tzinfo=UTC), datetime(2026, 12, 1, 7, tzinfo=UTC)
    for starts in (summer, winter):
        assert least(SPEC, starts.timestamp()) == 6
        assert least(SPEC, starts.timestamp() - 60) == 1


def test_an_hour_that_the_clock_skips_still_starts_it() -> None:
    early = Schedule("30 2 * * *", "0 4 * * *", "Europe/Berlin", min_replicas=3)
    spec = Spec(0.5, 95.0, max_replicas=10, schedules=(early,))
    assert least(spec, at(2026, 3, 29, 3, 30)) == 3


def test_of_several_the_highest_bounds_hold() -> None:
    week = Schedule("0 0 * * 1", "0 0 * * 0", "UTC", min_replicas=2, max_replicas=20)
    spec = Spec(0.5, 95.0, max_replicas=10, schedules=(OFFICE, week))
    assert bounds(spec, at(2026, 11, 23, 12), 0.0)[:2] == (6, 20)
    assert bounds(spec, at(2026, 11, 23, 20), 0.0)[:2] == (2, 20)


def test_a_maximum_below_the_minimum_of_another_schedule_gives_way() -> None:
    cap = Schedule("0 0 * * *", "0 23 * * *", "UTC", max_replicas=2)
    spec = Spec(0.5, 95.0, max_replicas=10, schedules=(OFFICE, cap))
    assert bounds(spec, at(2026, 11, 23, 12), 0.0) == Bounds(6, 6, OFFICE, OFFICE)
    assert bounds(spec, at(2026, 11, 23, 20), 0.0) == Bounds(1, 2, None, cap)


def test_a_maximum_begins_and_ends_in_time() -> None:
    night = Schedule("0 22 * * *", "0 6 * * *", "Europe/Berlin", max_replicas=2)
    spec = Spec(0.5, 95.0, max_replicas=10, schedules=(night,))
    assert bounds(spec, at(2026, 11, 23, 21, 59), 300.0) == Bounds(1, 10)
    assert bounds(spec, at(2026, 11, 23, 22), 300.0) == Bounds(1, 2, None, night)
    assert bounds(spec, at(2026, 11, 24, 5, 59), 300.0) == Bounds(1, 2, None, night)
    assert bounds(spec, at(2026, 11, 24, 6), 300.0) == Bounds(1, 10)


def test_after_a_lower_minimum_the_higher_one_is_back_in_time() -> None:
    night = Schedule("0 22 * * *", "0 6 * * *", "Europe/Berlin", min_replicas=1)
    spec = Spec(0.5, 95.0, min_replicas=4, max_replicas=10, schedules=(night,))
    assert least(spec, at(2026, 11, 23, 21, 56), 300.0) == 4
    assert least(spec, at(2026, 11, 23, 22), 300.0) == 1
    assert least(spec, at(2026, 11, 24, 5, 56), 300.0) == 4


def test_a_minimum_that_comes_early_is_not_capped_by_the_maximum_of_now() -> None:
    sale = Schedule("0 8 * * *", "0 18 * * *", "UTC", min_replicas=15, max_replicas=20)
    spec = Spec(0.5, 95.0, max_replicas=10, schedules=(sale,))
    assert bounds(spec, at(2026, 11, 23, 7, 56, zone=UTC), 300.0)[:2] == (15, 15)
    assert bounds(spec, at(2026, 11, 23, 8, zone=UTC), 300.0)[:2] == (15, 20)


@pytest.mark.parametrize(
    ("zone", "minutes"),
    [("Europe/Berlin", (-1, 0, 30, 45, 60, 149, 150)), ("Europe/Rome", (45, 30, 0, -1))],
)
def test_in_an_hour_that_comes_twice_it_begins_once(zone: str, minutes: tuple[int, ...]) -> None:
    early = Schedule("30 2 * * *", "0 4 * * *", zone, min_replicas=3)
    spec = Spec(0.5, 95.0, max_replicas=10, schedules=(early,))
    begins = at(2026, 10, 25, 2, 30)
    found = [least(spec, begins + 60 * each) for each in minutes]
    assert found == [3 if 0 <= each < 150 else 1 for each in minutes]


def test_what_is_asked_in_any_order_is_answered_alike() -> None:
    moments = [at(2026, 11, 23, hour) for hour in range(24)]
    forth = [least(SPEC, each) for each in moments]
    assert [least(SPEC, each) for each in reversed(moments)] == forth[::-1]


# For each of them decades of days would be looked at, or of Februaries.
RARE = ("1 * */99999 * 5L", "1 0 LW * */31", "0 0 * 2 1#5", "0 0 29 2 */7")


@pytest.mark.parametrize("expression", RARE)
def test_what_does_not_come_in_five_years_is_said(expression: str) -> None:
    assert "does not come once in five years" in problem(replace(OFFICE, end=expression))


@pytest.mark.parametrize(
    "expression", [*RARE, "0 0 29 2 *", "0 0 */31 2 5", "* 0 1 1-5/2 */1", "1 3 * * */99999"]
)
def test_a_look_over_twenty_schedules_takes_a_few_milliseconds(expression: str) -> None:
    zones = [f"Etc/GMT{hours:+}" for hours in range(-9, 11)]
    twenty = tuple(replace(OFFICE, start=expression, time_zone=zone) for zone in zones)
    spec = replace(SPEC, schedules=twenty)
    now = at(2026, 11, 23, 12)
    bounds(spec, now, 60.0)
    began = time.process_time()
    for turn in range(1, 101):
        bounds(spec, now + 60 * turn, 60.0)
    assert (time.process_time() - began) / 100 < 0.005


def test_at_its_start_services_that_start_in_other_times_do_not_look_anew() -> None:
    now = at(2026, 11, 23, 7, 59)
    began = time.process_time()
    for turn in range(10_000):
        bounds(SPEC, now, 30.0 + turn % 300)
    assert (time.process_time() - began) / 10_000 < 50e-6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"time_zone": "Europe/Atlantis"}, "the time zone 'Europe/Atlantis' does not exist"),
        ({"time_zone": "../etc/passwd"}, "does not exist"),
        ({"time_zone": ""}, "does not exist"),
        ({"start": "0 25 * * *"}, "'0 25 * * *' is no cron expression (Bad hour)"),
        ({"end": "whenever"}, "'whenever' is no cron expression"),
        ({"end": "0 0 30 2 *"}, "is no cron expression"),
        ({"end": OFFICE.start}, "it ends whenever it starts"),
        ({"end": "0 * * * *"}, "it ends whenever it starts"),
        ({"end": "0 8,18 * * *"}, "it ends whenever it starts"),
    ],
)
def test_one_that_cannot_be_read_never_holds_and_says_why(
    changes: dict[str, str], says: str
) -> None:
    broken = replace(OFFICE, **changes)  # type: ignore[arg-type]
    assert says in problem(broken)
    spec = replace(SPEC, schedules=(broken,))
    assert bounds(spec, at(2026, 11, 23, 12), 0.0) == Bounds(1, 10)


def test_one_that_can_be_read_has_no_problem() -> None:
    assert problem(OFFICE) == ""


def test_where_only_some_starts_are_ends_the_others_hold() -> None:
    daily = replace(OFFICE, start="0 8 * * *", end="0 8 * * 1")
    assert problem(daily) == ""
    spec = replace(SPEC, schedules=(daily,))
    assert bounds(spec, at(2026, 11, 24, 12), 0.0).least == daily.min_replicas
    assert bounds(spec, at(2026, 11, 23, 12), 0.0).least == 1
