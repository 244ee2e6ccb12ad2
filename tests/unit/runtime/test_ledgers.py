"""Prometheus counters of TrainingJobs, from the statuses in the cache."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from lepton_operator.cache import Cache
from lepton_operator.ledgers import LedgerCollector
from tests.unit.runtime import objects

JOB = 'namespace="team",training_job="digits"'
LAST = {"number": 2, "ledger": {"unobserved": "8", "productive": "4"}}
LEDGER = {
    "waiting": "3.5",
    "productive": "120",
    "unobserved": "20",
    "usefulGpuSeconds": "480",
    "wastedGpuSeconds": "80",
}


def rendered(*statuses: dict[str, Any], leads: bool = True) -> list[str]:
    cache, registry = Cache("nvidia.com/gpu"), CollectorRegistry()
    registry.register(LedgerCollector(cache, lambda: leads))
    for version, status in enumerate(statuses, 1):
        cache.put("TrainingJob", objects.job(version=version, status=status))
    return generate_latest(registry).decode().splitlines()


def test_a_standby_tells_no_ledger_or_each_job_would_count_twice() -> None:
    lines = rendered({"ledger": LEDGER, "attempts": [LAST]}, leads=False)
    assert not [line for line in lines if line.startswith("lepton_")]


def test_a_ledger_is_told_by_class_and_use() -> None:
    lines = rendered({"ledger": LEDGER, "attempts": [LAST]})
    for line in (
        f'lepton_trainingjob_seconds_total{{class="productive",{JOB}}} 120.0',
        f'lepton_trainingjob_seconds_total{{class="hang",{JOB}}} 0.0',
        f'lepton_trainingjob_gpu_seconds_total{{{JOB},use="useful"}} 480.0',
        f'lepton_trainingjob_gpu_seconds_total{{{JOB},use="wasted"}} 80.0',
    ):
        assert line in lines


def test_what_may_still_be_known_better_is_not_counted_yet() -> None:
    lines = rendered({"ledger": LEDGER, "attempts": [LAST]})
    assert f'lepton_trainingjob_seconds_total{{class="unobserved",{JOB}}} 12.0' in lines
    follows = [{"number": 3}, {"number": 4}]
    lines = rendered({"ledger": LEDGER, "attempts": [LAST, follows[0]]})
    assert f'lepton_trainingjob_seconds_total{{class="unobserved",{JOB}}} 12.0' in lines
    lines = rendered({"ledger": LEDGER, "attempts": [LAST, *follows]})
    assert f'lepton_trainingjob_seconds_total{{class="unobserved",{JOB}}} 20.0' in lines


def test_gpu_seconds_that_may_still_prove_useful_are_not_called_wasted_yet() -> None:
    last = {"number": 2, "ledger": {"unobserved": "8", "start": "2", "wastedGpuSeconds": "40"}}
    wasted = f'lepton_trainingjob_gpu_seconds_total{{{JOB},use="wasted"}}'
    assert f"{wasted} 48.0" in rendered({"ledger": LEDGER, "attempts": [last]})
    follows = [{"number": 3}, {"number": 4}]
    assert f"{wasted} 80.0" in rendered({"ledger": LEDGER, "attempts": [last, *follows]})


def test_a_job_without_a_ledger_is_not_told() -> None:
    assert not [line for line in rendered({}) if not line.startswith("#")]
