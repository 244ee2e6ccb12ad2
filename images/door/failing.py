"""Which pods fail their requests: by the requests that Envoy tells of, and by what it counts.

Envoy writes a line for each request that failed at a pod, and for each pod that it takes out or
back (`ejection`). Nothing is looked at while it writes nothing. Else its counts tell whether the
pod answered anything in between: a pod fails when Envoy took it out, or when it failed
`ENOUGH_ERRORS` requests and answered none. Envoy never takes out more than half of the pods, so
that the second rule is the only one that sees all of them fail. A pod fails no longer once it has
answered a request without an error, of whichever protocol, or gets none any more because it is
unready, or gone.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from images.door.admin import Admin, AdminError, Host, Place

ENOUGH_ERRORS = 5
"""As many in a row as Envoy takes a pod out for that does not answer (`door/clusters.py`)."""
LOOK_SECONDS = 2.0
"""Between two looks at the counts: at 1,000 services that is megabytes of text."""

# What the operator's listeners write (`door/listeners.py`): cluster, address, HTTP status, gRPC
# status, Envoy's flags.
_FAILED = re.compile(
    r"^(?P<cluster>[^ ]+) (?P<address>[^ ]+:\d+) (?P<status>\d+) (?P<grpc>-?\d+|-) (?P<flags>.*)$"
)
_NO_ANSWER = {
    "UF": "refused the connection",
    "UC": "closed the connection",
    "UR": "reset the request",
    "UT": "did not answer in time",
    "UPE": "answered what is no HTTP",
}
_UNREACHED = "could not be reached"
_EJECTED_FOR = {"CONSECUTIVE_LOCAL_ORIGIN_FAILURE": _UNREACHED}
_TOLD_BY_EJECTION = "answered with errors"


class Failure(NamedTuple):
    """Since when a pod fails, what it did first, and whether Envoy took it out for it."""

    since: str
    what: str
    ejected: bool

    def told(self) -> dict[str, Any]:
        return self._asdict()


@dataclass(frozen=True)
class State:
    """What is known of places with errors; `before` are the counts that a place is judged from."""

    before: Mapping[Place, Host]
    failing: Mapping[Place, Failure]


def of_whole_pods(hosts: Mapping[Place, Host]) -> dict[Place, Host]:
    """Return the hosts with what the pods answered at any port: one server is behind them all.

    Otherwise nonsense over one protocol would stand for ever where clients speak the other.
    """
    answered: Counter[tuple[str, str]] = Counter()
    for place, host in hosts.items():
        answered[place.pod] += host.successes
    return {place: host._replace(successes=answered[place.pod]) for place, host in hosts.items()}


def judged(
    state: State, hosts: Mapping[Place, Host], suspects: Iterable[Place], what: Mapping[Place, str]
) -> State:
    """Return what is known after a look at all hosts; `suspects` had errors since the last one."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    before: dict[Place, Host] = {}
    failing: dict[Place, Failure] = {}
    for place in {*suspects, *state.before, *state.failing}:
        host = hosts.get(place)
        if host is None or host.draining:
            continue
        # Of one that is new here it is not known how many of its errors came in a row.
        first = host if host.successes else host._replace(errors=0)
        counted = state.before.get(place, first)
        has_answered = host.successes != counted.successes
        before[place] = host if has_answered else counted
        known = state.failing.get(place)
        fails = host.ejected or (
            not has_answered
            and (known is not None or host.errors - counted.errors >= ENOUGH_ERRORS)
        )
        if fails:
            found = known or Failure(now, what.get(place, _TOLD_BY_EJECTION), host.ejected)
            failing[place] = found._replace(ejected=found.ejected or host.ejected)
    return State(before, failing)


class Failing:
    """Takes in what Envoy writes, looks when there is a reason, and tells who waits for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._alarm = threading.Event()
        self._errors: Counter[Place] = Counter()
        self._what: dict[Place, str] = {}
        self._state = State({}, {})

    def read(self, lines: Iterable[str]) -> None:
        """Take in every line until there are no more: a pipe that is full would hold up Envoy."""
        for line in lines:
            if line.startswith("{"):
                self._ejection(line)
            else:
                self._failed(line)

    def watch(self, admin: Admin) -> None:
        """Look for ever: when something fails, and until all that did answer again."""
        while True:
            self._alarm.wait(LOOK_SECONDS if self._state.failing else None)
            self._alarm.clear()
            try:
                self._look(of_whole_pods(admin.hosts()))
            except AdminError:
                self._alarm.set()  # it is busy, or ends
            time.sleep(LOOK_SECONDS)

    def told(self) -> dict[str, dict[str, Any]]:
        """Return the pods that fail: cluster -> address -> since when, and what they did."""
        found: dict[str, dict[str, Any]] = {}
        for place, failure in sorted(self._state.failing.items()):
            found.setdefault(place.cluster, {})[place.address] = failure.told()
        return found

    def wait(self, known: object, seconds: float) -> dict[str, dict[str, Any]]:
        """Return what is told as soon as it is something else, or after some seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.told() != known, seconds)
            return self.told()

    def _failed(self, line: str) -> None:
        found = _FAILED.match(line)
        if found is None:
            return
        place = Place(found["cluster"], found["address"])
        self._errors[place] += 1
        self._what.setdefault(place, _described(found))
        if self._errors[place] >= ENOUGH_ERRORS:
            self._alarm.set()

    def _ejection(self, line: str) -> None:
        try:
            event = json.loads(line)
            place = Place(event["cluster_name"], event["upstream_url"])
            why = _EJECTED_FOR.get(event["type"], _TOLD_BY_EJECTION)
        except (ValueError, KeyError, TypeError):
            return
        self._errors[place] += ENOUGH_ERRORS
        self._what.setdefault(place, why)
        self._alarm.set()

    def _look(self, hosts: Mapping[Place, Host]) -> None:
        suspects = [each for each, count in list(self._errors.items()) if count >= ENOUGH_ERRORS]
        state = judged(self._state, hosts, suspects, self._what)
        for place in [*suspects, *(each for each in list(self._errors) if each not in hosts)]:
            self._errors.pop(place, None)
        for place in [each for each in list(self._what) if each not in state.failing]:
            if place not in self._errors:
                self._what.pop(place, None)
        with self._changed:
            self._state = state
            self._changed.notify_all()


def _described(found: re.Match[str]) -> str:
    flags = found["flags"].split(",")
    said = next((_NO_ANSWER[flag] for flag in flags if flag in _NO_ANSWER), None)
    if said is not None:
        return said
    if found["grpc"] not in ("-", "0"):
        return f"answered with gRPC status {found['grpc']}"
    return f"answered with HTTP status {found['status']}"
