"""The command `lepton-operator explain`."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from lepton_operator import settings
from lepton_operator.api.autoscaling import Autoscaling
from lepton_operator.api.inference import InferenceService
from lepton_operator.autoscale.values import Spec
from lepton_operator.replay import report
from lepton_operator.replay.fleets import AsItWas, Fleet, UnderTheLaw
from lepton_operator.replay.recording import STEP_SECONDS, Recording, load, record
from lepton_operator.replay.replay import measured_startup_seconds, replay
from lepton_operator.scaling.asked import spec as spec_of
from lepton_operator.signals.counts import Service
from lepton_operator.signals.prometheus import SignalError, Times

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def run(parsed: argparse.Namespace) -> int:
    """Print what was found; return the exit code."""
    try:
        found = load(parsed.recording) if parsed.recording else asyncio.run(_recorded(parsed))
        if parsed.record:
            found.write(parsed.record)
            print(f"{parsed.record}: {len(found.looks)} looks")
            return 0
        print(_explained(parsed, found))
    except (SignalError, OSError, ValueError) as error:
        print(f"Nothing can be explained: {error}", file=sys.stderr)
        return 2
    return 0


async def _recorded(parsed: argparse.Namespace) -> Recording:
    if not (parsed.namespace and parsed.service):
        raise ValueError("say --namespace and --service, or --recording.")
    known = settings.load(parsed.settings).prometheus if parsed.settings.exists() else None
    url = parsed.prometheus or (known.url if known else "")
    if not url:
        raise ValueError("say --prometheus: the settings name none.")
    now = time.time()
    times = Times(_moment(parsed.since, now), _moment(parsed.until, now), STEP_SECONDS)
    if times.start >= times.end:
        raise ValueError("--from must be before --to.")
    matchers = dict(each.split("=", 1) for each in parsed.matcher) or (known and known.matchers)
    return await record(url, matchers or {}, Service(parsed.namespace, parsed.service), times)


def _explained(parsed: argparse.Namespace, recording: Recording) -> str:
    spec = _spec(parsed, recording)
    startup = parsed.startup_seconds or measured_startup_seconds(recording)
    fleet: Fleet = AsItWas() if parsed.as_it_was else UnderTheLaw(startup)
    steps = list(replay(recording, spec, fleet))
    found = report.summary(recording, steps, fleet, startup, parsed.gpus_per_replica)
    told = report.shown(steps, every=parsed.every)
    if parsed.output == "json":
        return report.as_json(recording, spec, found, told)
    return report.text(recording, found, told)


def _spec(parsed: argparse.Namespace, recording: Recording) -> Spec:
    """Return the manifest's spec.autoscaling, with what the command line says in its place."""
    wanted = _manifest(parsed.manifest) if parsed.manifest else {}
    target = wanted.setdefault("target", {})
    bounds = {"minReplicas": parsed.min, "maxReplicas": parsed.max}
    latency = {"latencyMilliseconds": parsed.target_ms, "percentile": parsed.percentile}
    wanted |= {name: value for name, value in bounds.items() if value is not None}
    target |= {name: value for name, value in latency.items() if value is not None}
    if "latencyMilliseconds" not in target or "maxReplicas" not in wanted:
        raise ValueError("say --target-ms and --max, or --manifest with spec.autoscaling.")
    return spec_of(
        Autoscaling.model_validate(wanted),
        doors=recording.doors,
        max_batch=parsed.max_batch,
        max_age_seconds=settings.Prometheus().max_age_seconds,
    )


def _manifest(path: Path) -> dict[str, Any]:
    service = InferenceService.model_validate(yaml.safe_load(path.read_text()))
    if service.spec.autoscaling is None:
        return {}
    return service.spec.autoscaling.model_dump(mode="json", by_alias=True, exclude_none=True)


def _moment(said: str, now: float) -> float:
    """Return seconds since the epoch: of a time as ISO 8601 has it (UTC if it names no zone)."""
    if ago := re.fullmatch(r"(\d+)([smhd])", said):
        return now - int(ago[1]) * _UNITS[ago[2]]
    moment = datetime.fromisoformat(said)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
