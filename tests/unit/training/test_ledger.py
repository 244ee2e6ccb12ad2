"""What an attempt's time went into, from pods' timestamps and what launchers told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_operator.api.training import Attempt, Ledger, Progress, Spent, TrainingJob
from lepton_operator.build import training as build
from lepton_operator.training.ledger import CLASSES, LastWord, Span, of_attempt, with_late_word
from lepton_operator.views import ContainerView, PodView, Told
from tests.builders import DIGEST, NOW, a_container, a_pod, a_record, ago, stamp
from tests.unit.training.builders import a_view, after, an_open_job, decide, status_of

BEGIN = datetime.fromisoformat("2026-11-22T03:00:00Z")
RANKS = {
    "start": 4.0,
    "rendezvous": 3.0,
    "restoring": 2.0,
    "productive": 60.0,
    "repeated": 10.0,
    "checkpointing": 5.0,
    "hang": 6.0,
}


def at(seconds: float | None) -> datetime | None:
    return None if seconds is None else BEGIN + timedelta(seconds=seconds)


def a_started_pod(
    rank: int = 0,
    *,
    scheduled: float | None = 5,
    sandbox: float | None = 7,
    prepare: tuple[float | None, float | None] = (17, 18),
    sidecar: float | None = 19,
    train: float | None = 40,
) -> PodView:
    """A pod by the seconds at which it got where, counted from the attempt's start."""
    begun, done = map(at, prepare)
    init = (
        ContainerView(build.PREPARE, "terminated", started=begun, finished=done, exit_code=0),
        ContainerView(build.SIDECAR, "running", started=at(sidecar)),
    )
    trains = () if train is None else (a_container(started=at(train)),)
    return a_pod(
        rank,
        running=train is not None,
        scheduled_since=at(scheduled),
        sandbox_since=at(sandbox),
        init_containers=init,
        containers=trains,
    )


def a_span(end: float, running: float | None = 40) -> Span:
    return Span(BEGIN, BEGIN + timedelta(seconds=end), at(running))


def told(seconds: Mapping[str, float], since: float = 40, *, is_final: bool = True) -> LastWord:
    return LastWord(seconds, BEGIN + timedelta(seconds=since), is_final)


def told_classes(classes: Mapping[str, float]) -> dict[str, float]:
    return {name: spent for name, spent in classes.items() if spent > 0}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        pytest.param(
            a_started_pod(scheduled=None, sandbox=None, prepare=(None, None), sidecar=None),
            {"waiting": 30},
            id="no node takes it",
        ),
        pytest.param(
            a_started_pod(sandbox=None, prepare=(None, None), sidecar=None),
            {"waiting": 5, "start": 25},
            id="its volumes are not there",
        ),
        pytest.param(
            a_started_pod(prepare=(None, None), sidecar=None),
            {"waiting": 5, "start": 2, "image": 23},
            id="our image is being pulled",
        ),
        pytest.param(
            a_started_pod(sandbox=None, prepare=(17, None), sidecar=None),
            {"waiting": 5, "image": 12, "start": 13},
            id="it prepares, on a kubelet that tells nothing of sandboxes",
        ),
        pytest.param(
            a_started_pod(),
            {"waiting": 5, "start": 3, "image": 22},
            id="the user's image is being pulled",
        ),
    ],
)
def test_a_pod_that_never_trained_is_still_where_it_was(
    pod: PodView, expected: Mapping[str, float]
) -> None:
    idle = replace(pod, phase="Pending", containers=())
    assert told_classes(of_attempt(a_span(30, None), [idle], None, "waiting")) == expected


def test_ranks_tell_of_the_time_from_their_container_s_start() -> None:
    classes = of_attempt(a_span(40 + 90), [a_started_pod()], told(RANKS), "waiting")
    assert told_classes(classes) == {
        **RANKS,
        "waiting": 5,
        "start": 3 + 4,
        "image": 10 + 1 + 21,
    }


def test_the_last_pod_of_a_gang_decides_when_it_runs() -> None:
    early, late = a_started_pod(train=20), a_started_pod(1, scheduled=30, train=40)
    waited = {**RANKS, "start": RANKS["start"] + 20}
    classes = of_attempt(a_span(130), [early, late], told(waited, since=20), "waiting")
    assert classes["waiting"] == 30
    assert classes["productive"] == 60
    assert classes["start"] == RANKS["start"]
    assert sum(classes.values()) == 130


