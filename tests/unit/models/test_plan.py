from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lepton_operator.api.model import LeptonModelStatus
from lepton_operator.conditions import find
from lepton_operator.models.plan import plan
from lepton_operator.models.reasons import FINAL
from lepton_operator.plan import Plan
from lepton_operator.views import ModelView, Refusal
from tests.builders import NOW, a_model, a_node, a_training_job, a_waiting_container, ago, stamp
from tests.conftest import Golden
from tests.plans import deleted, told
from tests.unit.models.builders import (
    GATE,
    INDEX,
    OTHER_SOURCE_DIGEST,
    SOURCE,
    SOURCE_DIGEST,
    a_failing,
    a_finished_job,
    a_status,
    a_step_pod,
    a_told_version,
    a_version,
    a_view,
    after,
    an_evaluation,
    an_import,
    digest,
    evaluate,
    evaluated,
    failed,
    imported,
    indexed,
    pinned,
    running,
)

IMPORTED = {"digest": SOURCE_DIGEST, "version": 1}
OTHER_SOURCE = {**SOURCE, "digest": OTHER_SOURCE_DIGEST}


def view(*, status: dict[str, Any] | None = None, **more: Any) -> ModelView:
    """A view; keys of the spec are those of the manifest."""
    spec = {key: more.pop(key) for key in ("source", "evaluation") if key in more}
    return a_view(a_model(status=status, meta=more.pop("meta", None), **spec), **more)


def created(found: Plan) -> list[str]:
    return [each.manifest["metadata"]["name"] for each in found.create]


def status(found: Plan) -> LeptonModelStatus:
    assert found.status is not None
    return LeptonModelStatus.model_validate(found.status)


def message(found: Plan, kind: str = "Ready") -> str:
    condition = find(status(found).conditions, kind)
    assert condition is not None
    return condition.message


def settled(start: ModelView) -> ModelView:
    """The view after passes that only write the status."""
    return after(start, plan(start, NOW))


# Which step comes next


@pytest.mark.parametrize(
    ("start", "pods"),
    [
        pytest.param(view(), ["digits-index-1"], id="a fresh model asks the store"),
        pytest.param(
            view(source=SOURCE), ["digits-index-1"], id="so does one with a source, for its past"
        ),
        pytest.param(view(status=a_status()), [], id="an empty store is asked once"),
        pytest.param(
            view(source=SOURCE, status=a_status(imported=IMPORTED)),
            ["digits-index-1"],
            id="a list that was lost alone, and not the whole status, is asked for again",
        ),
        pytest.param(
            view(status=a_status(), jobs=(a_finished_job(1),)),
            ["digits-index-1"],
            id="a job whose version is not listed makes it ask again",
        ),
        pytest.param(
            view(status=a_status(a_version(2)), jobs=(a_finished_job(1), a_finished_job(2))),
            [],
            id="jobs whose versions are listed, or older, do not",
        ),
        pytest.param(
            view(status=a_status(a_version(9), unlisted=True)),
            ["digits-index-1"],
            id="further versions in the store are fetched",
        ),
        pytest.param(
            view(source=SOURCE, status=a_status()),
            ["digits-import-1"],
            id="a source is imported",
        ),
        pytest.param(
            view(
                source=SOURCE,
                status=a_status(a_version(1), imported=IMPORTED),
            ),
            [],
            id="a source is imported once",
        ),
        pytest.param(
            view(
                source=OTHER_SOURCE,
                status=a_status(a_version(1), imported=IMPORTED),
            ),
            ["digits-import-1"],
            id="a source with another digest is imported anew",
        ),
        pytest.param(
            view(evaluation=GATE, status=a_status(a_version(2), a_version(1))),
            ["digits-evaluate-2-1"],
            id="only the newest version is evaluated",
        ),
        pytest.param(
            view(
                evaluation=GATE,
                status=a_status(a_version(2, accuracy="0.95"), a_version(1)),
                uses=pinned(1),
            ),
            ["digits-evaluate-1-1"],
            id="and one that a service names",
        ),
        pytest.param(
            view(
                evaluation={**GATE, "dataset": "mnist"},
                status=a_status(a_version(2, accuracy="0.95"), a_version(1, accuracy="0.95")),
                uses=pinned(1),
            ),
            ["digits-evaluate-2-1"],
            id="a changed dataset evaluates the newest version only",
        ),
        pytest.param(
            view(evaluation={}, status=a_status(a_version(1))),
            ["digits-evaluate-1-1"],
            id="an evaluation without thresholds is made too",
        ),
        pytest.param(
            view(
                evaluation={**GATE, "thresholds": [{"metric": "accuracy", "minimum": "0.99"}]},
                status=a_status(a_version(1, accuracy="0.95")),
            ),
            [],
            id="a changed threshold needs no pod",
        ),
        pytest.param(
            view(pods=(a_step_pod(INDEX),), source=SOURCE),
            [],
            id="one step at a time",
        ),
        pytest.param(
            view(meta={"deletionTimestamp": stamp(ago(1))}), [], id="a deleted one is left alone"
        ),
    ],
)
def test_the_next_step(start: ModelView, pods: list[str]) -> None:
    assert created(plan(start, NOW)) == pods


