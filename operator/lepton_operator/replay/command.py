"""The command `lepton-operator explain`."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from lepton_operator.replay import report
from lepton_operator.replay.fleets import AsItWas, Fleet, UnderTheLaw
from lepton_operator.replay.recording import STEP_SECONDS, Recording, load, record
from lepton_operator.replay.replay import measured_startup_seconds, replay
from lepton_operator.replay.wanted import asked_for
from lepton_operator.settings import Settings
from lepton_operator.settings import load as load_settings
from lepton_operator.signals.counts import Service
from lepton_operator.signals.prometheus import SignalError, Times

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def run(parsed: argparse.Namespace) -> int:
    """Print what was found; return the exit code."""
    try:
        # They are there where it is asked in the operator's pod.
        settings = load_settings(parsed.settings) if parsed.settings.exists() else None
        if parsed.recording:
            found = load(parsed.recording)
        else:
            found = asyncio.run(_recorded(parsed, settings))
        if parsed.record:
            found.write(parsed.record)
            print(f"{parsed.record}: {len(found.looks)} looks")
            return 0
        print(_explained(parsed, found, settings))
    except (SignalError, OSError, ValueError) as error:
        print(f"Nothing can be explained: {error}", file=sys.stderr)
        return 2
    return 0


async def _recorded(parsed: argparse.Namespace, settings: Settings | None) -> Recording:
    if not (parsed.namespace and parsed.service):
        raise ValueError("say --namespace and --service, or --recording.")
    url = parsed.prometheus or (settings.prometheus.url if settings else "")
    if not url:
        raise ValueError("say --prometheus: the settings name none.")
    now = time.time()
    times = Times(_moment(parsed.since, now), _moment(parsed.until, now), STEP_SECONDS)
    if times.start >= times.end:
        raise ValueError("--from must be before --to.")
    matchers = _matchers(parsed.matcher) or (settings.prometheus.matchers if settings else {})
    return await record(url, matchers, Service(parsed.namespace, parsed.service), times)


def _matchers(said: Sequence[str]) -> dict[str, str]:
    for each in said:
        if "=" not in each:
            raise ValueError(f"--matcher {each}: write LABEL=VALUE, e.g. cluster=blue.")
    return dict(each.split("=", 1) for each in said)


def _explained(parsed: argparse.Namespace, recording: Recording, settings: Settings | None) -> str:
    spec = asked_for(parsed, recording, settings)
    startup = parsed.startup_seconds or measured_startup_seconds(recording)
    fleet: Fleet = AsItWas() if parsed.as_it_was else UnderTheLaw(startup)
    steps = list(replay(recording, spec, fleet))
    found = report.summary(recording, steps, fleet, startup, parsed.gpus_per_replica)
    told = report.shown(steps, every=parsed.every)
    if parsed.output == "json":
        return report.as_json(recording, spec, found, told)
    return report.text(recording, found, told)


def _moment(said: str, now: float) -> float:
    """Return seconds since the epoch: of a time as ISO 8601 has it (UTC if it names no zone)."""
    if ago := re.fullmatch(r"(\d+)([smhd])", said):
        return now - int(ago[1]) * _UNITS[ago[2]]
    try:
        moment = datetime.fromisoformat(said)
    except ValueError:
        raise ValueError(
            f"{said!r} is no time: write e.g. 2026-11-22T20:46:00Z, or 90m for so long ago."
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
