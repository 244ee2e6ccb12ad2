from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from lepton_operator.autoscale.schedules import bounds, problem
from lepton_operator.autoscale.values import Schedule, Spec

OFFICE = Schedule("0 8 * * 1-5", "0 18 * * 1-5", "Europe/Berlin", min_replicas=6)
SPEC = Spec(0.5, 95.0, min_replicas=1, max_replicas=10, schedules=(OFFICE,))
BERLIN = ZoneInfo("Europe/Berlin")


def at(*moment: int, zone: ZoneInfo = BERLIN) -> float:
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


def test_a_maximum_below_the_minimum_gives_way() -> None:
    night = Schedule("0 0 * * *", "0 6 * * *", "UTC", max_replicas=2)
    spec = Spec(0.5, 95.0, min_replicas=4, max_replicas=10, schedules=(night,))
    assert bounds(spec, at(2026, 11, 23, 3, zone=ZoneInfo("UTC")), 0.0)[:2] == (4, 4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"time_zone": "Europe/Atlantis"}, "the time zone 'Europe/Atlantis' does not exist"),
        ({"time_zone": "../etc/passwd"}, "does not exist"),
        ({"time_zone": ""}, "does not exist"),
        ({"start": "0 25 * * *"}, "'0 25 * * *' is no cron expression (Bad hour)"),
        ({"end": "whenever"}, "'whenever' is no cron expression"),
        ({"end": "0 0 30 2 *"}, "is no cron expression"),
    ],
)
def test_one_that_cannot_be_read_never_holds_and_says_why(
    changes: dict[str, str], says: str
) -> None:
    broken = replace(OFFICE, **changes)  # type: ignore[arg-type]
    assert says in problem(broken)
    spec = replace(SPEC, schedules=(broken,))
    assert bounds(spec, at(2026, 11, 23, 12), 0.0) == (1, 10, None)


def test_one_that_can_be_read_has_no_problem() -> None:
    assert problem(OFFICE) == ""
