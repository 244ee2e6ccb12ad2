"""The load: phases of one rate each, and k6 that keeps to them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.autoscaling_real.recording import Phase, Request
from e2e.kubectl import Kubectl
from e2e.load import question, start_k6

DURATION_SECONDS = 600.0
SPREAD_SECONDS = 1.0
"""An iteration of k6 waits for up to so long, by lot, before it asks."""
TIMEOUT_SECONDS = 20
# Requests a second, and the share of the run. A pod answers ten a second. The last one is the
# longest: what is kept for the next spike goes only when it was kept long enough.
_PHASES = (
    ("base", 8.0, 8 / 60),
    ("step up", 40.0, 11 / 60),
    ("step down", 15.0, 13 / 60),
    ("spike", 60.0, 4 / 60),
    ("after", 15.0, 24 / 60),
)
_SCRIPT = Path(__file__).parent / "k6.js"


def phases(duration_seconds: float) -> tuple[Phase, ...]:
    return tuple(
        Phase(name, rate, round(share * duration_seconds)) for name, rate, share in _PHASES
    )


def start(
    kubectl: Kubectl, service: str, wanted: Sequence[Phase], folder: Path
) -> subprocess.Popen[bytes]:
    """Start the load; what becomes of each request is written into the folder."""
    asked = question(kubectl, service) | {
        "phases": [each._asdict() for each in wanted],
        "timeout_seconds": TIMEOUT_SECONDS,
        "spread_seconds": SPREAD_SECONDS,
    }
    file = folder / "asked.json"
    file.write_text(json.dumps(asked))
    return start_k6(_SCRIPT, file, _told(folder))


def read(folder: Path) -> tuple[float, list[Request]]:
    """Return when the load began (seconds since 1970), and its requests, by their beginnings."""
    lines = [json.loads(line) for line in _told(folder).read_text().splitlines()]
    if not lines:
        raise RuntimeError("k6 told of no request; its own words are above.")
    began = float(lines[0]["began"])
    found = (Request(each["at"] - began, each["ms"] / 1e3, each["error"]) for each in lines)
    return began, sorted(found)


def _told(folder: Path) -> Path:
    return folder / "requests.jsonl"
