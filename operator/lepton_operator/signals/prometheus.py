"""The counts of all services from Prometheus: one query, however many services there are."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
from yarl import URL

from lepton_operator.signals.counts import Counts, DoorCounts, Service, TritonCounts

MAX_BYTES = 64 << 20
ANSWER_SECONDS = 5.0

_SAMPLED = "sampled"
_COUNTED_LABEL = "counted"
_DOOR = {
    "envoy_http_downstream_rq_total": "arrivals",
    "envoy_http_downstream_rq_active": "active",
    "envoy_http_downstream_rq_time_count": "answers",
    "envoy_http_downstream_rq_time_sum": "milliseconds",
    "envoy_cluster_upstream_rq_pending_overflow": "rejected",
    _SAMPLED: "at",
}
_TRITON = {
    "nv_inference_request_success": "requests",
    "nv_inference_exec_count": "executions",
    "nv_inference_queue_duration_us": "queue_microseconds",
    "nv_inference_compute_input_duration_us": "compute_microseconds",
    "nv_inference_compute_infer_duration_us": "compute_microseconds",
    "nv_inference_compute_output_duration_us": "compute_microseconds",
    "nv_inference_pending_request_count": "pending",
}
_METRICS = {**_DOOR, **_TRITON}
_COUNTED = "|".join(name for name in _METRICS if name != _SAMPLED)

Row = tuple[str, Service, str, float]
"""A metric, the service and the pod that it is about, and its value."""


class SignalError(Exception):
    """A source that tells nothing, with a sentence about why."""


def query(matchers: Mapping[str, str], namespaces: Iterable[str] = ()) -> str:
    """Return the one query. `matchers` are labels and their values, of the administrator's.

    Its sums drop what distinguishes the series of one pod (classes of answers, protocols, GPUs).
    """
    chosen = [f"{label}={_quoted(value)}" for label, value in sorted(matchers.items())]
    names = "|".join(sorted(namespaces))  # Kubernetes' names: no sign of theirs means anything here
    if names:
        chosen.append(f"namespace=~{_quoted(names)}")
    within = ",".join(chosen)
    counted = ",".join((f"__name__=~{_quoted(_COUNTED)}", *chosen))
    sampled = f"timestamp(envoy_http_downstream_rq_active{{{within}}})"
    # `or` compares all labels but the name, which therefore becomes another label.
    counts = f"sum by (__name__, namespace, service, pod) ({{{counted}}})"
    times = f"max by (namespace, service, pod) ({sampled})"
    return (
        f'label_replace({counts}, "{_COUNTED_LABEL}", "$1", "__name__", "(.+)") or '
        f'label_replace({times}, "{_COUNTED_LABEL}", "{_SAMPLED}", "", "")'
    )


async def read(session: aiohttp.ClientSession, url: str, text: str) -> dict[Service, Counts]:
    """Ask a Prometheus; raises SignalError."""
    target = URL(url.rstrip("/") + "/api/v1/query")
    try:
        async with session.post(target, data={"query": text}, allow_redirects=False) as response:
            content = await _content(response)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise SignalError(f"Prometheus does not answer: {_words(error)}.") from error
    if response.status != HTTPStatus.OK:
        raise SignalError(f"Prometheus answers {response.status}: {_reason(content)}.")
    return parse(content)


def parse(content: bytes) -> dict[Service, Counts]:
    """Return the counts by service; raises SignalError for what is no answer to the query."""
    try:
        answer = json.loads(content)
        data = answer["data"]
        kind, rows = data["resultType"], data["result"]
    except (ValueError, KeyError, TypeError) as error:
        raise SignalError("Prometheus answers with something that is no result.") from error
    if kind != "vector" or not isinstance(rows, list):
        raise SignalError(f"Prometheus answers with a {kind} in place of a vector.")
    return _gathered(_rows(rows))


def _rows(rows: Iterable[Any]) -> Iterator[Row]:
    """Yield what is whole: a name that was asked for, its labels, and a number that can be."""
    for row in rows:
        try:
            metric, (_, text) = row["metric"], row["value"]
            name, pod, value = metric[_COUNTED_LABEL], metric["pod"], float(text)
            service = Service(metric["namespace"], metric["service"])
        except (KeyError, TypeError, ValueError):
            continue
        if name in _METRICS and math.isfinite(value) and value >= 0:
            yield name, service, pod, value


def _gathered(rows: Iterable[Row]) -> dict[Service, Counts]:
    doors: dict[Service, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    tritons: dict[Service, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for name, service, pod, value in rows:
        found = (doors if name in _DOOR else tritons)[service][pod]
        found[_METRICS[name]] = found.get(_METRICS[name], 0.0) + value
    return {
        service: Counts(
            {pod: DoorCounts(**each) for pod, each in doors[service].items() if _is_whole(each)},
            {
                pod: TritonCounts(**each)
                for pod, each in tritons.get(service, {}).items()
                if each.keys() >= _TRITON_NEEDS
            },
        )
        for service in [*doors]
    }


_TRITON_NEEDS = {"requests", "executions", "queue_microseconds", "compute_microseconds"}


def _is_whole(door: Mapping[str, float]) -> bool:
    return {"at", "active", "arrivals"} <= door.keys()


async def _content(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for part in response.content.iter_chunked(65_536):
        content += part
        if len(content) > MAX_BYTES:
            raise SignalError(f"Prometheus' answer is longer than {MAX_BYTES >> 20} MiB.")
    return bytes(content)


def _reason(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])[:300]
    except (ValueError, KeyError, TypeError):
        return content[:100].decode(errors="replace").strip() or "without a word"


def _quoted(text: str) -> str:
    """Return a string of PromQL's: its escapes are Go's, which know all that JSON writes."""
    return json.dumps(text)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
