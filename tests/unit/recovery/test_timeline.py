"""The figures of a recovery, from a history that was made up."""

from __future__ import annotations

from pathlib import Path

from e2e.recovery import timeline
from e2e.recovery.run import Checkpoint, Event
from e2e.recovery.watched import Sightings

FAULT_AT = 102.5
OLD, NEW = (1, 0), (1, 1)


def event(name: str, at: float, start: tuple[int, int], step: int | None = None) -> Event:
    attempt, generation = start
    return Event(name, at, 0, attempt, generation, step, launcher=90.0, agent=at - 1.0)


def history() -> list[Event]:
    """Steps of 1 s: 3 were done when it failed, the checkpoint is of step 1."""
    return [
        event("started", 99.0, OLD),
        event("met", 99.9, OLD),
        *(event("step", 100.0 + step, OLD, step) for step in range(3)),
        event("started", 105.0, NEW),
        event("imported", 107.0, NEW),
        event("met", 107.5, NEW),
        event("restored", 108.0, NEW, 1),
        event("step", 109.0, NEW, 2),
        event("step", 110.0, NEW, 3),
    ]


def sightings() -> Sightings:
    seen = Sightings()
    seen.said = [(103.0, "pod", "lepton: the ranks of generation 0 end: one of them failed")]
    return seen


def test_the_wall_time_is_shared_out() -> None:
    events = history()
    last = timeline.beyond(events, FAULT_AT)
    assert last is not None
    assert last.step == 3
    found = timeline.recovery("UserError", events, sightings(), FAULT_AT, last)
    assert timeline.rounded(found) == {
        "class": "UserError",
        "detect_s": 0.5,
        "wall_s": 7.5,
        "lost_steps": 1,
        "pod_start_s": 0.0,
        "import_s": 3.0,
        "rendezvous_s": 0.5,
        "restore_s": 0.5,
        "overhead_s": 3.0,
    }


def test_nothing_is_beyond_before_the_last_step_is_reached_again() -> None:
    assert timeline.beyond(history()[:-1], FAULT_AT) is None


def test_where_pods_are_replaced_the_closed_attempt_is_the_detection() -> None:
    seen = sightings()
    seen.statuses = [
        (102.0, {"attempts": [{"number": 1}]}),
        (104.0, {"attempts": [{"number": 1, "endTime": "2026-11-22T10:00:00Z"}]}),
    ]
    assert timeline.detected_at(seen, history(), FAULT_AT, in_place=False) == 104.0


def test_a_rank_that_works_beside_its_successor_is_wrong() -> None:
    late = event("step", 109.5, OLD, 3)
    events = sorted([*history(), late], key=lambda each: each.at)
    (sentence,) = timeline.contradictions(events, [])
    assert "beside (1, 1)" in sentence


def test_a_checkpoint_that_comes_late_is_wrong() -> None:
    late = Checkpoint(3, 1, 0, 109.5, Path())
    (sentence,) = timeline.contradictions(history(), [late])
    assert "the checkpoint of step 3" in sentence


def test_only_what_was_complete_in_time_and_of_the_same_start_counts_as_saved() -> None:
    saved = [
        Checkpoint(1, 1, 0, FAULT_AT - 2, Path()),
        Checkpoint(2, 1, 0, FAULT_AT + 0.5, Path()),
        Checkpoint(2, 1, 1, FAULT_AT + 9, Path()),
    ]
    assert timeline.saved_by(saved, OLD, FAULT_AT) == [1]


def test_nobody_has_noticed_before_it_was_heard() -> None:
    assert timeline.detected_at(Sightings(), history(), FAULT_AT, in_place=True) is None


def test_what_kubectl_says_itself_is_no_line_of_a_log() -> None:
    seen = Sightings()
    seen.heard("pod", "2026-11-22T10:00:00.123456789Z lepton: asked to leave: ...")
    seen.heard("pod", "unable to retrieve container logs for containerd://1")
    assert [line for _, _, line in seen.said] == ["lepton: asked to leave: ..."]
