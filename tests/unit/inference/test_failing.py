"""Pods that are ready and fail the requests that they get, by the word of the doors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lepton_operator.conditions import find, is_true
from lepton_operator.inference.plan import plan
from lepton_operator.views import ContainerView, Fault, InferenceView, PodView
from tests.builders import NOW, ago
from tests.plans import deleted
from tests.unit.inference.builders import (
    a_pod,
    a_served_model,
    a_service,
    a_view,
    after,
    drained,
    marked,
    message,
    pods_of,
    settled,
    status,
    unschedulable,
)

ERRS = Fault(ago(30).replace(microsecond=0), "answered with HTTP status 500")
NEW_MODEL = a_served_model(2, 1)


def failing(pod: PodView, fault: Fault = ERRS) -> PodView:
    return replace(pod, fault=fault)


def serving(*pods: PodView) -> InferenceView:
    """A service that has come to rest with as many pods, all of which answer."""
    well = [replace(pod, fault=None) for pod in pods]
    return replace(settled(a_view(a_service(len(pods)), *well)), pods=pods)


def rolling(*pods: PodView) -> InferenceView:
    """A service of one pod on the way to version 2, which has told what it does."""
    view = replace(serving(a_pod(ready=True)), model=NEW_MODEL)
    view = replace(after(view, plan(view, NOW)), pods=pods)
    return after(view, plan(view, NOW))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (ERRS, "It goes on getting requests, because at least half of the pods always do."),
        (ERRS._replace(ejected=True), "The doors leave it out for a while each time."),
    ],
    ids=["the only one", "left out"],
)
def test_a_pod_that_fails_its_requests_is_named_and_does_not_count(
    fault: Fault, words: str
) -> None:
    found = status(plan(serving(failing(a_pod(ready=True), fault)), NOW))
    ready = find(found.conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "RequestsFail")
    assert is_true(found.conditions, "Reconciling")
    assert not is_true(found.conditions, "Stalled")
    assert found.replicas is not None
    assert (found.replicas.current, found.replicas.ready, found.replicas.updated) == (1, 0, 0)
    (waiting,) = found.waiting
    assert (waiting.pod, waiting.reason) == ("digits-serve-0", "RequestsFail")
    assert "it answered with HTTP status 500, and nothing without an error" in waiting.message
    assert words in waiting.message


def test_its_failure_is_an_event_and_stays_when_it_answers_again() -> None:
    found = plan(serving(failing(a_pod(ready=True))), NOW)
    assert [(each.type, each.reason) for each in found.events] == [
        ("Warning", "RequestsFail"),
        ("Warning", "RequestsFail"),
    ]
    recorded = after(serving(failing(a_pod(ready=True))), found)
    again = status(plan(replace(recorded, pods=(a_pod(ready=True),)), NOW))
    assert is_true(again.conditions, "Ready")
    assert again.last_failure is not None
    assert (again.last_failure.pod, again.last_failure.time) == ("digits-serve-0", ERRS.since)


def test_nothing_is_done_to_it_and_nothing_is_written_twice() -> None:
    view = settled(serving(failing(a_pod(ready=True)), a_pod(1, ready=True)))
    view = after(view, plan(view, NOW))
    found = plan(view, NOW)
    assert (found.status, found.create, found.delete, found.patch) == (None, (), (), ())


@pytest.mark.parametrize(
    "pod",
    [
        a_pod(ready=False),
        a_pod(ready=True, deleting=True),
    ],
    ids=["not ready", "being deleted"],
)
def test_a_pod_that_is_to_get_no_requests_waits_for_its_own_reason(pod: PodView) -> None:
    found = status(plan(a_view(a_service(), failing(pod)), NOW))
    assert [each.reason for each in found.waiting] != ["RequestsFail"]
    assert len(found.waiting) == 1


def test_a_new_version_that_fails_its_requests_replaces_nothing() -> None:
    pods = (a_pod(ready=True), failing(a_pod(1, version=2, ready=True)))
    found = plan(rolling(*pods), NOW)
    assert (drained(found), deleted(found), pods_of(found)) == ([], [], [])
    told = status(plan(replace(rolling(pods[0], a_pod(1, version=2)), pods=pods), NOW))
    assert told.rollout is not None
    assert told.rollout.waiting_for == "digits-serve-1 to answer without errors"


def test_a_version_whose_pods_fail_is_left_by_a_drain() -> None:
    """It may have requests that it answers after all."""
    pods = (failing(a_pod(ready=True)), a_pod(1, version=2, ready=True))
    found = plan(rolling(*pods), NOW)
    assert (drained(found), deleted(found)) == (["digits-serve-0"], [])


def test_without_room_one_pod_that_fails_goes_for_the_one_that_waits() -> None:
    old = [failing(a_pod(index, ready=True)) for index in range(2)]
    view = replace(serving(*old), model=NEW_MODEL)
    view = replace(after(view, plan(view, NOW)), pods=(*old, unschedulable(a_pod(2, version=2))))
    found = plan(view, NOW)
    while not drained(found):
        assert found.status is not None, "it waits for something else"
        view = after(view, found)
        found = plan(view, NOW)
    assert drained(found) == ["digits-serve-1"]
    goes = replace(view, pods=(old[0], marked(old[1]), view.pods[2]))
    assert drained(plan(after(goes, plan(goes, NOW)), NOW)) == []


def test_of_the_pods_that_are_too_many_one_that_fails_goes_first() -> None:
    view = serving(failing(a_pod(ready=True)), a_pod(1, ready=True))
    fewer = a_service(1, status=view.service.status.wire())
    found = plan(after(replace(view, service=fewer), plan(view, NOW)), NOW)
    assert drained(found) == ["digits-serve-0"]


def test_the_sentence_of_ready_says_what_is_to_do() -> None:
    text = message(plan(serving(failing(a_pod(ready=True))), NOW))
    assert "Its log says why; delete it if a new one would do better" in text


def test_that_a_pod_stopped_answering_stays_known_when_it_answers_again() -> None:
    triton = ContainerView("triton", "running", started=ago(60))
    stopped = replace(a_pod(), unready_since=ago(9).replace(microsecond=0), containers=(triton,))
    view = replace(serving(a_pod(ready=True)), pods=(stopped,))
    found = status(plan(view, NOW))
    ready = find(found.conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "NotAnswering")
    again = status(plan(replace(after(view, plan(view, NOW)), pods=(a_pod(ready=True),)), NOW))
    assert is_true(again.conditions, "Ready")
    assert again.last_failure is not None
    assert (again.last_failure.reason, again.last_failure.time) == (
        "NotAnswering",
        stopped.unready_since,
    )