def test_a_step_is_made_from_a_live_list_because_it_is_absent() -> None:
    assert plan(view(), NOW).relist


def test_a_settled_model_needs_nothing() -> None:
    start = view(evaluation=GATE, status=a_status(a_version(1, accuracy="0.95")))
    assert plan(settled(start), NOW + timedelta(hours=1)) == Plan()


def test_a_pod_that_works_on_what_nobody_wants_any_more_is_deleted() -> None:
    start = view(
        evaluation={**GATE, "dataset": "mnist"},
        status=a_status(a_version(1)),
        pods=(a_step_pod(evaluate(1, "heldout")),),
    )
    found = plan(start, NOW)
    assert deleted(found) == ["digits-evaluate-1-1"]
    assert created(found) == ["digits-evaluate-1-2"], "the name of the other one is still taken"


# What a step ended with


def test_an_outcome_is_recorded_before_its_pod_is_deleted() -> None:
    start = view(pods=(indexed(a_told_version(2), a_told_version(1)),))
    first = plan(start, NOW)
    assert (first.delete, first.create) == ((), ())
    assert [each.version for each in status(first).versions] == [2, 1]
    second = plan(after(start, first), NOW)
    assert deleted(second) == ["digits-index-1"]
    assert second.status is None


def test_recording_the_same_pods_again_changes_nothing() -> None:
    for pods in (
        (indexed(a_told_version(1)),),
        (failed(INDEX, "NoStore"),),
        (a_step_pod(INDEX, deleting=True),),
    ):
        once = settled(view(pods=pods))
        assert plan(once, NOW + timedelta(seconds=1)).status is None


@pytest.mark.parametrize("more", [True, False], ids=["and asks again", "and is done"])
def test_an_index_lists_what_it_is_told(more: bool) -> None:  # noqa: FBT001
    pods = (indexed(a_told_version(7), a_told_version(6), more=more),)
    start = settled(view(pods=pods))
    assert (start.model.status.unlisted or False) is more
    assert created(plan(replace(start, pods=()), NOW)) == (["digits-index-1"] if more else [])


def test_an_index_that_left_out_what_the_status_has_lost_since_proves_nothing() -> None:
    step = replace(INDEX, known="2,1")
    start = settled(view(pods=(indexed(a_told_version(3), step=step),)))
    assert [each.version for each in start.model.status.versions] == [3]
    (made,) = plan(start, NOW).create
    command = made.manifest["spec"]["containers"][0]["command"]
    assert command[-2:] == ["--known", "3"]


def test_versions_too_old_to_be_kept_are_not_asked_for_for_ever() -> None:
    many = [a_version(each) for each in range(30, 10, -1)]
    pods = (indexed(a_told_version(10), a_told_version(9), more=True),)
    start = settled(view(status=a_status(*many, unlisted=True), pods=pods))
    assert len(start.model.status.versions) == 20
    assert start.model.status.unlisted is None


def test_the_newest_twenty_and_those_in_use_are_kept() -> None:
    many = [a_version(each) for each in range(30, 0, -1)]
    start = settled(view(status=a_status(*many), uses=pinned(3) | running(5)))
    assert [each.version for each in start.model.status.versions] == [*range(30, 10, -1), 5, 3]


def test_an_evaluation_comes_with_the_index_after_the_status_was_lost() -> None:
    told_one = a_told_version(1, evaluation=an_evaluation(0.9645))
    step = replace(INDEX, dataset="heldout")
    start = view(evaluation=GATE, pods=(indexed(told_one, step=step),))
    found = plan(start, NOW)
    assert told(found) == ("True", "Accepted", "")
    assert created(plan(replace(after(start, found), pods=()), NOW)) == []


