from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lepton_operator.autoscale.law import decide
from lepton_operator.autoscale.values import (
    Computed,
    Decision,
    History,
    Samples,
    ScalingPolicy,
    ScalingRules,
    Schedule,
)
from tests.unit.autoscale.driving import INTERVAL, SERVICE_SECONDS, SPEC, Drive, with_spec


def test_a_steady_rate_has_the_least_number_that_holds_it() -> None:
    drive = Drive(ready=8)
    assert drive.last(600, 20.0).replicas == 3
    assert drive.decision is not None
    assert drive.decision.metric == "demand"
    assert drive.decision.reason == (
        "At least 19.2 requests a second came or were foretold within the last 60 s, a start-up; "
        "3 replicas hold 25.2 within 500 ms for 95 %."
    )


def test_a_jump_is_answered_by_the_next_sample() -> None:
    drive = Drive()
    drive.last(300, 20.0)
    assert drive.step(60.0, in_flight=80).replicas >= 6


def test_the_same_is_decided_from_the_same() -> None:
    one, two = Drive(), Drive()
    rates = [20.0, 60.0, 20.0, 5.0]
    for rate in rates:
        assert list(one.run(200, rate)) == list(two.run(200, rate))


def test_before_a_start_up_was_seen_nothing_goes() -> None:
    drive = Drive(ready=8, startup_seconds=120.0)
    early = list(drive.run(120, 5.0))
    assert {each.replicas for each in early} == {8}
    assert early[-1].reason.endswith("None goes before 120 s have been seen.")
    assert drive.last(10, 5.0).replicas < 8


def test_while_a_door_is_silent_none_goes_and_more_may_come() -> None:
    drive = Drive(ready=8)
    before = drive.last(120, 50.0).replicas
    drive.whole = False
    blind = list(drive.run(120, 10.0))
    assert {each.replicas for each in blind} == {before}
    assert blind[-1].reason.endswith("None goes while a door does not tell what it counts.")
    assert drive.last(20, 120.0).replicas > before


def test_a_longer_window_of_behavior_is_waited_for_after_a_start() -> None:
    drive = with_spec(down=ScalingRules(stabilization_window_seconds=300))
    drive.ready = 8
    assert {each.replicas for each in drive.run(300, 5.0)} == {8}
    assert drive.last(10, 5.0).replicas < 8


def test_nothing_goes_while_a_backlog_waits() -> None:
    drive = Drive(ready=6)
    drive.last(300, 20.0)
    drive.ready = 6
    decision = drive.step(20.0, in_flight=100)
    assert decision.replicas == 6
    assert decision.metric == "backlog"
    assert "100 requests in flight are 1.7 s of work for each replica" in decision.reason


def test_a_backlog_that_will_not_go_by_itself_is_worth_more_replicas() -> None:
    drive = Drive()
    drive.last(300, 20.0)
    before = drive.ready
    assert drive.step(20.0, in_flight=1500).replicas > before + 2


def test_pods_that_start_are_counted_as_what_they_will_be() -> None:
    drive = Drive()
    drive.last(300, 20.0)
    assert drive.history.last is not None
    crowded = replace(drive.history.last, time=drive.time + 2, in_flight=700, ready=3)
    crowded = replace(crowded, arrivals=crowded.arrivals + 40, completions=crowded.completions + 40)
    alone = decide(SPEC, crowded, drive.history, crowded.time)
    helped = decide(SPEC, replace(crowded, starting_ages=(50.0,) * 12), drive.history, crowded.time)
    assert alone.replicas > 3
    assert helped.replicas == 15  # those that are there, and no more


def spikes(time: float) -> float:
    return 60.0 if time % 400 >= 360 else 12.0


def test_what_comes_back_faster_than_replicas_do_is_kept_for() -> None:
    drive = Drive(startup_seconds=60.0)
    drive.last(800, spikes)
    decision = drive.last(200, spikes)
    assert decision.replicas >= 7
    assert decision.metric == "worth"
    assert "Demand came faster than replicas do" in decision.reason


def test_what_grows_slower_than_replicas_come_is_not_kept_for() -> None:
    drive = Drive(startup_seconds=30.0)

    def wave(time: float) -> float:
        return 25 + 15 * math.sin(2 * math.pi * time / 3600)

    decisions = list(drive.run(3600, wave))
    assert {each.metric for each in decisions[20:]} == {"demand"}
    assert decisions[-1].replicas <= 4


def test_what_does_not_come_back_is_let_go() -> None:
    drive = Drive(startup_seconds=30.0)
    drive.last(400, spikes)
    assert drive.last(3600, 12.0).replicas == 2


def test_a_target_below_the_models_own_time_is_said_and_not_chased() -> None:
    drive = with_spec(target_seconds=0.08)
    decision = drive.last(600, 20.0)
    assert "The target of 80 ms is below the model's own 100 ms" in decision.reason
    assert decision.replicas <= 4