def test_a_launcher_from_before_the_attempt_tells_of_it_only() -> None:
    kept, new = a_started_pod(train=-500), a_started_pod(1)
    classes = of_attempt(a_span(130), [kept, new], told(RANKS, since=-500), "waiting")
    assert classes["start"] == 3 + RANKS["start"]


@pytest.mark.parametrize(
    ("word", "rest"),
    [
        pytest.param(told(RANKS), "waiting", id="the end of a failure"),
        pytest.param(told(RANKS), "checkpointing", id="the storing of a result"),
        pytest.param(told(RANKS, is_final=False), "unobserved", id="a pod lost without a word"),
    ],
)
def test_what_is_left_after_the_last_word(word: LastWord, rest: str) -> None:
    ended = "waiting" if rest == "unobserved" else rest
    known = of_attempt(a_span(130), [a_started_pod()], told(RANKS), "waiting")
    classes = of_attempt(a_span(150), [a_started_pod()], word, ended)  # type: ignore[arg-type]
    assert classes[rest] == known.get(rest, 0) + 20


def test_what_nobody_told_is_not_invented() -> None:
    lost = of_attempt(a_span(100), [a_started_pod()], None, "waiting")
    assert lost["unobserved"] == 60
    assert of_attempt(a_span(100), [], None, "waiting") == {"unobserved": 100}
    fake = a_pod(phase="Running", scheduled_since=at(5))
    classes = of_attempt(a_span(100, None), [fake], None, "waiting")
    assert told_classes(classes) == {"waiting": 5, "unobserved": 95}


def test_a_late_word_fills_what_was_unobserved() -> None:
    early = {name: spent / 2 for name, spent in RANKS.items()}
    span, pods = a_span(130), [a_started_pod()]
    before = of_attempt(span, pods, told(early, is_final=False), "waiting")
    assert before["unobserved"] == 45
    later = {**RANKS, "hang": RANKS["hang"] + 30}  # it lived on after the attempt was closed
    assert told_classes(with_late_word(span, before, told(later))) == told_classes(
        of_attempt(span, pods, told(RANKS), "waiting")
    )


MOMENT = st.none() | st.integers(-100, 400)
PODS = st.lists(
    st.builds(
        a_started_pod,
        rank=st.integers(0, 3),
        scheduled=MOMENT,
        sandbox=MOMENT,
        prepare=st.tuples(MOMENT, MOMENT),
        sidecar=MOMENT,
        train=MOMENT,
    ),
    max_size=4,
)
TOLD = st.none() | st.builds(
    told,
    st.dictionaries(st.sampled_from([*CLASSES, "forged"]), st.floats(0, 1e6)),
    since=st.integers(-100, 400),
    is_final=st.booleans(),
)


@given(PODS, TOLD, st.integers(0, 300), st.sampled_from(["waiting", "checkpointing"]))
def test_every_second_is_in_one_class_whatever_pods_and_launchers_say(
    pods: list[PodView], word: LastWord | None, end: int, rest: Any
) -> None:
    started = [each.started for pod in pods for each in pod.containers]
    known = [moment for moment in started if moment is not None]
    running = max(known) if known and len(known) == len(pods) else None
    span = Span(BEGIN, BEGIN + timedelta(seconds=end), running)
    classes = of_attempt(span, pods, word, rest)
    assert set(classes) <= set(CLASSES)
    assert all(spent >= 0 for spent in classes.values())
    assert sum(classes.values()) == pytest.approx(end, abs=1e-3)
    if word is not None and running is not None and classes.get("unobserved"):
        later = with_late_word(span, classes, word)
        assert sum(later.values()) == pytest.approx(end, abs=1e-3)


# In the status

GPUS = {"limits": {"nvidia.com/gpu": 4}}


def ledger_of(spent: Spent | None) -> dict[str, float]:
    assert spent is not None
    return {name: float(text) for name, text in spent.wire().items()}


def seconds_ago(seconds: float) -> datetime:
    return ago(seconds).replace(microsecond=0)  # as kubelets write it


def running_pod(rank: int = 0, **more: Any) -> PodView:
    """Opened a minute ago; its ranks run since 20 s."""
    container = a_container(started=seconds_ago(20))
    return a_pod(
        rank, running=True, scheduled_since=seconds_ago(50), containers=(container,), **more
    )


def progress(**spent: str) -> Told:
    return Told(Progress(time=seconds_ago(0), attempt=1, phase="training", ledger=Spent(**spent)))


def failed(job: TrainingJob, *pods: PodView, **more: Any) -> TrainingJob:
    return after(job, decide(a_view(job, *pods, **more)))


def last(job: TrainingJob) -> Attempt:
    return job.status.attempts[-1]


