"""The rows of rivals and bounds for a case, kept: only the simulator changes them."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from bench.autoscaling.compiled import cache_folder
from bench.autoscaling.run import Case
from bench.autoscaling.table import Row, bounds, rivals


def reference(case: Case) -> list[Row]:
    """Return the rows of every rival and bound; simulate unless this very case has been."""
    what = {
        "trace": case.trace.name,
        "setting": dataclasses.asdict(case.setting),
        "scraping": dataclasses.asdict(case.scraping),
        "seed": case.seed,
        "arrivals": hashlib.sha256(case.trace.arrivals.tobytes()).hexdigest(),
    }
    name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]
    file = cache_folder() / "results" / f"{name}.json"
    if file.exists():
        return [Row(**each) for each in json.loads(file.read_text())]
    rows = [*rivals(case), *bounds(case)]
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps([dataclasses.asdict(each) for each in rows]))
    partial.rename(file)
    return rows
