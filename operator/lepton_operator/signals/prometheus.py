"""The counts of all services from Prometheus: one query, however many services there are."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
import msgspec
from yarl import URL

from lepton_operator.inquiry import UnusableError, bounded
from lepton_operator.signals.counts import MOST, Counts, DoorCounts, Service, TritonCounts

# What is told of a service is 3 KB with two doors and two Tritons; who may create a pod may have it
# tell of 120,000 others. To read so much takes a fifth of the time between two looks.
_BYTES = 16 << 20
_BYTES_OF_A_SERVICE = 16 << 10
# An hour of looks is some megabytes: a person asks for that, and waits.
_MOST_BYTES_OF_A_RANGE = 64 << 20
ANSWER_SECONDS = 5.0

_ARRIVALS = "envoy_http_downstream_rq_total"
_ACTIVE = "envoy_http_downstream_rq_active"
_REJECTED = "envoy_cluster_upstream_rq_pending_overflow"
_ANSWERS = "envoy_http_downstream_rq_time_count"
_MILLISECONDS = "envoy_http_downstream_rq_time_sum"
_SUCCESS = "nv_inference_request_success"
_MISSES = "nv_cache_num_misses_per_model"
_HITS = "nv_cache_num_hits_per_model"
_EXECUTIONS = "nv_inference_exec_count"
_COMPUTE = "nv_inference_compute_(input|infer|output)_duration_us"
_COUNTED = (_ARRIVALS, _ACTIVE, _REJECTED, _ANSWERS, _MILLISECONDS, _EXECUTIONS, _HITS)
_MOST_STEPS = 1800  # Prometheus refuses more than 11,000
_POD = "namespace, service, pod"
_OF_A_POD = "protocol, model, version, gpu_uuid"
# What is reckoned has no name of its own.
_RECKONED = "counted"
_SAMPLED = "sampled"
_COMPUTED = "computed"
_COMPUTING = "computing"


class _Labels(msgspec.Struct, gc=False):
    name: str = msgspec.field(name="__name__", default="")
    reckoned: str = msgspec.field(name=_RECKONED, default="")
    namespace: str = ""
    service: str = ""
    pod: str = ""


class _Value(msgspec.Struct, array_like=True, gc=False):
    at: float
    text: str


class _Row(msgspec.Struct, gc=False):
    metric: _Labels
    value: _Value


class Series(msgspec.Struct, gc=False):
    """A row of a range: what was told at each of its steps."""

    metric: _Labels
    values: list[_Value]


class _Matrix(msgspec.Struct, tag_field="resultType", tag="matrix"):
    result: list[Series]


class _History(msgspec.Struct):
    data: _Matrix


class _Vector(msgspec.Struct, tag_field="resultType", tag="vector"):
    result: list[_Row]


class _Answer(msgspec.Struct):
    data: _Vector


# A decoder of types takes a quarter of the time of one of dicts, and leaves no work for the
# collector of cycles.
_ANSWER = msgspec.json.Decoder(_Answer)
_HISTORY = msgspec.json.Decoder(_History)


@dataclass(frozen=True, slots=True)
class Times:
    """From the one to the other, both in seconds since the epoch and counted in."""

    start: float
    end: float
    step_seconds: float

    def parts(self) -> Iterator[tuple[float, float]]:
        """Yield parts that are short enough to be asked for at once."""
        steps = int((self.end - self.start) / self.step_seconds + 1e-6)
        for first in range(0, steps + 1, _MOST_STEPS):
            last = min(first + _MOST_STEPS - 1, steps)
            yield self._at(first), self._at(last)

    def _at(self, step: int) -> float:
        return self.start + step * self.step_seconds


class SignalError(Exception):
    """A source that tells nothing, with a sentence about why."""


def query(
    matchers: Mapping[str, str], namespaces: Iterable[str] = (), service: str | None = None
) -> str:
    """Return the one query. `matchers` are labels and their values, of the administrator's.

    Its sums drop what distinguishes the series of one pod (protocols, models, GPUs). The maxima
    before them drop what those add who scrape: a pod that is scraped twice counts once.
    """
    chosen = [f"{label}={quoted(value)}" for label, value in sorted(matchers.items())]
    names = "|".join(sorted(namespaces))  # Kubernetes' names: no sign of theirs means anything here
    if names:
        chosen.append(f"namespace=~{quoted(names)}")
    if service is not None:
        chosen.append(f"service={quoted(service)}")
    times = f"max by ({_POD}) (timestamp({_ACTIVE}{{{','.join(chosen)}}}))"
    # `or` compares all labels but the name, so those without one get a label of their own.
    return (
        f"sum by (__name__, {_POD}) ({_once('|'.join(_COUNTED), chosen)})"
        f" or {named(_COMPUTING, f'sum by ({_POD}) ({_once(_COMPUTE, chosen)})')}"
        f" or {named(_COMPUTED, f'sum by ({_POD}) ({_computed(chosen)})')}"
        f" or {named(_SAMPLED, times)}"
    )


def _computed(chosen: Iterable[str]) -> str:
    """Return what each model computed: a success may be a hit of the cache, which was not.

    Of a model with a cache, what was computed is what missed it. The difference of successes and
    hits is no counter: a scrape between the two would let it fall.
    """
    of_a_model = f"{_POD}, model, version"
    missed, success = (
        f"sum by ({of_a_model}) ({_once(metric, chosen)})" for metric in (_MISSES, _SUCCESS)
    )
    return f"{missed} > 0 or {success}"


def _once(metrics: str, chosen: Iterable[str]) -> str:
    matchers = ",".join((f"__name__=~{quoted(metrics)}", *chosen))
    return f"max by (__name__, {_POD}, {_OF_A_POD}) ({{{matchers}}})"


def named(name: str, expression: str) -> str:
    """Return PromQL whose series, of whatever name, are found by this one."""
    return f'label_replace({expression}, "{_RECKONED}", "{name}", "", "")'


async def read(
    session: aiohttp.ClientSession, url: str, text: str, services: Collection[Service]
) -> dict[Service, Counts]:
    """Ask a Prometheus what was counted of these services; raises SignalError."""
    most = _BYTES + _BYTES_OF_A_SERVICE * len(services)
    return parse(await _asked(session, url, "query", {"query": text}, most), services)


async def read_range(
    session: aiohttp.ClientSession, url: str, text: str, times: Times
) -> list[Series]:
    """Ask a Prometheus what it knew at each of these times; raises SignalError."""
    found: list[Series] = []
    for start, end in times.parts():
        step = f"{times.step_seconds:f}"
        data = {"query": text, "start": f"{start:f}", "end": f"{end:f}", "step": step}
        content = await _asked(session, url, "query_range", data, _MOST_BYTES_OF_A_RANGE)
        try:
            found += _HISTORY.decode(content).data.result
        except (msgspec.DecodeError, RecursionError) as error:
            raise SignalError(
                f"Prometheus answers with something else than a range: {error}."
            ) from error
    return found


async def _asked(
    session: aiohttp.ClientSession, url: str, what: str, data: Mapping[str, str], max_bytes: int
) -> bytes:
    request = session.post(
        URL(f"{url.rstrip('/')}/api/v1/{what}"),
        data=data,
        # Within a cluster both sides spend more on compression than it saves.
        headers={"Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        allow_redirects=False,
    )
    try:
        async with request as response:
            content = await bounded(response, max_bytes)
    except UnusableError as error:
        raise SignalError(f"Prometheus tells nothing: {error}.") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise SignalError(f"Prometheus does not answer: {_words(error)}.") from error
    if response.status != HTTPStatus.OK:
        raise SignalError(f"Prometheus answers {response.status}: {_reason(content)}.")
    return content


def parse(content: bytes, services: Collection[Service]) -> dict[Service, Counts]:
    """Return the counts of these services; raises SignalError for no answer to the query."""
    try:
        rows = _ANSWER.decode(content).data.result
    except (msgspec.DecodeError, RecursionError) as error:
        raise SignalError(
            f"Prometheus answers with something else than counts: {error}."
        ) from error
    return _gathered(_by_pod(rows, services))


def at_each_step(series: Iterable[Series]) -> dict[float, dict[Service, Counts]]:
    """Return the counts by the time of the step, and by service."""
    rows: dict[float, list[_Row]] = {}
    for each in series:
        for value in each.values:
            rows.setdefault(value.at, []).append(_Row(each.metric, value))
    return {at: _gathered(_by_pod(rows[at])) for at in sorted(rows)}


def _by_pod(
    rows: Iterable[_Row], services: Collection[tuple[str, str]] | None = None
) -> dict[tuple[str, str, str], dict[str, float]]:
    """Return the numbers of each pod of these services that can be; None: of all."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        labels = row.metric
        name, pod = labels.reckoned or labels.name, (labels.namespace, labels.service, labels.pod)
        try:
            value = float(row.value.text)
        except ValueError:
            continue
        if 0 <= value <= MOST:
            if (told := found.get(pod)) is None:
                if services is not None and pod[:2] not in services:
                    continue
                told = found[pod] = {}
            told[name] = value
    return found


