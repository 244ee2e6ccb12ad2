"""The tables of docs/autoscaling-real-run.md, between its markers; the prose is ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.autoscaling.report import replaced
from bench.autoscaling_real.recording import Recording

PAGE = Path("docs/autoscaling-real-run.md")
_PREDICTED = "_predicted"
_HEADS = {
    "phase": "phase",
    "rate": "requests a second",
    "p95_ms": "p95, ms",
    "p99_ms": "p99, ms",
    "over_target_percent": "over the target, %",
    "replicas": "pods with requests",
    "scaled_s": "`/scale` written, s",
    "created_s": "first pod created, s",
    "ready_s": "first one ready at every door, s",
    "enough_s": "more capacity than load, s",
}


def write(recording: Recording, figures: Mapping[str, Any]) -> None:
    """Put the tables into the page, and print them."""
    tables = {
        "phases": _beside(figures["phases"]),
        "reactions": _beside(figures["reactions"]),
        "decisions": _decisions(recording.decisions),
        "machine": _machine(figures),
    }
    page = PAGE.read_text()
    for name, lines in tables.items():
        known = list(lines)
        print("", *known, sep="\n")
        page = replaced(page, name, known)
    PAGE.write_text(page)


def _beside(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table in which what was predicted stands in brackets."""
    known = list(rows)
    names = [each for each in known[0] if not each.endswith(_PREDICTED)]
    yield "| " + " | ".join(_HEADS[name] for name in names) + " |"
    yield "|---" * len(names) + "|"
    for row in known:
        cells = (_cell(row[name], row.get(name + _PREDICTED)) for name in names)
        yield "| " + " | ".join(cells) + " |"


def _cell(value: object, foretold: object) -> str:
    cell = "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return cell if foretold is None else f"{cell} ({foretold:g})"


def _decisions(decisions: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield "| at, s | from | to | by | why |"
    yield "|---|---|---|---|---|"
    for each in decisions:
        yield (
            f"| {each['seen']:.0f} | {each['from']} | {each['to']} | {each['metric']} "
            f"| {each['reason']} |"
        )


def _machine(figures: Mapping[str, Any]) -> Iterator[str]:
    startups, sent = figures["startup_seconds"], figures["requests"]
    yield "| what | figure |"
    yield "|---|---|"
    yield f"| requests sent, of those that were due | {sent} of {figures['requests_due']} |"
    yield f"| requests that failed | {figures['failed']} |"
    yield f"| start-ups, from creation to every door, s | {startups[0]:g} to {startups[-1]:g} |"
    for name, head in (("gpu_seconds", "pod seconds"), ("scalings", "changes of the number")):
        yield f"| {head} | {_cell(figures[name], figures[name + _PREDICTED])} |"
    yield f"| cores that k6 used | {figures['k6_cores']:g} |"
    yield f"| cores that the operator used | {figures['operator_cores']:g} |"
    yield (
        f"| share of the machine's two cores that was free | {figures['free_percent']} %; "
        f"in the busiest 10 s {figures['free_percent_least_10s']} % |"
    )