def test_a_running_attempt_tells_what_is_settled() -> None:
    job = an_open_job(resourcesPerNode=GPUS)
    news = progress(start="4", productive="11.5")
    job = after(job, decide(a_view(job, running_pod(), told=news)))
    expected = {
        "waiting": 10,
        "image": 30,
        "start": 4,
        "productive": 11.5,
        "usefulGpuSeconds": 46,
        "wastedGpuSeconds": 34 * 4,
    }
    assert ledger_of(last(job).ledger) == expected
    assert ledger_of(job.status.ledger) == expected


def test_gpus_that_wait_for_a_peer_s_node_are_wasted() -> None:
    job = an_open_job(3, resourcesPerNode=GPUS)  # 4 in each pod
    placed = replace(running_pod(0), scheduled_since=seconds_ago(55))
    kept = replace(running_pod(1), scheduled_since=seconds_ago(1000))
    late = replace(running_pod(2), scheduled_since=seconds_ago(30))
    job = after(
        job, decide(a_view(job, placed, kept, late, told=progress(start="4", productive="11.5")))
    )
    found = ledger_of(last(job).ledger)
    assert found["waiting"] == 30
    assert found["usefulGpuSeconds"] == 11.5 * 12
    assert found["wastedGpuSeconds"] == 14 * 12 + (25 + 30) * 4
    # What comes to be known later changes nothing about that.
    job = failed(job, placed, kept, replace(late, deleting=True))
    before = ledger_of(last(job).ledger)
    said = a_record("Failed", ledger={"start": 4, "productive": 15})
    ended = a_container(exit_code=1, message=said, started=seconds_ago(20), finished=ago(1))
    word = replace(placed, phase="Failed", containers=(ended,))
    job = after(job, decide(a_view(job, word, replace(late, deleting=True))))
    now = ledger_of(last(job).ledger)
    assert now["usefulGpuSeconds"] == 15 * 12
    assert now["wastedGpuSeconds"] == before["wastedGpuSeconds"] - 3.5 * 12


def test_a_gang_that_never_found_its_nodes_wasted_what_it_held() -> None:
    job = an_open_job(2, resourcesPerNode=GPUS)
    placed = a_pod(0, scheduled_since=seconds_ago(50))
    found = ledger_of(last(failed(job, placed, a_pod(1, gone=True))).ledger)
    assert found["waiting"] == 60
    assert found["wastedGpuSeconds"] == 50 * 4


def test_a_record_closes_the_ledger_and_adds_it_to_the_job_s() -> None:
    job, pod = an_open_job(2), running_pod(1)
    said = a_record("Failed", reason="UserError", ledger={"start": 4, "productive": 15, "x": 1})
    ended = a_container(exit_code=1, message=said, started=seconds_ago(20), finished=ago(1))
    job = failed(job, replace(running_pod(), phase="Failed", containers=(ended,)), pod)
    assert last(job).outcome == "Failed"
    expected = {"waiting": 10 + 1, "image": 30, "start": 4, "productive": 15}
    found = ledger_of(last(job).ledger)
    assert {name: found[name] for name in expected} == expected
    assert sum(spent for name, spent in found.items() if "Gpu" not in name) == 60
    assert job.status.ledger == last(job).ledger


@pytest.mark.parametrize(
    ("output", "rest"), [("digits", "checkpointing"), (None, "waiting")], ids=["stored", "not kept"]
)
def test_after_a_success_the_result_is_stored_if_there_is_to_be_one(
    output: str | None, rest: str
) -> None:
    said = a_record(ledger={"productive": 15}, model={"version": 1, "digest": DIGEST})
    ended = a_container(exit_code=0, message=said, started=seconds_ago(20))
    pod = replace(running_pod(), phase="Succeeded", containers=(ended,))
    found = ledger_of(last(failed(an_open_job(output=output), pod)).ledger)
    assert found[rest] == 5 + (10 if rest == "waiting" else 0)


def test_the_time_until_the_next_attempt_is_the_job_s() -> None:
    job = failed(an_open_job(), a_pod(0, gone=True))
    later = NOW + timedelta(seconds=9)
    job = after(job, decide(a_view(job), later))
    assert last(job).number == 2
    waited = ledger_of(job.status.ledger)["waiting"] - ledger_of(job.status.attempts[0].ledger).get(
        "waiting", 0
    )
    assert waited == 9


