"""Bounds by the clock: cron expressions in a time zone.

cronsim reads them: it has no dependencies, knows Debian's behaviour at the change to and from
summer time, and looks backwards, which is what is asked here: has `start` come later than `end`? A
minimum begins a start-up early, so that the replicas are there when it does; a maximum in time.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import inf
from operator import itemgetter
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from lepton_operator.autoscale.values import Schedule, Spec

_MINUTE = 60
# An expression must come in the five years from here: a 29 February does. What is rarer is a slip,
# and a search for it walks through decades of days.
_SEARCHED_FROM = datetime(2026, 1, 1, tzinfo=UTC)
_SEARCHED_TO = _SEARCHED_FROM + timedelta(days=5 * 365)
_KNOWN = 65_536  # 20 schedules of 1,000 services, each with a start and an end of its own

# Of now and of a start-up later, which is not the same for each service.
_SPANS = 4


class Bounds(NamedTuple):
    """The least and the most replicas, and the schedules that say so; None: the spec does."""

    least: int
    most: int
    least_by: Schedule | None = None
    most_by: Schedule | None = None


def bounds(spec: Spec, now: float, startup_seconds: float) -> Bounds:
    """Return the bounds of now, and already the minimum of a start-up later if it is higher."""
    if not spec.schedules:
        return Bounds(spec.min_replicas, spec.max_replicas)
    found, soon = _bounds_at(spec, now), _bounds_at(spec, now + startup_seconds)
    if soon.least > found.least:
        found = found._replace(least=soon.least, least_by=soon.least_by)
    if found.least > found.most:
        return found._replace(most=found.least, most_by=found.least_by)
    return found


def _bounds_at(spec: Spec, now: float) -> Bounds:
    """Return the highest minimum and the highest maximum of the schedules that hold."""
    holding = [each for each in spec.schedules if _holds(each, now)]
    least, least_by = _highest(((each.min_replicas, each) for each in holding), spec.min_replicas)
    most, most_by = _highest(((each.max_replicas, each) for each in holding), spec.max_replicas)
    return Bounds(least, most, least_by, most_by)


def _highest(
    bounds_by: Iterable[tuple[int | None, Schedule]], otherwise: int
) -> tuple[int, Schedule | None]:
    said = ((bound, by) for bound, by in bounds_by if bound is not None)
    return max(said, key=itemgetter(0), default=(otherwise, None))


@lru_cache(maxsize=_KNOWN)
def problem(schedule: Schedule) -> str:
    """Return why a schedule never holds, and what to do; nothing if it can."""
    try:
        ZoneInfo(schedule.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return (
            f"the time zone {schedule.time_zone!r} does not exist: name one of IANA's, "
            "e.g. Europe/Berlin"
        )
    return _unread(schedule.start) or _unread(schedule.end) or _ends_at_once(schedule)


def _unread(expression: str) -> str:
    try:
        first = next(CronSim(expression, _SEARCHED_FROM), None)
    except CronSimError as error:
        return f"{expression!r} is no cron expression ({error}): write e.g. 0 8 * * 1-5"
    if first is None or first > _SEARCHED_TO:
        return f"{expression!r} does not come once in five years: write e.g. 0 8 * * 1-5"
    return ""


def _ends_at_once(schedule: Schedule) -> str:
    start, end = (CronSim(each, _SEARCHED_FROM) for each in (schedule.start, schedule.end))
    fields = ("minutes", "hours", "days", "months", "weekdays")
    within = (getattr(start, each) <= getattr(end, each) for each in fields)
    if start.day_and != end.day_and or not all(within):
        return ""
    return (
        f"it ends whenever it starts, since {schedule.end!r} comes with each {schedule.start!r}: "
        "set another end, or minReplicas and maxReplicas themselves if they are to hold always"
    )


def _holds(schedule: Schedule, now: float) -> bool:
    if problem(schedule):
        return False
    started = _times(schedule.start, schedule.time_zone).last(now)
    return started > _times(schedule.end, schedule.time_zone).last(now)


@lru_cache(maxsize=_KNOWN)
def _times(expression: str, time_zone: str) -> _Times:
    return _Times(expression, time_zone)


class _Times:
    """When an expression comes, in a zone: between two times the calendar is looked at once."""

    def __init__(self, expression: str, time_zone: str) -> None:
        self._expression = expression
        self._zone = ZoneInfo(time_zone)
        self._spans: tuple[tuple[float, float], ...] = ()  # from one time to the next

    def last(self, now: float) -> float:
        """Return the newest time up to now, in seconds since the epoch; -inf if there is none."""
        for last, coming in self._spans:
            if last <= now < coming:
                return last
        span = self._span(int(now // _MINUTE) * _MINUTE)
        self._spans = (span, *self._spans)[:_SPANS]
        return span[0]

    def _span(self, minute: int) -> tuple[float, float]:
        # What is looked for is before, or after, the time that is given: not at it.
        last = next(CronSim(self._expression, self._at(minute + _MINUTE), reverse=True), None)
        coming = next(CronSim(self._expression, self._at(minute)), None)
        if coming and coming.timestamp() <= minute:
            # Of an hour that comes twice the first counts, and it has been.
            return coming.timestamp(), minute + _MINUTE
        return last.timestamp() if last else -inf, coming.timestamp() if coming else inf

    def _at(self, seconds: int) -> datetime:
        return datetime.fromtimestamp(seconds, tz=UTC).astimezone(self._zone)
