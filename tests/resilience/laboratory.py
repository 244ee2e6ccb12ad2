"""Learns each scenario once, tries each fault once, and keeps count of the runs that are equal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.resilience.faults import Fault, Kill, Moment
from tests.resilience.harness import Harness, Observation, Reference
from tests.resilience.scenarios import Scenario

MOMENTS: tuple[Moment, ...] = ("before", "after")
_TRIES = 3

Result = Literal["equal", "different", "absent"]


@dataclass(slots=True)
class Laboratory:
    """`absent` faults found nothing to strike: the write was not made, in none of three runs.

    Two events that come at once may be told in one status write or in two.
    """

    harness: Harness
    _references: dict[str, Reference] = field(default_factory=dict)
    _results: dict[tuple[str, Fault], Result] = field(default_factory=dict)

    async def reference(self, scenario: Scenario) -> Reference:
        """Return what the scenario comes to undisturbed."""
        if scenario.name not in self._references:
            learnt = await self.harness.learn(scenario)
            self._references[scenario.name] = learnt
            print(f"\n{scenario}: {len(learnt.kill_points)} writes", flush=True)
            for path in sorted(learnt.masked):
                print(f"  not compared: {path}", flush=True)
        return self._references[scenario.name]

    async def kill_points(self, scenario: Scenario) -> list[Kill]:
        """Return all kill points of a scenario, in an order that no run decides."""
        reference = await self.reference(scenario)
        return [
            Kill(write, moment) for write in sorted(reference.kill_points) for moment in MOMENTS
        ]

    async def differing(self, scenario: Scenario, faults: Sequence[Fault]) -> str:
        """Run the scenario under each of these faults; return what differs, and how."""
        reports = []
        for number, fault in enumerate(faults, 1):
            if (scenario.name, fault) not in self._results:
                reports.append(await self._try(scenario, fault, f"{number} of {len(faults)}"))
        return "\n".join(filter(None, reports))

    async def _try(self, scenario: Scenario, fault: Fault, which: str) -> str:
        reference = await self.reference(scenario)
        found = await self._run_until_it_strikes(scenario, fault)
        differences = reference.judge(found)
        result: Result = "different" if differences else "equal" if found.fired else "absent"
        self._results[scenario.name, fault] = result
        print(f"{scenario} {which}: {fault}: {result} ({found.seconds:.1f} s)", flush=True)
        return report(scenario, found, differences) if differences else ""

    async def _run_until_it_strikes(self, scenario: Scenario, fault: Fault) -> Observation:
        for _ in range(_TRIES - 1):
            found = await self.harness.run(scenario, fault)
            if found.fired:
                return found
        return await self.harness.run(scenario, fault)

    def absent(self, scenario: Scenario) -> list[Fault]:
        """Return the faults that found nothing to strike."""
        return [
            fault
            for (name, fault), result in self._results.items()
            if name == scenario.name and result == "absent"
        ]

    def tally(self) -> dict[str, dict[str, int]]:
        """Return for each scenario how many kill points were tried, and how many were equal."""
        counted: dict[str, dict[str, int]] = {}
        for (name, fault), result in self._results.items():
            if isinstance(fault, Kill) and result != "absent":
                row = counted.setdefault(name, {"points": 0, "equal": 0})
                row["points"] += 1
                row["equal"] += result == "equal"
        return counted


def report(scenario: Scenario, found: Observation, differences: Iterable[str]) -> str:
    """Return what a person needs to find the cause: the fault, what differs, writes and log."""
    parts = (
        f"{scenario}: {found.fault} makes a difference",
        *(f"  {line}" for line in differences),
        "its writes:",
        *(f"  {each}" for each in found.sent),
        "the operator's last lines:",
        found.log,
        "",
    )
    return "\n".join(parts)