def test_a_version_never_changes() -> None:
    start = view(
        source=SOURCE,
        status=a_status(a_version(1)),
        pods=(imported(a_told_version(1, digest=digest(99))),),
    )
    found = plan(start, NOW)
    assert status(found).versions[0].digest == digest(1)
    warning = next(each for each in found.events if each.reason == "VersionConflict")
    assert warning.type == "Warning"
    assert digest(99) in warning.message


def test_an_import_is_remembered_by_its_source() -> None:
    start = settled(view(source=SOURCE, status=a_status(), pods=(imported(a_told_version(4)),)))
    kept = start.model.status.imported
    assert kept is not None
    assert (kept.digest, kept.version) == (SOURCE_DIGEST, 4)


def test_an_evaluation_of_another_digest_is_not_this_versions() -> None:
    pod = evaluated(1, 0.99)
    stranger = replace(evaluate(1), digest=digest(99))
    start = view(
        evaluation=GATE,
        status=a_status(a_version(1)),
        pods=(replace(pod, annotations={"lepton.ai/step": stranger.written()}),),
    )
    assert created(plan(start, NOW)) == ["digits-evaluate-1-2"]


def test_a_job_whose_version_the_store_does_not_list_is_told_and_looked_for_again() -> None:
    start = view(status=a_status(), jobs=(a_finished_job(3, name="lost"),), pods=(indexed(),))
    found = plan(start, NOW)
    assert told(found) == ("False", "VersionMissing", "Reconciling")
    assert "TrainingJob lost made version 3" in message(found)
    assert plan(after(start, found), NOW).due is not None


def test_a_store_that_has_none_of_what_the_status_speaks_of_is_asked_once() -> None:
    served = {"version": 1, "digest": digest(1)}
    lost = a_status(imported=IMPORTED, served=served)
    found = settled(view(source=SOURCE, status=lost, pods=(indexed(),)))
    assert (found.model.status.served, found.model.status.imported) == (None, None)
    assert created(plan(replace(found, pods=()), NOW)) == ["digits-import-1"]


def test_a_version_is_listed_after_an_evaluation_though_its_job_is_gone_by_then() -> None:
    start = view(
        evaluation=GATE,
        status=a_status(a_version(1)),
        jobs=(a_finished_job(2),),
        pods=(a_step_pod(evaluate(1)),),
    )
    found = plan(start, NOW)
    assert status(found).unlisted
    deleted_job = replace(after(start, found), jobs=(), pods=(evaluated(1, 0.99),))
    recorded = after(deleted_job, plan(deleted_job, NOW))
    assert created(plan(replace(recorded, pods=()), NOW)) == ["digits-index-1"]


def test_every_evaluation_that_a_status_may_list_can_fail_in_it() -> None:
    numbers = range(1, 20)
    start = view(
        evaluation=GATE,
        status=a_status(*(a_version(each) for each in numbers)),
        uses=pinned(*numbers),
        pods=tuple(failed(evaluate(each), "NoData", "no data") for each in numbers),
    )
    assert len(status(plan(start, NOW)).failing) == len(numbers)


# Failures


@pytest.mark.parametrize(
    ("reason", "standing"),
    [
        ("DigestMismatch", "Stalled"),
        ("InvalidModel", "Stalled"),
        ("SourceNotFound", "Reconciling"),
        ("NoStore", "Reconciling"),
        ("StoreUnavailable", "Reconciling"),
    ],
)
def test_a_failed_import(reason: str, standing: str) -> None:
    start = view(
        source=SOURCE, status=a_status(), pods=(failed(an_import(), reason, "what is wrong"),)
    )
    found = plan(start, NOW)
    assert told(found) == ("False", reason, standing)
    assert message(found).startswith("what is wrong. ")
    assert created(plan(replace(after(start, found), pods=()), NOW)) == []


@pytest.mark.parametrize(
    ("reason", "standing"),
    [
        ("NoData", "Stalled"),
        ("InvalidDataset", "Stalled"),
        ("EvaluationFailed", "Stalled"),
        ("StoreUnavailable", "Reconciling"),
    ],
)
def test_a_failed_evaluation(reason: str, standing: str) -> None:
    start = view(
        evaluation=GATE, status=a_status(a_version(1)), pods=(failed(evaluate(1), reason),)
    )
    assert told(plan(start, NOW)) == ("False", reason, standing)