def _gathered(
    pods: Mapping[tuple[str, str, str], Mapping[str, float]],
) -> dict[Service, Counts]:
    doors: dict[Service, dict[str, DoorCounts]] = {}
    tritons: dict[Service, dict[str, TritonCounts]] = {}
    for (namespace, name, pod), told in pods.items():
        if not (namespace and name and pod):
            continue
        service = Service(namespace, name)
        if (door := _door(told)) is not None:
            doors.setdefault(service, {})[pod] = door
        elif (triton := _triton(told)) is not None:
            tritons.setdefault(service, {})[pod] = triton
    return {service: Counts(each, tritons.get(service, {})) for service, each in doors.items()}


def _door(told: Mapping[str, float]) -> DoorCounts | None:
    try:
        at, arrivals, active = told[_SAMPLED], told[_ARRIVALS], told[_ACTIVE]
    except KeyError:
        return None
    rejected, answers = told.get(_REJECTED, 0.0), told.get(_ANSWERS)
    return DoorCounts(at, arrivals, active, rejected, answers, told.get(_MILLISECONDS))


def _triton(told: Mapping[str, float]) -> TritonCounts | None:
    try:
        computed, executions, computing = told[_COMPUTED], told[_EXECUTIONS], told[_COMPUTING]
    except KeyError:
        return None
    return TritonCounts(computed, executions, computing, told.get(_HITS, 0.0))


def _reason(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])[:300]
    except (ValueError, KeyError, TypeError):
        return content[:100].decode(errors="replace").strip() or "without a word"


def quoted(text: str) -> str:
    """Return a string of PromQL's: its escapes are Go's, which know all that JSON writes."""
    return json.dumps(text)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