def test_a_pod_lost_without_a_word_leaves_what_rank_0_told_last() -> None:
    job, pod = an_open_job(), running_pod()
    job = after(job, decide(a_view(job, pod, told=progress(productive="10"))))
    job = failed(job, replace(pod, gone=True))
    found = ledger_of(last(job).ledger)
    assert (found["productive"], found["unobserved"]) == (10, 10)


def test_the_last_words_of_a_closed_attempt_complete_its_ledger_once() -> None:
    job, first, lost = an_open_job(2), running_pod(), running_pod(1)
    job = after(job, decide(a_view(job, first, lost, told=progress(productive="5"))))
    job = failed(job, first, replace(lost, deleting=True))
    assert ledger_of(last(job).ledger)["unobserved"] == 15
    said = a_record("Failed", reason="Terminated", ledger={"productive": 14, "repeated": 40})
    ended = a_container(exit_code=1, message=said, started=seconds_ago(20), finished=NOW)
    gone = replace(first, phase="Failed", containers=(ended,), gone=True)
    decided = decide(a_view(job, gone, replace(lost, deleting=True)))
    assert decided.because == "complete the ledger of attempt 1"
    job = after(job, decided)
    found = ledger_of(last(job).ledger)
    assert (found["productive"], found["repeated"], found.get("unobserved")) == (14, 6, None)
    assert job.status.ledger == last(job).ledger
    again = decide(a_view(job, gone, replace(lost, deleting=True)))
    assert "ledger" not in again.because


def test_the_words_of_many_pods_are_not_a_write_for_each() -> None:
    job, lost = an_open_job(3), replace(running_pod(2), deleting=True)
    job = failed(job, running_pod(), running_pod(1), lost)

    def gone(rank: int, productive: float) -> PodView:
        said = a_record("Failed", reason="Terminated", ledger={"productive": productive})
        ended = a_container(exit_code=1, message=said, started=seconds_ago(20), finished=NOW)
        return replace(running_pod(rank), phase="Failed", containers=(ended,), gone=True)

    job = after(job, decide(a_view(job, gone(0, 14.1), gone(1, 14), lost)))
    assert ledger_of(last(job).ledger)["productive"] == 14.1
    # The tombstone of rank 0 is forgotten.
    assert "ledger" not in decide(a_view(job, gone(1, 14), lost)).because
    assert "ledger" in decide(a_view(job, gone(1, 15), lost)).because


def test_an_attempt_of_which_only_kept_pods_are_left_did_not_run_before_it_began() -> None:
    job, kept = an_open_job(2), a_container(started=ago(5000))
    job = failed(job, replace(running_pod(), containers=(kept,)))
    assert last(job).reason == "PodLost"
    assert last(job).running_time == last(job).start_time


@pytest.mark.parametrize("count", ["9" * 20, "9" * 32])
def test_gpus_beyond_all_measure_hinder_no_status(count: str) -> None:
    job = an_open_job(resourcesPerNode={"limits": {"nvidia.com/gpu": count}})
    job = after(job, decide(a_view(job, running_pod(), told=progress(productive="11.5"))))
    assert ledger_of(last(job).ledger)["productive"] == 11.5


def test_a_ledger_that_is_forged_changes_no_sum() -> None:
    said = a_record("Failed", reason="UserError", ledger={"productive": 9e7, "hang": 1e300})
    job = failed(an_open_job(), replace(running_pod(), phase="Failed"))
    assert last(job).ledger
    ended = a_container(exit_code=1, message=said, started=seconds_ago(20))
    job = failed(an_open_job(), replace(running_pod(), phase="Failed", containers=(ended,)))
    found = ledger_of(last(job).ledger)
    assert sum(spent for name, spent in found.items() if "Gpu" not in name) == 60


def test_without_a_gpu_no_gpu_seconds_are_counted() -> None:
    job = an_open_job(resourcesPerNode={"limits": {"cpu": "1"}})
    job = failed(job, replace(running_pod(), gone=True))
    assert "usefulGpuSeconds" not in status_of(decide(a_view(job)))["ledger"]


def test_a_ledger_has_no_class_that_took_no_time() -> None:
    assert Ledger(waiting="1.5").wire() == {"waiting": "1.5"}


def test_stamps_are_whole_seconds_as_the_status_keeps_them() -> None:
    job = failed(an_open_job(), replace(running_pod(), gone=True))
    attempt = last(job)
    assert stamp(attempt.start_time) == stamp(ago(60))
    assert attempt.end_time
    whole = (attempt.end_time - attempt.start_time).total_seconds()
    found = ledger_of(attempt.ledger)
    assert sum(spent for name, spent in found.items() if "Gpu" not in name) == whole