def test_a_failure_for_good_is_tried_again_when_the_spec_changed() -> None:
    failing = a_failing(an_import(), "DigestMismatch", final=True)
    same = view(source=SOURCE, status=a_status(failing=[failing]))
    assert created(plan(same, NOW)) == []
    changed = view(source=SOURCE, status=a_status(failing=[failing]), meta={"generation": 2})
    assert created(plan(changed, NOW)) == ["digits-import-2"]


@pytest.mark.parametrize("reason", sorted(FINAL))
def test_an_index_is_never_given_up(reason: str) -> None:
    step = replace(INDEX, known="2")
    listed = a_status(a_version(2), unlisted=True)
    start = settled(view(status=listed, pods=(failed(step, reason),)))
    (entry,) = start.model.status.failing
    assert (entry.reason, entry.final) == (reason, False)
    later = NOW + timedelta(seconds=5)
    assert created(plan(replace(start, pods=()), later)) == ["digits-index-2"]


@pytest.mark.parametrize(
    ("failures", "delay_seconds"), [(1, 5), (2, 10), (3, 20), (7, 300), (1000, 300)]
)
def test_a_failed_step_waits_longer_each_time(failures: int, delay_seconds: int) -> None:
    failing = a_failing(INDEX, "NoStore", failures=failures, lastFailureTime=stamp(NOW))
    start = settled(view(status={"failing": [failing]}))
    due = NOW.replace(microsecond=0) + timedelta(seconds=delay_seconds)
    assert plan(start, NOW).due == due
    assert created(plan(start, due - timedelta(seconds=1))) == []
    assert created(plan(start, due)) == [f"digits-index-{failures + 1}"]


def test_a_failure_keeps_its_reason_while_the_step_runs_again() -> None:
    failing = a_failing(INDEX, "NoStore", failures=2)
    start = view(status={"failing": [failing]}, pods=(a_step_pod(INDEX, number=3),))
    assert told(plan(start, NOW)) == ("False", "NoStore", "Reconciling")


def test_failures_are_forgotten_when_the_step_succeeds() -> None:
    failing = a_failing(INDEX, "NoStore", failures=2)
    start = view(status={"failing": [failing]}, pods=(indexed(a_told_version(1), number=3),))
    assert status(plan(start, NOW)).failing == ()


@pytest.mark.parametrize(
    ("pod", "reason"),
    [
        pytest.param(a_step_pod(INDEX, deleting=True), "PodLost", id="deleted by somebody"),
        pytest.param(a_step_pod(INDEX, gone=True), "PodLost", id="gone with its node"),
        pytest.param(
            a_step_pod(INDEX, exit_code=137, deleted_by_eviction=True, message="no disk"),
            "Evicted",
            id="evicted",
        ),
        pytest.param(
            a_step_pod(INDEX, said="Traceback\nImportError: numpy", exit_code=1),
            "StepFailed",
            id="without a word of the agent's",
        ),
        pytest.param(
            a_step_pod(INDEX, said='{"outcome": "Failed", "message": "a bug"}', exit_code=1),
            "StepFailed",
            id="with a message and no reason",
        ),
        pytest.param(
            a_step_pod(INDEX, said='{"outcome": "Failed", "reason": "Odd"}', exit_code=1),
            "StepFailed",
            id="with a reason that nobody knows",
        ),
        pytest.param(
            a_step_pod(evaluate(1), said='{"outcome": "Succeeded"}'),
            "StepFailed",
            id="with a success that says nothing",
        ),
    ],
)
def test_a_step_that_did_not_end_as_it_should_is_tried_again(pod: Any, reason: str) -> None:
    listed = a_status(a_version(1)) if pod.name.startswith("digits-evaluate") else None
    evaluation = {"evaluation": GATE} if listed else {}
    found = plan(view(status=listed, pods=(pod,), **evaluation), NOW)
    assert told(found) == ("False", reason, "Reconciling")
    assert message(found).endswith("It is tried again.")
    assert status(found).failing[0].failures == 1


def test_a_step_on_a_node_that_stopped_answering_runs_again_elsewhere() -> None:
    since = ago(31).replace(microsecond=0)
    nodes = (a_node("node-1", ready=False, since=since),)
    start = view(pods=(a_step_pod(INDEX),), nodes=nodes)
    early = plan(start, since + timedelta(seconds=10))
    assert early.due == since + timedelta(seconds=30)
    found = plan(start, NOW)
    assert told(found) == ("False", "PodLost", "Reconciling")
    late = plan(after(start, found), NOW + timedelta(seconds=6))
    assert deleted(late) == ["digits-index-1"]
    assert created(late) == ["digits-index-2"]