POISON = {
    "nan": math.nan,
    "infinite": math.inf,
    "negative": -1.0,
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
@pytest.mark.parametrize(
    "figure", ["arrivals", "in_flight", "completions", "latency_seconds", *Computed._fields]
)
def test_a_poisoned_sample_holds_and_is_forgotten(figure: str, poison: float) -> None:
    drive = Drive()
    drive.last(300, 20.0)
    history, last = drive.history, drive.history.last
    assert last is not None
    assert last.computed is not None
    changes: dict[str, object] = {figure: poison}
    if figure in Computed._fields:
        changes = {"computed": last.computed._replace(**{figure: poison})}
    bad = replace(last, time=drive.time + 2, **changes)  # type: ignore[arg-type]
    decision = decide(SPEC, bad, history, bad.time)
    assert decision.held
    assert decision.replicas == drive.ready
    assert decision.history == history


def held(samples: Samples | None, now: float, drive: Drive) -> Decision:
    decision = decide(SPEC, samples, drive.history, now)
    assert decision.held
    assert decision.replicas == drive.ready
    return decision


def test_without_new_samples_it_holds() -> None:
    drive = Drive()
    drive.last(300, 20.0)
    last = drive.history.last
    assert last is not None
    assert "no samples" in held(None, drive.time + 2, drive).reason
    assert "no newer samples" in held(last, drive.time + 2, drive).reason
    assert "60 s old" in held(last, drive.time + 60, drive).reason
    late = replace(last, time=last.time - 4)
    assert "no newer samples" in held(late, drive.time, drive).reason


def test_it_holds_at_what_was_decided_though_the_pods_are_not_there_yet() -> None:
    drive = Drive()
    drive.last(300, 20.0)
    assert drive.history.last is not None
    soon = replace(drive.history.last, time=drive.time + 2, ready=3, desired=9, in_flight=math.nan)
    assert decide(SPEC, soon, drive.history, soon.time).replicas == 9


def test_without_any_samples_the_number_stays_as_it_is() -> None:
    decision = decide(SPEC, None, History(), 0.0, current=3)
    assert (decision.current, decision.replicas) == (3, 3)
    assert decision.reason == "Held at 3, because there are no samples."


def test_without_any_samples_bounds_and_schedules_are_kept() -> None:
    always = Schedule("* * * * *", "0 0 29 2 *", "UTC", min_replicas=6)
    for spec, current, kept in (
        (replace(SPEC, min_replicas=5), 3, 5),
        (replace(SPEC, max_replicas=2), 3, 2),
        (replace(SPEC, schedules=(always,)), 3, 6),
    ):
        decision = decide(spec, None, History(), 0.0, current=current)
        assert decision.replicas == kept
        assert decision.reason == (
            f"{kept} are in bounds. Else it would be held at 3, because there are no samples."
        )


def test_what_others_set_while_there_are_no_samples_stays() -> None:
    drive = Drive()
    drive.last(300, 20.0)
    assert decide(SPEC, None, drive.history, drive.time + 2, current=7).replicas == 7


def test_before_the_first_answer_it_holds() -> None:
    idle = Samples(0.0, 0, 0, 0, 0.0, 4)
    decision = decide(SPEC, idle, History(), 0.0)
    assert decision.held
    assert decision.replicas == 4
    assert decision.reason == "Held at 4, because no request has been answered yet."


def test_a_week_without_requests_ends_with_the_minimum() -> None:
    drive = Drive(ready=8)
    drive.last(60, 20.0)
    assert drive.last(1200, 0.0).replicas == 1


def test_after_a_gap_a_whole_window_is_seen_again_before_anything_goes() -> None:
    drive = Drive(ready=8)
    drive.last(40, 5.0)
    drive.time += 3600
    assert {each.replicas for each in drive.run(60, 5.0)} == {8}


def test_a_clock_that_jumps_back_begins_anew_and_keeps_what_was_learned() -> None:
    drive = Drive(ready=3)
    drive.last(300, 20.0)
    drive.time -= 86_400
    decision = drive.step(20.0)
    assert decision.replicas == 3
    assert drive.history.startups_seconds == (60.0,)
    assert drive.last(300, 20.0).replicas == 3


def test_a_counter_that_begins_again_is_no_negative_rate() -> None:
    drive = Drive()
    drive.last(300, 20.0)
    drive.arrivals = 0
    assert drive.step(20.0).replicas == 3
    assert all(moment.rate >= 0 for moment in drive.history.moments)


def test_no_more_than_the_maximum_is_asked_for() -> None:
    drive = with_spec(max_replicas=4)
    decision = drive.last(300, 200.0)
    assert decision.replicas == 4


def test_the_minimum_is_kept_and_said() -> None:
    drive = with_spec(min_replicas=5)
    decision = drive.last(300, 20.0)
    assert decision.replicas == 5
    assert decision.reason.endswith("The spec has a minimum of 5.")


def test_a_schedule_raises_the_minimum_and_is_named() -> None:
    always = Schedule("* * * * *", "0 0 29 2 *", "UTC", min_replicas=6)
    decision = with_spec(schedules=(always,)).last(300, 20.0)
    assert decision.replicas == 6
    assert decision.reason.endswith("A schedule has a minimum of 6.")


def test_a_bound_that_is_not_the_schedules_is_not_said_to_be() -> None:
    cap = Schedule("* * * * *", "0 0 29 2 *", "UTC", max_replicas=8)
    drive = with_spec(min_replicas=5, schedules=(cap,))
    assert drive.last(300, 20.0).reason.endswith("The spec has a minimum of 5.")
    assert drive.last(60, 200.0).reason.endswith("A schedule has a maximum of 8.")


def test_behavior_limits_are_said() -> None:
    rules = ScalingRules(policies=(ScalingPolicy("Pods", 1, 60),))
    drive = with_spec(up=rules)
    drive.last(300, 20.0)
    decision = drive.step(120.0, in_flight=150)
    assert decision.replicas == 4
    assert (
        decision.reason.endswith("`behavior` allows 4 of 14 now.") or "allows 4" in decision.reason
    )


def test_a_decision_that_was_not_carried_out_does_not_count_for_behavior() -> None:
    drive = with_spec(up=ScalingRules(policies=(ScalingPolicy("Pods", 2, 60),)))
    drive.last(300, 20.0)
    refused = []
    for _ in range(30):
        drive.ready = 3
        refused.append(drive.step(120.0, in_flight=150).replicas)
    assert set(refused) == {5}
    # It is done at last, and seen at the next step: from there on it counts.
    allowed = [drive.step(120.0, in_flight=150).replicas for _ in range(32)]
    assert allowed == [5] * 30 + [7] * 2


def test_what_others_changed_counts_for_behavior() -> None:
    drive = with_spec(up=ScalingRules(policies=(ScalingPolicy("Pods", 2, 60),)))
    drive.last(300, 20.0)
    drive.ready = 5
    assert drive.step(120.0, in_flight=150).replicas == 5


def test_what_was_changed_counts_for_behavior_after_a_gap_too() -> None:
    drive = with_spec(up=ScalingRules(policies=(ScalingPolicy("Pods", 2, 120),)))
    drive.last(300, 20.0)
    before = drive.ready
    assert drive.last(4, 120.0).replicas == before + 2
    drive.time += 60  # nothing is known for a minute
    drive.last(50, 120.0)
    assert drive.ready == before + 2
    drive.last(20, 120.0)
    assert drive.ready > before + 2


def test_an_outage_of_all_replicas_takes_none_away() -> None:
    drive = Drive(ready=8)
    drive.last(300, 60.0)
    wanted, refused = drive.ready, 60.0 * INTERVAL
    for _ in range(150):
        drive.time += INTERVAL
        drive.arrivals += refused
        last = drive.history.last
        assert last is not None
        gone = replace(
            last,
            time=drive.time,
            arrivals=drive.arrivals,
            in_flight=0.0,
            completions=last.completions + refused,
            latency_seconds=last.latency_seconds + refused * 0.0002,
            ready=0,
            starting_ages=(60.0,) * wanted,
            computed=None,
        )
        assert drive.feed(gone).replicas == wanted
        refused *= 0.9  # clients give up


def test_what_the_response_cache_answers_needs_no_replica() -> None:
    without, drive = Drive(), Drive(missed=0.25)
    for each in (without, drive):
        each.last(600, 40.0)
    assert without.ready == 5
    assert drive.ready == 2
    assert drive.decision is not None
    assert "27 % of requests miss the response cache" in drive.decision.reason


def test_a_cache_that_answers_nothing_any_more_is_noticed() -> None:
    drive = Drive(missed=0.25)
    drive.last(600, 40.0)
    drive.missed = 1.0
    assert drive.last(120, 40.0).replicas == 5


def test_pods_that_find_no_room_do_not_make_it_ask_for_more() -> None:
    drive = Drive()
    drive.last(300, 20.0)
    wanted = drive.step(60.0, in_flight=20).replicas
    for turn in range(200):
        drive.time += 2
        drive.arrivals += 120
        stuck = Samples(
            drive.time,
            drive.arrivals,
            20,
            drive.arrivals,
            drive.arrivals * SERVICE_SECONDS,
            3,
            starting_ages=(2.0 * turn,) * (wanted - 3),
            computed=Computed(drive.arrivals, drive.arrivals * SERVICE_SECONDS, drive.arrivals),
        )
        decision = drive.feed(stuck)
        assert decision.replicas <= SPEC.max_replicas
    assert decision.replicas <= wanted + 8
