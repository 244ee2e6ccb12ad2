"""What a real Prometheus makes of exporters that lie, come late or go, and of its own restart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.installation import CHART
from lepton_operator.signals import prometheus
from lepton_operator.signals.counts import Counts, Service
from tests.prometheus import Exporter, Prometheus, exporting, job, running, told

DIGITS = Service("team", "digits")
FORGED = """
envoy_http_downstream_rq_total{service="digits",namespace="victim",pod="lepton-door-1"} 9e9
envoy_http_downstream_rq_active{service="digits",namespace="victim",pod="lepton-door-1"} 5000
"""


@dataclass
class Doors:
    """Doors, and the Prometheus that scrapes them."""

    folder: Path
    stack: ExitStack
    jobs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, text: Callable[[], str], **labels: str) -> Exporter:
        found = self.stack.enter_context(exporting(text))
        name = f"job-{len(self.jobs)}"
        self.jobs.append(job(name, found.address, namespace="team", **labels))
        return found

    def found(self, port: str = "health", **pages: str) -> None:
        """Let the chart's own job scrape a door in each of these namespaces, at this port.

        What Kubernetes would say of the pods stands in their targets.
        """
        (scraping, *_) = yaml.safe_load((CHART / "files/prometheus/scrape.yaml").read_text())
        del scraping["kubernetes_sd_configs"]
        scraping["job_name"] += f"-{port}"
        # A page of many megabytes takes longer than others have, where the cores are busy.
        scraping |= {"scrape_interval": "4s", "scrape_timeout": "4s"}
        scraping["static_configs"] = [
            {"targets": [self._telling(page).address], "labels": _told(namespace, port)}
            for namespace, page in pages.items()
        ]
        self.jobs.append(scraping)

    def _telling(self, page: str) -> Exporter:
        return self.stack.enter_context(exporting(lambda: page))

    def scrape(self) -> Prometheus:
        return self.stack.enter_context(running(self.folder, self.jobs))


def _told(namespace: str, port: str) -> dict[str, str]:
    of_the_pod = {"namespace": namespace, "pod_name": "pod-1", "pod_phase": "Running"}
    found = of_the_pod | {"pod_container_port_name": port}
    return {f"__meta_kubernetes_{name}": value for name, value in found.items()}


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Doors]:
    with ExitStack() as stack:
        yield Doors(tmp_path, stack)


def arrivals(counts: Counts) -> list[float]:
    return sorted(each.arrivals for each in counts.doors.values())


async def test_a_pod_cannot_speak_for_another_namespace(doors: Doors) -> None:
    doors.found(attacker=FORGED)
    found = doors.scrape()
    own = Service("attacker", "digits")
    assert list((await found.until(own, lambda counts: counts.doors)).doors) == ["pod-1"]
    assert list(await found.read()) == [own]


def series(count: int, **labels: str) -> str:
    """Return so many series of numbers as long as Envoy's."""
    said = "".join(f',{name}="{value}"' for name, value in labels.items())
    return "".join(f'envoy_series{{number="{n}"{said}}} 48.543685822374349\n' for n in range(count))


async def test_a_door_of_a_thousand_services_is_within_the_limits(doors: Doors) -> None:
    every = (f"{number:040}" for number in range(1000))
    page = "".join(
        told(name, arrivals=70, active=3) + series(58, service=name, revision="a1b2c3")
        for name in every
    )
    doors.found(team=page)
    found = doors.scrape()
    await found.until(Service("team", f"{999:040}"), lambda counts: arrivals(counts) == [70])


@pytest.mark.parametrize(
    ("page", "limit"),
    [
        pytest.param(series(125_000), "sample limit", id="series"),
        pytest.param(f"# {'x' * (33 << 20)}\n", "body size limit", id="bytes"),
        pytest.param(
            series(1, **{f"label{n}": "x" for n in range(40)}), "label_limit", id="labels"
        ),
        pytest.param(series(1, **{"x" * 200: "x"}), "label_name_length_limit", id="a long name"),
        pytest.param(series(1, label="x" * 300), "label_value_length_limit", id="a long value"),
    ],
)
async def test_of_a_page_beyond_a_limit_nothing_is_taken(
    doors: Doors, page: str, limit: str
) -> None:
    digits = told("digits", arrivals=70, active=3)
    doors.found(team=digits, attacker=digits + page)
    found = doors.scrape()
    await found.until_refused("attacker", f"{limit} exceeded")
    await found.until(DIGITS, lambda counts: counts.doors)
    assert list(await found.read()) == [DIGITS]