def test_only_the_last_pod_of_a_step_says_how_it_failed() -> None:
    first = failed(INDEX, "NoStore", number=1, created=ago(20))
    second = failed(INDEX, "StoreUnavailable", number=2, created=ago(10))
    found = plan(view(pods=(second, first)), NOW)
    assert [each.reason for each in status(found).failing] == ["StoreUnavailable"]


@pytest.mark.parametrize(
    "written", ["[1, 2", "[]", '{"kind": "index", "known": 7}', '{"kind": "dance"}']
)
def test_a_pod_with_an_unreadable_annotation_harms_nobody(written: str) -> None:
    pod = replace(a_step_pod(INDEX), annotations={"lepton.ai/step": written})
    found = plan(view(pods=(pod,)), NOW)
    assert deleted(found) == ["digits-index-1"]
    assert created(found) == ["digits-index-2"]


# Where the model stands


@pytest.mark.parametrize(
    ("start", "stands"),
    [
        pytest.param(view(), ("False", "Indexing", "Reconciling"), id="asking the store"),
        pytest.param(
            view(status=a_status()), ("False", "NoVersions", "Reconciling"), id="no version yet"
        ),
        pytest.param(
            view(source=SOURCE, status=a_status()),
            ("False", "Importing", "Reconciling"),
            id="importing",
        ),
        pytest.param(
            view(evaluation=GATE, status=a_status(a_version(1))),
            ("False", "Evaluating", "Reconciling"),
            id="evaluating",
        ),
        pytest.param(
            view(evaluation=GATE, status=a_status(a_version(2), a_version(1, accuracy="0.95"))),
            ("False", "Evaluating", "Reconciling"),
            id="evaluating a newer one while an older one passes",
        ),
        pytest.param(
            view(evaluation=GATE, status=a_status(a_version(1, accuracy="0.95"))),
            ("True", "Accepted", ""),
            id="a version passes",
        ),
        pytest.param(
            view(
                evaluation=GATE,
                status=a_status(a_version(2, accuracy="0.5"), a_version(1, accuracy="0.95")),
            ),
            ("True", "Accepted", ""),
            id="an older version passes",
        ),
        pytest.param(
            view(evaluation=GATE, status=a_status(a_version(1, accuracy="0.5"))),
            ("False", "GateFailed", "Stalled"),
            id="no version passes",
        ),
        pytest.param(
            view(status=a_status(a_version(1))),
            ("True", "Accepted", ""),
            id="without a gate every version passes",
        ),
        pytest.param(
            view(
                source=SOURCE,
                status=a_status(
                    a_version(1), failing=[a_failing(an_import(), "DigestMismatch", final=True)]
                ),
            ),
            ("True", "Accepted", ""),
            id="a bad import does not hide an older version",
        ),
        pytest.param(
            view(
                pods=(
                    a_step_pod(
                        INDEX,
                        phase="Pending",
                        containers=(a_waiting_container("step", "ErrImagePull", "not found"),),
                    ),
                )
            ),
            ("False", "ImageError", "Reconciling"),
            id="the agent's image cannot be pulled",
        ),
        pytest.param(
            view(refusals=(Refusal("digits-index-1", "QuotaExceeded", "exceeded quota: pods"),)),
            ("False", "QuotaExceeded", "Reconciling"),
            id="a quota",
        ),
    ],
)
def test_where_a_model_stands(start: ModelView, stands: tuple[str, str, str]) -> None:
    assert told(plan(start, NOW)) == stands


def test_while_a_step_starts_the_status_does_not_change() -> None:
    fresh = view()
    first = plan(fresh, NOW)
    pending = a_step_pod(INDEX, phase="Pending", scheduled=False, node=None, containers=())
    running = a_step_pod(INDEX)
    for pod in (pending, running):
        assert plan(replace(after(fresh, first), pods=(pod,)), NOW) == Plan()


