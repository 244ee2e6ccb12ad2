"""What the recording rules make of what doors and Tritons count, by Prometheus' own tool."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from e2e.cluster import tool

RULES = Path(__file__).parents[2] / "charts/lepton-operator/files/prometheus/rules.yaml"
SCRAPERS = ("lepton-door", "annotated-pods")
SERVICE = {"namespace": "team", "service": "digits"}
DOOR = "http_downstream_rq"
# Counts of two minutes, 5 s apart: what each grows by, or a gauge that stays.
EACH_5_SECONDS = 24


def counter(a_second: float) -> str:
    return f"0+{5 * a_second:g}x{EACH_5_SECONDS}"


def gauge(value: float) -> str:
    return f"{value:g}x{EACH_5_SECONDS}"


DOORS = {
    f'envoy_{DOOR}_xx{{class="2"}}': counter(9),
    f'envoy_{DOOR}_xx{{class="5"}}': counter(1),
    f"envoy_{DOOR}_active{{}}": gauge(4),
    'envoy_cluster_upstream_rq_pending_overflow{protocol="http"}': counter(2),
    'envoy_cluster_upstream_rq_pending_overflow{protocol="grpc"}': counter(1),
    'envoy_service_requests{revision="1"}': counter(10),
    'envoy_service_over_target{revision="1"}': counter(1),
    f'envoy_{DOOR}_time_bucket{{le="50"}}': counter(0),
    f'envoy_{DOOR}_time_bucket{{le="100"}}': counter(10),
    f'envoy_{DOOR}_time_bucket{{le="+Inf"}}': counter(10),
}
# Ten requests a second, nine of which the cache knows; each of the others takes 100 ms, alone.
TRITONS = {
    'nv_inference_request_success{model="m",version="1"}': counter(10),
    'nv_inference_queue_duration_us{model="m",version="1"}': counter(20_000),
    'nv_cache_num_misses_per_model{model="m",version="1"}': counter(1),
    'nv_inference_compute_infer_duration_us{model="m",version="1"}': counter(100_000),
    'nv_inference_exec_count{model="m",version="1"}': counter(1),
    'nv_inference_pending_request_count{model="m",version="1"}': gauge(3),
}
WANTED = {
    # Two doors, each scraped by two jobs.
    "lepton:service_requests:rate1m": 20,
    "lepton:service_requests:active": 8,
    "lepton:service_requests_rejected:rate1m": 6,
    "lepton:service_requests_over_target:ratio1m": 0.1,
    "lepton:service_latency_milliseconds:p50": 75,
    "lepton:service_latency_milliseconds:p95": 97.5,
    "lepton:service_latency_milliseconds:p99": 99.5,
    # Two Tritons, each on one GPU.
    "lepton:triton_requests_answered:rate1m": 20,
    "lepton:triton_requests_computed:rate1m": 2,
    "lepton:triton_queue_milliseconds:mean1m": 2,
    "lepton:triton_compute_milliseconds:mean1m": 100,
    "lepton:triton_requests_per_execution:mean1m": 1,
    "lepton:triton_requests_pending:count": 6,
}


def series(name: str, **labels: str) -> str:
    """Return a series of this name with further labels."""
    metric, _, own = name.partition("{")
    added = ",".join(f'{key}="{value}"' for key, value in {**SERVICE, **labels}.items())
    return f"{metric}{{{added}{',' if own != '}' else ''}{own}"


def scraped() -> list[dict[str, str]]:
    """Return what two doors and two Tritons count, as two scrapers tell it."""
    return [
        {"series": series(name, pod=f"{kind}-{pod}", job=job), "values": values}
        for kind, counts in (("door", DOORS), ("triton", TRITONS))
        for name, values in counts.items()
        for pod in range(2)
        for job in SCRAPERS
    ]


def test_every_rule_is_looked_at() -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    assert WANTED.keys() == {rule["record"] for rule in group["rules"]}


@pytest.mark.parametrize("record", WANTED)
def test_a_pod_counts_once_whoever_scrapes_it(record: str, tmp_path: Path) -> None:
    labels = {"revision": "1"} if "over_target" in record else {}
    tells(tmp_path, scraped(), series(f"{record}{{}}", **labels), WANTED[record])


def test_a_model_without_a_cache_is_computed_each_time(tmp_path: Path) -> None:
    """Beside one with a cache, whose every request is a hit."""
    counts = {
        'nv_inference_request_success{model="remembers",version="1"}': counter(10),
        'nv_cache_num_misses_per_model{model="remembers",version="1"}': gauge(5),
        'nv_inference_request_success{gpu_uuid="a",model="plain",version="1"}': counter(3),
        'nv_inference_request_success{gpu_uuid="b",model="plain",version="1"}': counter(4),
        'nv_cache_num_misses_per_model{model="plain",version="1"}': gauge(0),
    }
    given = [
        {"series": series(name, pod="t", job="one"), "values": values}
        for name, values in counts.items()
    ]
    tells(tmp_path, given, series("lepton:triton_requests_computed:rate1m{}"), 7)


def tells(folder: Path, given: list[dict[str, str]], wanted: str, value: float) -> None:
    """Have Prometheus' own tool say whether a rule makes this value of what is given."""
    record, _, _ = wanted.partition("{")
    samples = [{"labels": wanted, "value": value}]
    asked = {"expr": record, "eval_time": "2m", "exp_samples": samples}
    test = {"interval": "5s", "input_series": given, "promql_expr_test": [asked]}
    file = folder / "test.yaml"
    told = {"rule_files": [str(RULES)], "fuzzy_compare": True, "tests": [test]}
    file.write_text(yaml.safe_dump(told))
    command = (str(tool("promtool")), "test", "rules", str(file))
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
