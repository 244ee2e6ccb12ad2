"""Runs scenarios under faults, and compares what they come to with an undisturbed run."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.resilience import snapshot
from tests.resilience.api import own_path
from tests.resilience.doors import LISTENER_SECONDS
from tests.resilience.experiment import Experiment, Sent
from tests.resilience.faults import Fault
from tests.resilience.plane import Plane
from tests.resilience.process import Log, Operator
from tests.resilience.promises import Promises
from tests.resilience.proxy import FaultProxy
from tests.resilience.scenarios import Scenario
from tests.resilience.snapshot import Leaves
from tests.resilience.stage import Stage, TooLongError
from tests.resilience.writes import Target, Write

QUIET_SECONDS = 1.0
DEADLINE_SECONDS = 120.0
"""It bounds a failure, not a speed: alone no scenario takes longer than some seconds."""
_POLL_SECONDS = 0.05
_LOG_LINES = 60


@dataclass(frozen=True, slots=True)
class Observation:
    """What a run came to."""

    fault: Fault | None
    fired: bool
    leaves: Leaves
    asked: Counter[Target]  # creations and deletions by the operator, as the proxy saw them
    happened: Counter[Target]  # by anybody, as the API server told the harness's own watch
    sent: tuple[Sent, ...]
    kill_points: tuple[Write, ...]
    events: frozenset[tuple[str, str]]  # resource and type of what happened under the fault
    log: str
    errors: tuple[str, ...]  # what the operator logged as one: no fault is a reason for that
    seconds: float
    broken: tuple[str, ...] = ()  # promises of serving
    stuck: str = ""  # what was there when the scenario did not come to its end


@dataclass(frozen=True, slots=True)
class Reference:
    """What a scenario comes to when nothing goes wrong, learnt from two runs."""

    scenario: Scenario
    observation: Observation
    kill_points: tuple[Write, ...]
    masked: frozenset[str] = field(default_factory=frozenset)

    def judge(self, found: Observation) -> list[str]:
        """Return a line for each way in which a run differs; none for one that is equal."""
        if found.stuck:
            return [found.stuck]
        wanted = self.observation
        return [
            *found.errors,
            *found.broken,
            *(f"the chart's role does not let it: {each}" for each in found.sent if each.forbidden),
            *snapshot.differences(wanted.leaves, found.leaves, self.masked),
            *_miscounted("the operator asked", wanted.asked, found.asked),
            *_miscounted("the API server saw", wanted.happened, found.happened),
        ]


def _miscounted(who: str, wanted: Counter[Target], found: Counter[Target]) -> Iterator[str]:
    for target in sorted(wanted.keys() | found.keys()):
        if wanted[target] != found[target]:
            yield f"{who}: {target} {wanted[target]} times became {found[target]} times"


@dataclass(frozen=True, slots=True)
class _Trial:
    """A run that is on its way."""

    experiment: Experiment
    stage: Stage
    log: Log
    promises: Promises


class Harness:
    """One operator that is killed again and again; each run has a namespace of its own."""

    def __init__(self, plane: Plane, operator: Operator, proxy: FaultProxy) -> None:
        self._plane = plane
        self._operator = operator
        self._proxy = proxy

    @asynccontextmanager
    async def replaced(
        self, module: str, listener_seconds: float = LISTENER_SECONDS
    ) -> AsyncIterator[Harness]:
        """Let an operator of another module, and doors like these, take the place of ours."""
        self._operator.kill()
        self._plane.doors.listener_seconds = listener_seconds
        try:
            async with self._plane.operator(module) as (operator, proxy):
                yield Harness(self._plane, operator, proxy)
        finally:
            self._plane.doors.listener_seconds = LISTENER_SECONDS
            await self._operator.start()

    async def learn(self, scenario: Scenario) -> Reference:
        """Run twice undisturbed: what differs is masked, what was written both times is learnt."""
        first, second = await self.run(scenario), await self.run(scenario)
        reference = Reference(
            scenario,
            first,
            tuple(each for each in first.kill_points if each in second.kill_points),
            snapshot.differing_paths(first.leaves, second.leaves) | scenario.untold,
        )
        wrong = reference.judge(first) or reference.judge(second)
        if wrong:
            text = "\n".join(wrong)
            raise AssertionError(f"{scenario} differs without any fault:\n{text}\n{second.log}")
        return reference

    async def run(
        self,
        scenario: Scenario,
        fault: Fault | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> Observation:
        """Run a scenario in a new namespace, with this fault in its way."""
        began = time.monotonic()
        async with self._namespace(scenario) as namespace:
            world = self._plane.history.world(namespace)
            async with self._plane.doors.of(namespace, world) as door:
                promises = Promises(world, door, scenario.needed)
                trial = self._begin(namespace, fault, promises, deadline_seconds)
                stuck = await self._play(scenario, trial)
                return await self._observe(trial, stuck, began)

    def _begin(
        self, namespace: str, fault: Fault | None, promises: Promises, deadline_seconds: float
    ) -> _Trial:
        experiment = Experiment(namespace, fault, self._operator.kill_and_restart)
        stage = Stage(self._plane.api, promises.world, namespace, deadline_seconds, self._operator)
        self._proxy.experiment = experiment
        promises.begin()
        return _Trial(experiment, stage, self._operator.log_from_now(), promises)

    async def _play(self, scenario: Scenario, trial: _Trial) -> str:
        """Play the scenario to its end; return what there was if it does not come to one."""
        async with asyncio.TaskGroup() as group:
            directing = group.create_task(trial.stage.direct(scenario.ending))
            try:
                await self._perform(scenario, trial)
            except TooLongError as error:
                return str(error)
            finally:
                directing.cancel()
        return ""

    async def _perform(self, scenario: Scenario, trial: _Trial) -> None:
        stage = trial.stage
        if scenario.prepare is not None:
            await scenario.prepare(stage)
            await self._quiet(trial)
            # The operator has told all of it; a door may still have to hear it.
            await stage.until(lambda _: trial.promises.are_met())
        trial.experiment.arm()
        trial.promises.arm()
        stage.world.events.clear()
        await scenario.act(stage)
        await stage.until(scenario.done)
        await self._quiet(trial)
        await stage.until(scenario.done)

    async def _observe(self, trial: _Trial, stuck: str, began: float) -> Observation:
        experiment, world = trial.experiment, trial.stage.world
        self._plane.history.check()
        everything = await self._plane.api.everything(experiment.namespace)
        return Observation(
            fault=experiment.fault,
            fired=experiment.fired,
            leaves=snapshot.leaves(experiment.namespace, everything),
            asked=experiment.effects(),
            happened=world.effects(),
            sent=tuple(experiment.sent),
            kill_points=tuple(experiment.kill_points()),
            events=frozenset(world.events),
            log=trial.log.last_lines(_LOG_LINES),
            errors=tuple(trial.log.errors()),
            seconds=time.monotonic() - began,
            broken=tuple(trial.promises.broken()),
            stuck=stuck,
        )

    async def _quiet(self, trial: _Trial) -> None:
        """Wait until nothing has been written for a while, by an operator that has seen it all.

        On a busy machine one that is about to write may be silent for longer: it has to be idle.
        """
        stage = trial.stage
        deadline = time.monotonic() + stage.deadline_seconds
        while time.monotonic() < deadline:
            await self._operator.restarted()
            newest = self._newest(trial)
            quiet = time.monotonic() - newest > QUIET_SECONDS
            if quiet and await self._operator.is_idle() and self._newest(trial) == newest:
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise TooLongError(f"{stage.namespace} was never quiet for {QUIET_SECONDS} s")

    def _newest(self, trial: _Trial) -> float:
        written, seen = trial.experiment.last_write, trial.stage.world.last_event
        return max(written, seen, self._operator.ready_at)

    @asynccontextmanager
    async def _namespace(self, scenario: Scenario) -> AsyncIterator[str]:
        name = f"{scenario.name.replace('_', '-')}-{secrets.token_hex(3)}"
        api = self._plane.api
        await api.create("/api/v1/namespaces", {"metadata": {"name": name}})
        self._plane.history.world(name)
        await api.wait_for(f"/api/v1/namespaces/{name}/serviceaccounts/default")
        try:
            yield name
        finally:
            await self._clear(name)

    async def _clear(self, namespace: str) -> None:
        """Delete the objects first: an operator that sees their pods go would make new ones."""
        self._proxy.experiment = None
        await self._operator.restarted()
        if not self._operator.runs:
            await self._operator.start()
        world = self._plane.history.world(namespace)
        for kind, resource in _OWN.items():
            for each in list(world.list(resource)):
                await self._plane.api.delete(own_path(namespace, kind, each["metadata"]["name"]))
        await self._plane.api.delete(f"/api/v1/namespaces/{namespace}")
        self._plane.history.forget(namespace)


_OWN = {
    "TrainingJob": "trainingjobs",
    "LeptonModel": "leptonmodels",
    "InferenceService": "inferenceservices",
}
