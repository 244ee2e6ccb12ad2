"""The autoscaler on real pods: `make bench-autoscaling-real [DURATION=600]`.

Real Tritons whose model waits 100 ms, one instance a pod, behind two doors; a real Prometheus; k6
with rates that step up, down, and up for a short while. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.autoscaling_real import load, recording
from bench.autoscaling_real.figures import measured, predicted, summary
from bench.autoscaling_real.page import write
from bench.autoscaling_real.plot import plot
from bench.autoscaling_real.prediction import predictions
from bench.autoscaling_real.recorder import Recorder
from bench.autoscaling_real.recording import Bounds, Phase, Recording
from bench.clients import client
from bench.installed import FIXTURE, Bench, installed, last_line
from e2e.doors import doors_of
from e2e.jobs import service
from e2e.test_serving import serves
from e2e.waiting import wait_until
from images.build import build

IMAGE = "sleeper"
DOORS = 2
ASKED = Bounds(target_seconds=0.5, percentile=95.0, least=1, most=10)
PICTURE = Path("docs/images/autoscaling-real.png")
_SCRAPE_SECONDS = 2
# Ten pods and all else have room on a node of two cores; they mostly wait.
_SMALL = {"requests": {"cpu": "100m"}}
_SETTLED_SECONDS = 15.0


def values(triton: str) -> dict[str, Any]:
    """Return the chart's values that this run asks for."""
    prometheus = {"enabled": True, "scrapeIntervalSeconds": _SCRAPE_SECONDS}
    return {"images": {"triton": triton}, "prometheus": prometheus}


def serve(bench: Bench) -> None:
    """Have one pod served, and two doors before it."""
    asked = {
        "minReplicas": ASKED.least,
        "maxReplicas": ASKED.most,
        "target": {
            "latencyMilliseconds": round(ASKED.target_seconds * 1e3),
            "percentile": ASKED.percentile,
        },
    }
    bench.kubectl.apply(
        bench.accepted_model(),
        service(
            FIXTURE,
            resources=_SMALL,
            batching={"maxBatchSize": 1},
            triton={"instances": 1},
            autoscaling=asked,
        ),
    )
    serves(bench.kubectl, FIXTURE, version=1)
    wait_until(lambda: doors_of(bench.kubectl), lambda found: len(found) == DOORS, "a pod runs")


async def measure(bench: Bench, phases: Sequence[Phase]) -> Recording:
    """Put the load on the service, and record what happens."""
    doors, before = doors_of(bench.kubectl), bench.usage()
    with tempfile.TemporaryDirectory() as folder:
        process = load.start(bench.kubectl, FIXTURE, phases, Path(folder))
        seen = Recorder(FIXTURE, doors, process)
        try:
            async with client(bench.kubectl) as cluster:
                await seen.watch(cluster)
        finally:
            process.kill()
            process.wait()
        began, requests = load.read(Path(folder))
    seconds = seen.usage[-1].at - seen.usage[0].at
    return seen.recording(
        began, ASKED, phases, requests, (bench.usage().cpu_s - before.cpu_s) / seconds
    )


def told(found: Recording) -> dict[str, Any]:
    """Draw the plot, write the page's tables, and return all figures."""
    real = measured(found)
    foretold = [predicted(found, each) for each in predictions(found)]
    figures = summary(found, real, foretold)
    plot(found, real, foretold, PICTURE)
    write(found, figures)
    return figures


def run(duration_seconds: float) -> Recording:
    """Return what happens on a cluster of this run's own."""
    reference = build((IMAGE,))[IMAGE]
    with installed(values=values(reference), images=(reference,)) as bench:
        serve(bench)
        time.sleep(_SETTLED_SECONDS)
        return asyncio.run(measure(bench, load.phases(duration_seconds)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.autoscaling_real", description=__doc__)
    parser.add_argument("--duration", type=float, default=load.DURATION_SECONDS, help="seconds")
    parser.add_argument("--keep", type=Path, help="write what was seen into this file, too")
    parser.add_argument("--again", type=Path, help="tell of a run that was kept, and run nothing")
    arguments = parser.parse_args()
    found = recording.load(arguments.again) if arguments.again else run(arguments.duration)
    if arguments.keep:
        recording.save(found, arguments.keep)
    last_line(told(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
