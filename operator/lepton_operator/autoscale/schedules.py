"""Bounds by the clock: cron expressions in a time zone.

cronsim reads them: it has no dependencies, knows Debian's behaviour at the change to and from
summer time, and looks backwards, which is all that is asked here: has `start` come later than
`end`? A schedule begins a start-up early, so that the replicas are there when it does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from lepton_operator.autoscale.values import Schedule, Spec

_MINUTE = 60


def bounds(spec: Spec, now: float, startup_seconds: float) -> tuple[int, int, Schedule | None]:
    """Return the least and the most replicas now, and the schedule that says so.

    Of several schedules that hold the highest minimum and the highest maximum are taken.
    """
    least, most, by = spec.min_replicas, spec.max_replicas, None
    current = [
        each
        for each in spec.schedules
        if not problem(each) and (_holds(each, now) or _holds(each, now + startup_seconds))
    ]
    minima = [each for each in current if each.min_replicas is not None]
    maxima = [each.max_replicas for each in current if each.max_replicas is not None]
    if minima:
        by = max(minima, key=lambda each: each.min_replicas or 0)
        least = by.min_replicas or least
    if maxima:
        most = max(maxima)
        by = by or current[0]
    return least, max(least, most), by


@lru_cache(maxsize=65_536)
def problem(schedule: Schedule) -> str:
    """Return why a schedule never holds, and what to do; nothing if it can."""
    try:
        ZoneInfo(schedule.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return (
            f"the time zone {schedule.time_zone!r} does not exist: name one of IANA's, "
            "e.g. Europe/Berlin"
        )
    for expression in (schedule.start, schedule.end):
        try:
            CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            return f"{expression!r} is no cron expression ({error}): write e.g. 0 8 * * 1-5"
    return ""


def _holds(schedule: Schedule, now: float) -> bool:
    return _holds_in(schedule, int(now // _MINUTE))


@lru_cache(maxsize=65_536)
def _holds_in(schedule: Schedule, minute: int) -> bool:
    zone = ZoneInfo(schedule.time_zone)
    # Looking back from the end of the minute: a time on the minute itself has come.
    when = datetime.fromtimestamp((minute + 1) * _MINUTE, tz=UTC).astimezone(zone)
    started, ended = _last(schedule.start, when), _last(schedule.end, when)
    return started is not None and (ended is None or ended < started)


def _last(expression: str, when: datetime) -> datetime | None:
    return next(CronSim(expression, when, reverse=True), None)
