"""In any order of events, with the operator killed anywhere, a TrainingJob comes out right."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lepton_operator import names
from lepton_operator.api.training import Phase, Progress, RankRestart, Spent, TrainingJob
from lepton_operator.build import training as build
from lepton_operator.conditions import READY, is_true
from lepton_operator.ledgers import settled
from lepton_operator.plan import Plan
from lepton_operator.settings import Images
from lepton_operator.training import failure
from lepton_operator.training.backoff import MAX_DELAY_SECONDS
from lepton_operator.training.evidence import Suspect
from lepton_operator.training.plan import plan
from lepton_operator.training.rules import classify
from lepton_operator.training.situation import understand
from lepton_operator.views import InPlace, PodView, Told
from tests.builders import a_node, a_record, a_result, a_training_job
from tests.world import Key, Killed, World, is_empty

NODES = ("node-1", "node-2")
PATTERN = "loss is nan"
PATTERN_NAME = names.short_hash(PATTERN)
WHICH = st.integers(0, 5)
BUDGET = st.sampled_from([5, 5, 2, 0])  # mostly enough for a long story
MOST_PASSES = 300
LONGEST_START_PASSES = 5
CONDITIONS = ("Complete", "Failed")


def spent(ledger: Spent | None) -> float:
    fields = ledger.model_dump(include=set(Spent.model_fields)) if ledger else {}
    return sum(float(text) for text in fields.values() if text is not None)


def planner(world: World, key: Key) -> Plan:
    return plan(world.training_view(key), world.now)


def is_asked(pod: PodView) -> bool:
    """Whether the pod's annotation asks it to leave."""
    return '"leave":true' in pod.annotations.get(names.ATTEMPT, "")


