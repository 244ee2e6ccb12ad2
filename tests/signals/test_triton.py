"""What real Tritons told, through a real Prometheus and the one query."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lepton_operator.signals.counts import Service, TritonCounts
from tests.prometheus import Prometheus, exporting, job, running, told

RECORDINGS = Path(__file__).parents[1] / "recordings" / "triton"
HISTOGRAM = """
# TYPE nv_inference_first_response_histogram_ms histogram
nv_inference_first_response_histogram_ms_count{model="digits",version="1"} 36
nv_inference_first_response_histogram_ms_sum{model="digits",version="1"} 29180
nv_inference_first_response_histogram_ms_bucket{model="digits",version="1",le="100"} 0
nv_inference_first_response_histogram_ms_bucket{model="digits",version="1",le="500"} 8
nv_inference_first_response_histogram_ms_bucket{model="digits",version="1",le="+Inf"} 36
"""
OF_A_GPU = re.compile(
    r'^(nv_inference_(?:request_success|exec_count|\w+_duration_us))\{model="digits"(.*)\} (\d+)$',
    re.MULTILINE,
)


def recorded(form: str) -> str:
    return (RECORDINGS / f"{form}.txt").read_text()


def on_two_gpus(text: str) -> str:
    """Split what was counted over two GPUs, as a Triton does that has an instance on each."""

    def split(line: re.Match[str]) -> str:
        name, labels, value = line[1], line[2], int(line[3])
        shares = {"GPU-0a": value // 3, "GPU-1b": value - value // 3}
        return "\n".join(
            f'{name}{{gpu_uuid="{gpu}",model="digits"{labels}}} {share}'
            for gpu, share in shares.items()
        )

    return OF_A_GPU.sub(split, text)


def without_cache(text: str, model: str) -> str:
    """Have a model of several go without the cache: it then misses nothing."""
    return re.sub(rf'^(nv_cache_\w+{{model="{model}".*}}) \d+$', r"\1 0", text, flags=re.MULTILINE)


FORMS = {
    "plain": recorded("plain"),
    "summaries": recorded("summaries"),
    "histogram": recorded("plain") + HISTOGRAM,
    "gpus": on_two_gpus(recorded("plain")),
    "cache": recorded("cache"),
    "cache of one": without_cache(recorded("cache"), "other"),
}
RECORDED_WITH = {"histogram": "plain", "gpus": "plain", "cache of one": "cache"}


def statistics(form: str) -> TritonCounts:
    """Return the same from the statistics API, which knows successes and hits apart."""
    content = json.loads((RECORDINGS / f"{form}.json").read_text())
    stats: list[dict[str, Any]] = [each["inference_stats"] for each in content["model_stats"]]
    hits = sum(each["cache_hit"].get("count", 0) for each in stats)
    compute = ("compute_input", "compute_infer", "compute_output")
    return TritonCounts(
        sum(each["success"]["count"] for each in stats) - hits,
        sum(each["execution_count"] for each in content["model_stats"]),
        sum(each[name]["ns"] // 1000 for each in stats for name in compute),
        hits,
    )


@pytest.fixture(scope="module")
def scraping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes a Triton of each form, of a service of that name, and a door of them all."""
    with ExitStack() as stack:
        tritons = {
            form: stack.enter_context(exporting(partial(str, text))) for form, text in FORMS.items()
        }
        doors = "".join(told(form, arrivals=41, active=0) for form in FORMS)
        door = stack.enter_context(exporting(lambda: doors))
        jobs = [
            job(form, each.address, namespace="team", service=form, pod=f"{form}-0")
            for form, each in tritons.items()
        ]
        jobs.append(job("door", door.address, namespace="team", pod="door-0"))
        yield stack.enter_context(running(tmp_path_factory.mktemp("prometheus"), jobs))


@pytest.mark.parametrize("form", FORMS)
async def test_one_query_reads_every_form(form: str, scraping: Prometheus) -> None:
    counts = await scraping.until(
        Service("team", form), lambda found: found.doors and found.tritons
    )
    wanted = statistics(RECORDED_WITH.get(form, form))
    (found,) = counts.tritons.values()
    assert found[:2] == wanted[:2]
    assert found.hits == wanted.hits
    # The statistics API tells nanoseconds: /metrics cut less than one microsecond of each time.
    assert 0 <= wanted.compute_microseconds - found.compute_microseconds < 3 * wanted.requests


def test_what_the_cache_answers_thins_nothing_out() -> None:
    """A batch of four requests of 100 ms each takes 400 ms, for all that were computed."""
    by_form = {form: statistics(form) for form in ("plain", "cache")}
    counted = {form: (each.requests, each.hits) for form, each in by_form.items()}
    assert counted == {"plain": (41, 0), "cache": (29, 12)}
    for each in by_form.values():
        assert 0.3e6 < each.compute_microseconds / each.requests < 0.5e6