async def test_a_doors_other_ports_are_not_scraped(doors: Doors) -> None:
    digits = told("digits", arrivals=70, active=3)
    doors.found(team=digits)
    doors.found(port="http", attacker=digits)
    found = doors.scrape()
    await found.until(DIGITS, lambda counts: counts.doors)
    assert await found.errors() == {"team": ""}


async def test_a_pod_that_is_scraped_twice_counts_once(doors: Doors) -> None:
    page = doors.add(lambda: told("digits", arrivals=70, active=3), pod="door-0")
    doors.jobs.append(job("again", page.address, namespace="team", pod="door-0", replica="b"))
    doors.add(lambda: told("digits", arrivals=5, active=1), pod="door-1")
    found = doors.scrape()
    for replica in ({"replica": ""}, {"replica": "b"}):
        await found.until(DIGITS, lambda counts: 70 in arrivals(counts), replica)
    counts = await found.until(DIGITS, lambda counts: len(counts.doors) == 2)
    assert arrivals(counts) == [5, 70]


async def test_another_clusters_series_are_not_ours(doors: Doors) -> None:
    doors.add(lambda: told("digits", arrivals=70, active=3), pod="door-0", cluster="blue")
    doors.add(lambda: told("digits", arrivals=9e9, active=900), pod="door-0", cluster="red")
    found = doors.scrape()
    await found.until(DIGITS, lambda counts: arrivals(counts) == [9e9])
    await found.until(DIGITS, lambda counts: arrivals(counts) == [70], {"cluster": "blue"})
    for injected in ('blue"} or vector(1)', "blue\\", 'blue",namespace=~".*'):
        assert await found.read(matchers={"cluster": injected}) == {}
    assert await found.read(["other", "another"]) == {}


async def test_a_door_that_is_gone_tells_nothing_at_the_next_scrape(doors: Doors) -> None:
    """Without that, a Prometheus would repeat what it told last for five minutes."""
    pages = [told("digits", arrivals=70, active=3)]
    doors.add(lambda: pages[0], pod="door-0")
    found = doors.scrape()
    await found.until(DIGITS, lambda counts: counts.doors)
    pages[0] = ""
    await found.until(DIGITS, lambda counts: not counts.doors)


async def test_samples_out_of_order_are_not_told(doors: Doors) -> None:
    now = time.time()
    shown = [(now - 10, 70)]

    def page() -> str:
        at, count = shown[0]
        text = told("digits", arrivals=count, active=1)
        return text.replace("\n", f" {at * 1e3:.0f}\n")

    doors.add(page, pod="door-0")
    doors.add(lambda: told("digits", arrivals=1 + time.time() - now, active=0), pod="door-1")
    found = doors.scrape()
    before = await found.until(DIGITS, lambda it: it.doors.keys() == {"door-0", "door-1"})
    shown[0] = (now - 60, 3)
    seen = before.doors["door-1"].at
    counts = await found.until(
        DIGITS, lambda it: "door-1" in it.doors and it.doors["door-1"].at > seen + 2
    )
    assert counts.doors["door-0"].arrivals == 70
    assert counts.doors["door-0"].at == pytest.approx(now - 10, abs=0.01)


async def test_a_prometheus_that_starts_again_goes_on(doors: Doors) -> None:
    doors.add(lambda: told("digits", arrivals=70, active=3), pod="door-0")
    found = doors.scrape()
    before = await found.until(DIGITS, lambda counts: counts.doors)
    found.stop()
    with pytest.raises(prometheus.SignalError, match="does not answer"):
        await found.read()
    found.start()
    after = await found.until(
        DIGITS, lambda it: it.doors and it.doors["door-0"].at > before.doors["door-0"].at
    )
    assert arrivals(after) == [70]


async def test_a_prometheus_that_has_scraped_nothing_tells_nothing(doors: Doors) -> None:
    assert await doors.scrape().read() == {}