@pytest.mark.parametrize(
    ("start", "accepted"),
    [
        pytest.param(view(status=a_status()), None, id="nothing is listed"),
        pytest.param(view(status=a_status(a_version(1))), "True", id="it passed"),
        pytest.param(
            view(evaluation=GATE, status=a_status(a_version(2), a_version(1, accuracy="0.95"))),
            "Unknown",
            id="it is being judged",
        ),
        pytest.param(
            view(
                evaluation=GATE,
                status=a_status(a_version(2, accuracy="0.5"), a_version(1, accuracy="0.95")),
            ),
            "False",
            id="it failed",
        ),
        pytest.param(
            view(
                source=SOURCE,
                status=a_status(
                    a_version(1), failing=[a_failing(an_import(), "DigestMismatch", final=True)]
                ),
            ),
            "False",
            id="its source could not be imported",
        ),
    ],
)
def test_whether_the_latest_was_accepted(start: ModelView, accepted: str | None) -> None:
    condition = find(status(plan(start, NOW)).conditions, "LatestAccepted")
    assert (condition.status if condition else None) == accepted


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ((), "name this model in output.model of a TrainingJob, or set spec.source"),
        ((a_training_job(name="train", output="digits"),), "TrainingJob train is to make one"),
    ],
    ids=["nobody makes one", "a job is to make one"],
)
def test_without_versions_the_sentence_says_where_one_comes_from(
    jobs: tuple[Any, ...], words: str
) -> None:
    assert words in message(plan(view(status=a_status(), jobs=jobs), NOW))


# What is served


@pytest.mark.parametrize(
    ("start", "served"),
    [
        pytest.param(
            view(
                evaluation=GATE,
                status=a_status(a_version(2, accuracy="0.92"), a_version(1, accuracy="0.95")),
            ),
            (2, "accuracy=0.92"),
            id="the newest that passed, not the best",
        ),
        pytest.param(
            view(
                evaluation=GATE,
                status=a_status(
                    a_version(2),
                    a_version(1, accuracy="0.95"),
                    served={"version": 1, "digest": digest(1)},
                ),
            ),
            (1, "accuracy=0.95"),
            id="what serves stays while a newer one is judged",
        ),
        pytest.param(
            view(
                evaluation={"thresholds": [{"metric": "accuracy", "minimum": "0.99"}]},
                status=a_status(
                    a_version(1, accuracy="0.95"),
                    served={"version": 1, "digest": digest(1), "score": "accuracy=0.95"},
                ),
            ),
            (1, "accuracy=0.95"),
            id="what serves stays when it passes no longer, until another passes",
        ),
        pytest.param(
            view(
                evaluation={"thresholds": [{"metric": "accuracy", "minimum": "0.94"}]},
                status=a_status(
                    a_version(2, accuracy="0.92"),
                    a_version(1, accuracy="0.95"),
                    served={"version": 2, "digest": digest(2)},
                ),
            ),
            (1, "accuracy=0.95"),
            id="another one that passes takes its place",
        ),
    ],
)
def test_which_version_is_served(start: ModelView, served: tuple[int, str]) -> None:
    found = status(plan(start, NOW)).served
    assert found is not None
    assert (found.version, found.score) == served


def test_when_nothing_passes_the_sentence_says_what_goes_on_being_served() -> None:
    start = view(
        evaluation=GATE,
        status=a_status(a_version(1, accuracy="0.5"), served={"version": 1, "digest": digest(1)}),
    )
    found = plan(start, NOW)
    assert told(found) == ("False", "GateFailed", "Stalled")
    assert message(found).endswith("Version 1 goes on being served.")


def test_events_tell_what_happened() -> None:
    step = replace(INDEX, dataset="heldout")
    told_versions = (
        a_told_version(2, evaluation=an_evaluation(0.5)),
        a_told_version(1, evaluation=an_evaluation(0.95)),
    )
    found = plan(view(evaluation=GATE, pods=(indexed(*told_versions, step=step),)), NOW)
    assert [(each.type, each.reason) for each in found.events] == [
        ("Normal", "VersionListed"),
        ("Normal", "VersionListed"),
        ("Warning", "VersionRefused"),
        ("Normal", "VersionAccepted"),
        ("Normal", "Served"),
    ]
    assert "of TrainingJob digits-2" in found.events[0].message


def test_a_plan_explains_itself_in_one_line() -> None:
    found = plan(view(evaluation=GATE, status=a_status(a_version(1))), NOW)
    assert found.because == "create digits-evaluate-1-1: version 1 is the newest one"


def test_the_status_of_a_served_model(golden: Golden) -> None:
    start = view(
        evaluation=GATE,
        status=a_status(a_version(2), a_version(1, accuracy="0.9645")),
        pods=(evaluated(2, 0.85),),
    )
    golden("models/status", plan(start, NOW).status)
