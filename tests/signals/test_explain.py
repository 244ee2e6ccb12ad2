"""What the law would have done: `lepton-operator explain` over what a real Prometheus recorded."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.waiting import wait_until
from lepton_operator.__main__ import main
from lepton_operator.replay.recording import load
from tests.prometheus import Prometheus, exporting, job, running

LONG_SECONDS = 400.0
STEP_SECONDS = 2.0
SERVICE_SECONDS = 0.1
# Ten requests a second, and from a time on fifty; somebody added four replicas a minute later.
STEPS_UP_AT, ANSWERED_AT, READY_AT = 150.0, 210.0, 240.0
ASKED = ("--target-ms", "250", "--max", "20")
ANSWERS = "a server answers"


@dataclass(frozen=True)
class Past:
    """A service that was, told in one page: all its samples, each with its time."""

    began: float

    def doors(self) -> str:
        """Return the samples of two doors."""
        return "".join(map(self._doors_at, times()))

    def _doors_at(self, now: float) -> str:
        rate = 10.0 if now < STEPS_UP_AT else 50.0
        half = (10 * now + 40 * max(0.0, now - STEPS_UP_AT)) / 2
        told = {
            "envoy_http_downstream_rq_total": half,
            "envoy_http_downstream_rq_active": rate * SERVICE_SECONDS / 2,
            "envoy_http_downstream_rq_time_count": half,
            "envoy_http_downstream_rq_time_sum": half * SERVICE_SECONDS * 1e3,
            "envoy_cluster_membership_healthy": 6 if now >= READY_AT else 2,
        }
        return "".join(
            self._line(f'{name}{{service="digits",namespace="team",pod="door-{door}"}}', value, now)
            for name, value in told.items()
            for door in (0, 1)
        )

    def operator(self) -> str:
        """Return the samples of the operator."""
        return "".join(map(self._operator_at, times()))

    def _operator_at(self, now: float) -> str:
        ready = 6 if now >= READY_AT else 2
        wanted = 6 if now >= ANSWERED_AT else 2
        told = {"wanted": wanted, "ready": ready, "starting": wanted - ready}
        return "".join(
            self._line(
                f'lepton_autoscaler_replicas{{namespace="team",service="digits",state="{state}"}}',
                value,
                now,
            )
            for state, value in told.items()
        )

    def _line(self, series: str, value: float, now: float) -> str:
        return f"{series} {value} {(self.began + now) * 1e3:.0f}\n"


def times() -> list[float]:
    return [STEP_SECONDS * step for step in range(1, round(LONG_SECONDS / STEP_SECONDS) + 1)]


@dataclass(frozen=True)
class Recorded:
    prometheus: Prometheus
    began: float

    def explained(self, *more: str) -> tuple[str, ...]:
        start, end = self.began + STEP_SECONDS, self.began + LONG_SECONDS
        times = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) for at in (start, end)]
        place = ("--namespace", "team", "--service", "digits", "--from", times[0], "--to", times[1])
        return ("explain", "--prometheus", self.prometheus.url, *place, *more)


def recorded(folder: Path, *, with_operator: bool) -> Iterator[Recorded]:
    past = Past(round(time.time()) - LONG_SECONDS - 60)
    with ExitStack() as stack:
        doors = stack.enter_context(exporting(partial(str, past.doors())))
        jobs = [{**job("doors", doors.address), "honor_labels": True}]
        if with_operator:
            operator = stack.enter_context(exporting(partial(str, past.operator())))
            jobs.append(job("operator", operator.address, namespace="lepton-system"))
        found = stack.enter_context(running(folder, jobs))
        wait_until(lambda: scraped(found), lambda names: len(names) == len(jobs), ANSWERS)
        yield Recorded(found, past.began)


def scraped(found: Prometheus) -> list[str]:
    """Return the jobs whose page was taken: Prometheus says so when it has all of it."""
    asked = urllib.parse.urlencode({"query": "up == 1"})
    with urllib.request.urlopen(f"{found.url}/api/v1/query?{asked}", timeout=10) as answer:
        return [each["metric"]["job"] for each in json.load(answer)["data"]["result"]]


@pytest.fixture(scope="module")
def with_operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    yield from recorded(tmp_path_factory.mktemp("with-operator"), with_operator=True)


@pytest.fixture(scope="module")
def with_doors_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    yield from recorded(tmp_path_factory.mktemp("doors-only"), with_operator=False)


def found(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main([*argv, "--output", "json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_what_the_law_would_have_done_and_why(
    with_operator: Recorded, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = found(capsys, *with_operator.explained(*ASKED))
    up = next(each for each in told["decisions"] if each["to"] > 2)
    stepped = with_operator.began + STEPS_UP_AT
    assert stepped < up["time"] <= stepped + 5 * STEP_SECONDS
    assert up["from"] == 2
    assert "requests" in up["reason"]
    most = max(each["to"] for each in told["decisions"])
    assert most >= 6
    summary = told["summary"]
    assert summary["startup_seconds"] == pytest.approx(READY_AT - ANSWERED_AT, abs=STEP_SECONDS)
    used = 2 * ANSWERED_AT + 6 * (LONG_SECONDS - ANSWERED_AT)
    assert summary["gpu_seconds_used"] == pytest.approx(used, rel=0.02)
    assert summary["gpu_seconds_replayed"] > used
    assert summary["held"] <= 2
    # The same again, from a file, by a manifest.
    recording, manifest = tmp_path / "digits.json", tmp_path / "digits.yaml"
    assert main([*with_operator.explained("--record", str(recording))]) == 0
    autoscaling = {"maxReplicas": 20, "target": {"latencyMilliseconds": 250}}
    spec = {"model": {"name": "digits"}, "autoscaling": autoscaling}
    asked = {"kind": "InferenceService", "metadata": {"name": "digits"}, "spec": spec}
    manifest.write_text(yaml.safe_dump_all([{"kind": "LeptonModel"}, asked]))
    capsys.readouterr()
    again = found(capsys, "explain", "--recording", str(recording), "--manifest", str(manifest))
    assert again == told
    assert len(load(recording).looks) == LONG_SECONDS / STEP_SECONDS


def test_a_table_for_people(with_operator: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*with_operator.explained(*ASKED)]) == 0
    text = capsys.readouterr().out
    title, head, first, *_, summary, caveat = text.splitlines()
    assert title.startswith("team/digits, ")
    assert head.split() == ["time", "from", "to", "metric", "value", "target", "reason"]
    assert first.split()[1] == "2"
    assert "GPU seconds: " in summary
    assert "other latencies" in caveat


def test_over_the_replicas_that_there_were(
    with_operator: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    told = found(capsys, *with_operator.explained(*ASKED, "--as-it-was", "--every"))
    assert len(told["decisions"]) == LONG_SECONDS / STEP_SECONDS
    by_time = {each["time"] - with_operator.began: each for each in told["decisions"]}
    assert {each["from"] for at, each in by_time.items() if at < ANSWERED_AT} == {2}
    assert {each["ready"] for at, each in by_time.items() if at >= READY_AT} == {6}
    assert by_time[200]["to"] > 2
    assert told["summary"]["gpu_seconds_replayed"] is None
    assert 1 <= told["summary"]["changes"] <= 10


def test_without_the_operators_metrics_doors_tell_how_many_served(
    with_doors_only: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    told = found(capsys, *with_doors_only.explained(*ASKED, "--startup-seconds", "30"))
    used = 2 * READY_AT + 6 * (LONG_SECONDS - READY_AT)
    assert told["summary"]["gpu_seconds_used"] == pytest.approx(used, rel=0.02)
    assert any(each["to"] > 2 for each in told["decisions"])


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--service", "nobody", *ASKED), "knows nothing of team/nobody"),
        (("--target-ms", "250"), "say --target-ms and --max"),
        (("--from", "1h", "--to", "2h", *ASKED), "--from must be before --to"),
        (("--prometheus", "http://127.0.0.1:1", *ASKED), "does not answer"),
        (("--recording", "/nowhere.json", *ASKED), "No such file"),
        (("--from", "yesterday", *ASKED), "'yesterday' is no time: write e.g."),
        (("--matcher", "blue", *ASKED), "--matcher blue: write LABEL=VALUE"),
        (("--max", "0", "--target-ms", "250"), "is wrong: maxReplicas: "),
        (("--percentile", "10", *ASKED), "is wrong: target.percentile: "),
        (("--min", "30", *ASKED), "is wrong: autoscaling: minReplicas may not be above"),
        (("--manifest", "/etc/passwd", *ASKED), "/etc/passwd"),
        (("--manifest", "examples/sharded.yaml", *ASKED), "has no InferenceService"),
    ],
)
def test_what_cannot_be_explained_is_said(
    more: tuple[str, ...], why: str, with_operator: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*with_operator.explained(*more)]) == 2
    assert why in capsys.readouterr().err
