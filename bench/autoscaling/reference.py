"""Rows of earlier runs. Rivals and bounds change only with the simulator, ours with our law."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import lepton_operator.autoscale
from bench.autoscaling.compiled import cache_folder
from bench.autoscaling.ours import lepton
from bench.autoscaling.run import Case
from bench.autoscaling.table import Row, bounds, rivals


def reference(case: Case) -> list[Row]:
    """Return the rows of every rival and bound; simulate unless this very case has been."""
    return _kept(_described(case), lambda: [*rivals(case), *bounds(case)])


def ours(case: Case, percentile: float | None = None) -> Row:
    """Return our law's row; simulate unless this very law has been on this very case."""
    described = _described(case) | {"law": _LAW, "percentile": percentile}
    (row,) = _kept(described, lambda: [lepton(case, percentile)])
    return row


def _described(case: Case) -> dict[str, object]:
    return {
        "trace": case.trace.name,
        "setting": dataclasses.asdict(case.setting),
        "scraping": dataclasses.asdict(case.scraping),
        "seed": case.seed,
        "arrivals": hashlib.sha256(case.trace.arrivals.tobytes()).hexdigest(),
    }


def _digest_of_law() -> str:
    """Return what the law's code is: of all its modules, and of how it is asked here."""
    folder = Path(lepton_operator.autoscale.__file__).parent
    files = [*sorted(folder.glob("*.py")), Path(__file__).with_name("ours.py")]
    return hashlib.sha256(b"".join(each.read_bytes() for each in files)).hexdigest()


# Said when the code is loaded: it may be another one on the disk by the time a row is kept.
_LAW, _RESULTS = _digest_of_law(), cache_folder() / "results"


def _kept(what: dict[str, object], simulate: Callable[[], Iterable[Row]]) -> list[Row]:
    name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]
    file = _RESULTS / f"{name}.json"
    if file.exists():
        return [Row(**each) for each in json.loads(file.read_text())]
    rows = list(simulate())
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps([dataclasses.asdict(each) for each in rows]))
    partial.rename(file)
    return rows