class TrainingWorld(RuleBasedStateMachine):
    """Steps are what a cluster, a person and fate may do; the operator's passes come between."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(before_delete=self.must_be_recorded)
        self.key: Key = ("TrainingJob", "digits")
        self.before = a_training_job().status
        self.finished: str | None = None
        self.upgrades = 0
        self.harms = 0

    @property
    def job(self) -> TrainingJob:
        return self.world.job(self.key)

    @initialize(
        nodes=st.integers(1, 3),
        output=st.sampled_from([None, "digits"]),
        max_restarts=BUDGET,
        max_losses=BUDGET,
        max_idle=BUDGET,
        action=st.sampled_from([None, "Restart", "RestartElsewhere", "Fail", "Ignore"]),
        deadline=st.sampled_from([None, None, None, 300]),
    )
    def apply(
        self,
        *,
        nodes: int,
        output: str | None,
        max_restarts: int,
        max_losses: int,
        max_idle: int,
        action: str | None,
        deadline: int | None,
    ) -> None:
        policy = {
            "maxRestarts": max_restarts,
            "maxInfrastructureRestarts": max_losses,
            "maxRestartsWithoutProgress": max_idle,
            "rules": [{"match": {"messagePattern": PATTERN}, "action": action}] if action else [],
        }
        spec: dict[str, Any] = {"activeDeadlineSeconds": deadline} if deadline else {}
        job = a_training_job(nodes, output=output, failurePolicy=policy, **spec)
        self.world.nodes = {name: a_node(name) for name in NODES}
        self.world.add(job)

    # The operator

    @rule(passes=st.integers(1, 5), seconds=st.sampled_from([0.3, 1, 2, 31]))
    def reconcile_well_informed(self, passes: int, seconds: float) -> None:
        for _ in range(passes):
            self.world.pass_time(seconds)
            self.world.tell_all()
            self.world.reconcile(self.key, planner)

    @rule(upgrades=st.booleans(), writes=st.sampled_from([None, 0, 1, 2]))
    def reconcile_in_the_dark(self, *, upgrades: bool, writes: int | None) -> None:
        self.world.pass_time(MAX_DELAY_SECONDS / 2)
        if upgrades:
            self.upgrade_chart()
        try:
            self.world.reconcile(self.key, planner, writes=writes)
        except Killed:
            self.world.restart_operator()

    def upgrade_chart(self) -> None:
        self.upgrades += 1
        tag = str(self.upgrades)
        kinds = ("agent", "trainer", "triton", "door")
        images = Images.model_validate({kind: f"{kind}:{tag}" for kind in kinds})
        self.world.defaults = self.world.defaults.model_copy(update={"images": images})

    # The watch

    @rule(which=WHICH, sight=st.booleans())
    def watch(self, *, which: int, sight: bool) -> None:
        recorded = {each.number for each in self.job.status.attempts}
        for pod in self.one(which):
            if sight:
                self.world.tell(pod)
            elif self.numbers(pod)[0] in recorded:
                # An operator that starts lists all pods, so it knows those that it just made.
                self.world.lose_sight(pod)

    # The cluster

    @rule(which=WHICH, node=st.sampled_from(NODES))
    def schedule(self, which: int, node: str) -> None:
        for pod in self.one(which):
            self.world.schedule(pod.name, node)

    @rule(node=st.sampled_from(NODES))
    def get_going(self, node: str) -> None:
        """Everything does its work for a while: most runs get as far as a gang that trains."""
        self.world.revive(node)
        for _ in range(LONGEST_START_PASSES):
            self.world.finish_deletions()
            self.world.cordon(node, schedulable=True)
            self.world.pass_time(MAX_DELAY_SECONDS / 3)
            self.world.tell_all()
            self.world.reconcile(self.key, planner)
            for name in sorted(self.world.pods):
                for each in (node, *NODES):
                    self.world.schedule(name, each)
                self.world.start(name)

    @rule(
        which=WHICH,
        exit_code=st.sampled_from([0, 1, 137]),
        step=st.sampled_from([None, 0, 50, 100, 101, 200]),
        marks=st.sampled_from([[], [], ["GpuError"], ["PeerLost"], [PATTERN_NAME]]),
        in_place=st.sampled_from([0, 0, 1, 7]),
        readable=st.booleans(),
    )
    def end(
        self,
        *,
        which: int,
        exit_code: int,
        step: int | None,
        marks: list[str],
        in_place: int,
        readable: bool,
    ) -> None:
        told: dict[str, Any] = {"message": "ValueError: bad", "matched": marks}
        told |= {"restarts": in_place, "repeated": in_place > 1}
        told |= {} if step is None else {"step": step, "furthest": step}
        told |= {"ledger": {"start": 2.5, "productive": 1.0 * (step or 0), "forged": 1e9}}
        said = a_record("Failed", reason="UserError", **told) if exit_code else a_result()
        for pod in self.one(which):
            self.harms += in_place + (bool(exit_code) or not readable)
            self.world.end(pod.name, exit_code, said if readable else said[:20])

    @rule(
        which=WHICH,
        phase=st.sampled_from(["training", "training", "checkpointing", "rendezvous"]),
        generation=st.integers(0, 2),
        step=st.sampled_from([None, 50, 100, 101, 200]),
        in_place=st.sampled_from([0, 0, 1, 7]),
        saved=st.booleans(),
    )
    def tell_progress(
        self,
        *,
        which: int,
        phase: Phase,
        generation: int,
        step: int | None,
        in_place: int,
        saved: bool,
    ) -> None:
        """A sidecar answers; it may know less than the one before it did."""
        for pod in self.one(which):
            self.harms += in_place
            progress = Progress(
                time=self.world.now.replace(microsecond=0),
                attempt=self.numbers(pod)[0],
                generation=generation,
                phase=phase,
                step=step,
            )
            failed = RankRestart(generation=0, reason="UserError", rank=self.numbers(pod)[1])
            told = InPlace(in_place, furthest=step, saved=saved, last=(failed,) * min(in_place, 5))
            self.world.told = Told(progress, told)

    @rule(node=st.sampled_from(NODES))
    def break_gpus(self, node: str) -> None:
        """Ranks get going wherever there is room, and all on one node fail."""
        self.get_going(node)
        said = a_record("Failed", reason="UserError", matched=["GpuError"])
        for pod in [each for each in self.world.pods.values() if each.node == node]:
            self.harms += 1
            self.world.end(pod.name, 1, said)

    @rule()
    def end_all_well(self) -> None:
        for name in sorted(self.world.pods):
            self.world.end(name, 0, a_result())

    @rule(node=st.sampled_from(NODES), schedulable=st.booleans())
    def cordon(self, node: str, *, schedulable: bool) -> None:
        self.world.cordon(node, schedulable=schedulable)

    @rule(which=WHICH, how=st.sampled_from(["vanish", "evict", "preempt", "ask_to_delete"]))
    def lose(self, which: int, how: str) -> None:
        for pod in self.one(which):
            self.harms += 1
            getattr(self.world, how)(pod.name)

    @rule(exit_code=st.sampled_from([0, 75]), step=st.sampled_from([0, 60, 120]))
    def leave(self, *, exit_code: int, step: int) -> None:
        """Where a pod is asked to leave, its launcher tells all: they save, or end just then."""
        told = [pod for pod in self.world.pods.values() if pod.deleting or is_asked(pod)]
        facts = {"message": f"Saved at step {step}.", "step": step, "furthest": step}
        said = a_record("Failed", reason="Saved", **facts) if exit_code else a_result()
        numbers = {self.numbers(pod)[0] for pod in told}
        for pod in list(self.world.pods.values()):
            if self.numbers(pod)[0] in numbers:
                self.harms += 1
                self.world.end(pod.name, exit_code, said)

    @rule()
    def finish_deletions(self) -> None:
        self.world.finish_deletions()

    @rule(node=st.sampled_from(NODES))
    def silence_or_revive(self, node: str) -> None:
        if self.world.nodes[node].ready:
            self.harms += 1
            self.world.silence(node)
        else:
            self.world.revive(node)

    # A person

    @rule(passes=st.integers(0, 3), stays=st.sampled_from([False, False, True]))
    def suspend(self, *, passes: int, stays: bool) -> None:
        self.world.change_spec(self.key, suspend=True)
        for _ in range(passes):
            self.world.reconcile(self.key, planner)
        self.world.change_spec(self.key, suspend=stays)

    def one(self, which: int) -> list[PodView]:
        """One of the pods that there are, or none."""
        pods = [self.world.pods[name] for name in sorted(self.world.pods)]
        return [pods[which % len(pods)]] if pods else []

    # What must hold

    def must_be_recorded(self, pod: PodView) -> None:
        number, _ = self.numbers(pod)
        recorded = {each.number: each for each in self.job.status.attempts}
        last = max(recorded, default=0)
        ended = number in recorded and recorded[number].outcome != "Running"
        assert ended or number < last, f"{pod.name} is deleted, and no status says why"
        assert not self.could_stay(pod), f"{pod.name} is deleted, and nothing is wrong with it"

    def could_stay(self, pod: PodView) -> bool:
        """Tell whether the job goes on after a failure, and this pod could go on in it."""
        job, now = self.job, self.world.now
        goes_on = not self.finished and not any(map(self.is_true, CONDITIONS))
        last = job.status.attempts[-1]
        number, rank = self.numbers(pod)
        if not goes_on or job.spec.suspend or job.spec.num_nodes == 1 or number < last.number:
            return False
        resolved = names.short_hash(build.resolve(job.spec, self.world.defaults).wire())
        entries = [each for each in job.status.avoided_nodes if each.until > now]
        avoided = {each.node for each in entries if each.pod in (None, rank)}
        return (
            last.outcome == "Failed"
            and pod.phase in ("Pending", "Running")
            and not (pod.deleting or pod.deleted_by_eviction)
            and pod.node is not None
            and self.world.nodes[pod.node].ready
            and pod.node not in {*avoided, last.node}
            and pod.labels[names.RESOLVED_HASH] == resolved
            and pod.annotations[names.GENERATION] == str(job.metadata.generation)
        )

    def is_true(self, kind: str) -> bool:
        return is_true(self.job.status.conditions, kind)

    @invariant()
    def one_rank_0_trains(self) -> None:
        lives = [
            pod
            for pod in self.world.pods.values()
            if self.numbers(pod)[1] == 0
            and not pod.finished
            and (pod.node is None or self.world.nodes[pod.node].ready)
        ]
        assert len(lives) <= 1, [pod.name for pod in lives]

    @invariant()
    def counters_only_grow(self) -> None:
        before, status = self.before, self.job.status
        self.before = status
        if before.restarts and status.restarts:
            assert status.restarts.user >= before.restarts.user
            assert status.restarts.infrastructure >= before.restarts.infrastructure
        known = {each.number: each for each in before.attempts}
        for attempt in status.attempts:
            earlier = known.get(attempt.number, attempt)
            assert (attempt.restarts or 0) >= (earlier.restarts or 0)
            assert (attempt.furthest_step or 0) >= (earlier.furthest_step or 0)
        assert (status.attempt or 0) >= (before.attempt or 0)
        counted, now = (settled({"ledger": {}, **each.wire()}) for each in (before, status))
        assert all(now[name] >= counted[name] - 0.5 for name in counted), "a counter fell"

    @invariant()
    def every_second_of_an_attempt_is_in_one_class(self) -> None:
        for attempt in self.job.status.attempts:
            if attempt.end_time and attempt.ledger:
                whole = (attempt.end_time - attempt.start_time).total_seconds()
                assert spent(attempt.ledger) == pytest.approx(whole, abs=0.5)

    @invariant()
    def the_job_s_ledger_is_that_of_its_attempts_and_the_time_between_them(self) -> None:
        attempts = self.job.status.attempts
        if not attempts or attempts[0].number > 1:
            return  # of attempts that are no longer listed the times are not known
        whole = sum(spent(each.ledger) for each in attempts)
        for one, next_one in pairwise(attempts):
            if one.outcome == "Failed" and one.end_time:
                whole += (next_one.start_time - one.end_time).total_seconds()
        assert spent(self.job.status.ledger) == pytest.approx(whole, abs=0.5 * len(attempts))

    @invariant()
    def budgets_are_kept(self) -> None:
        restarts, policy = self.job.status.restarts, self.job.spec.failure_policy
        if restarts:
            assert restarts.user <= policy.max_restarts
            assert restarts.infrastructure <= policy.max_infrastructure_restarts
            assert restarts.without_progress <= policy.max_restarts_without_progress
            counted = restarts.user + restarts.infrastructure + restarts.preemption
            assert counted <= self.harms, "no pod came to harm"

    @invariant()
    def launchers_are_given_what_is_left(self) -> None:
        restarts, policy = self.job.status.restarts, self.job.spec.failure_policy
        left = build.restarts_left(self.job)
        assert left + (restarts.user if restarts else 0) <= policy.max_restarts

    @invariant()
    def what_got_further_is_free(self) -> None:
        attempts, furthest = self.job.status.attempts, 0
        for attempt in attempts:
            # Of attempts that are no longer listed the steps are not known.
            reached = 0 if attempt.outcome == "Running" else attempt.furthest_step or 0
            if reached > furthest and attempts[0].number == 1:
                assert attempt.budget is None, f"attempt {attempt.number} got further"
            furthest = max(furthest, reached)
        assert (self.job.status.furthest_step or 0) >= furthest

    @invariant()
    def what_is_passed_over_has_not_failed(self) -> None:
        situation = understand(self.world.training_view(self.key), self.world.now)
        gang = situation.gang
        if gang is None:
            return
        for index, pod in gang.pods.items():
            if failure.goes_on(situation, pod):
                assert classify(Suspect(situation, gang, index, pod)) is None

    @invariant()
    def not_every_node_is_avoided(self) -> None:
        entries = [e for e in self.job.status.avoided_nodes if e.until > self.world.now]
        assert len({each.node for each in entries if each.pod is None}) <= 1
        for index in range(self.job.spec.num_nodes):
            assert len({each.node for each in entries if each.pod in (None, index)}) < len(NODES)

    @invariant()
    def attempts_follow_each_other(self) -> None:
        numbers = [each.number for each in self.job.status.attempts]
        assert numbers == sorted(set(numbers))
        running = [each.number for each in self.job.status.attempts if each.outcome == "Running"]
        assert running in ([], numbers[-1:])

    @invariant()
    def an_end_is_final(self) -> None:
        ends = [kind for kind in CONDITIONS if is_true(self.job.status.conditions, kind)]
        assert len(ends) <= 1
        if self.finished:
            assert ends == [self.finished]
        self.finished = ends[0] if ends else None

    @invariant()
    def an_attempt_has_one_set_of_defaults(self) -> None:
        hashes: dict[int, set[str]] = {}
        for pod in self.world.pods.values():
            hashes.setdefault(self.numbers(pod)[0], set()).add(pod.labels[names.RESOLVED_HASH])
        assert all(len(each) == 1 for each in hashes.values())

    def teardown(self) -> None:
        if self.key not in self.world.objects:
            return
        self.come_to_rest()
        self.must_rest_for_a_reason()

    def come_to_rest(self) -> None:
        """Let no more happen but what the operator asks for: the plans must run out of work."""
        for _ in range(MOST_PASSES):
            self.world.finish_deletions()
            self.world.tell_all()
            done = self.world.reconcile(self.key, planner)
            for check in (self.one_rank_0_trains, self.counters_only_grow, self.an_end_is_final):
                check()
            if not is_empty(done):
                continue
            again = planner(self.world, self.key)
            assert is_empty(again)
            if again.due is None:
                return
            self.world.now = max(again.due, self.world.now + timedelta(milliseconds=1))
        pytest.fail(f"no rest after {MOST_PASSES} passes: {done.because}")

    def must_rest_for_a_reason(self) -> None:
        status, spec = self.job.status, self.job.spec
        alive = [pod for pod in self.world.pods.values() if not pod.finished and not pod.deleting]
        assert status.observed_generation == self.job.metadata.generation
        if self.finished or spec.suspend:
            assert not alive
        else:
            assert {
                self.numbers(pod)[1] for pod in self.world.pods.values() if not pod.deleting
            } == {*range(spec.num_nodes)}
        if not self.finished and not spec.suspend:
            self.must_all_follow_one_attempt()
        if self.finished == "Complete" or (spec.suspend and not self.finished):
            assert is_true(status.conditions, READY)

    def must_all_follow_one_attempt(self) -> None:
        pods = [pod for pod in self.world.pods.values() if not pod.deleting]
        first = next(pod for pod in pods if self.numbers(pod)[1] == 0)
        if first.ip is None and self.job.spec.num_nodes > 1:
            return
        assert {self.numbers(pod)[0] for pod in pods} == {self.job.status.attempt}
        told = [json.loads(pod.annotations[names.ATTEMPT]) for pod in pods if not pod.finished]
        assert {each["attempt"] for each in told} <= {self.job.status.attempt}
        if self.job.spec.num_nodes > 1:
            assert {each["address"] for each in told} <= {first.ip}

    def numbers(self, pod: PodView) -> tuple[int, int]:
        """Return the attempt that a pod was told of last, and its rank."""
        found = names.parse_training_pod("digits", pod.name)
        assert found is not None
        made_for, rank = found
        told = build.followed_attempt(pod.annotations.get(names.ATTEMPT), rank)
        return max(made_for, told or made_for), rank


TestTrainingWorld = TrainingWorld.TestCase
TestTrainingWorld.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
