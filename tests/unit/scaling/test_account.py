"""What a service's status is told of its scaling, and when that is news."""

from __future__ import annotations

from lepton_operator.api.autoscaling import AutoscalingStatus
from lepton_operator.api.inference import InferenceService
from lepton_operator.autoscale.values import Decision, History, Samples, Spec
from lepton_operator.conditions import Extra
from lepton_operator.errors import Forbidden, Transient
from lepton_operator.scaling.account import SETTLED_SECONDS, Account, begun
from lepton_operator.scaling.replicas import Replicas
from lepton_operator.scaling.saying import (
    ScalingReason,
    active,
    at_zero,
    by_another,
    limits,
    never_asked,
)
from lepton_operator.views import ScalingView

SPEC = Spec(target_seconds=0.5, percentile=95.0, max_replicas=4)


def decision(to: int = 2, *, held: bool = False, limit: str | None = None) -> Decision:
    return Decision(1, to, "demand", 12.3456, 10.0, "Because.", History(), held, limit)  # type: ignore[arg-type]


def reasons(account: Account) -> list[str]:
    return [each.reason for each in account.view.conditions] if account.view else []


GOOD = [active(decision(), "Prometheus", "")]
DOORS = [active(decision(), "Doors", "Prometheus does not answer.")]
HELD = [active(decision(held=True), None, "")]


def test_what_is_good_is_told_at_once_and_once() -> None:
    account = Account()
    assert account.tell(GOOD, 1, 0)
    assert not account.tell(GOOD, 1, 2)
    assert reasons(account) == ["PrometheusAsked"]


def test_what_may_pass_is_told_once_it_has_lasted() -> None:
    account = Account()
    account.tell(GOOD, 1, 0)
    assert not account.tell(DOORS, 1, 10)
    assert not account.tell(GOOD, 1, 12)
    assert not account.tell(DOORS, 1, 14)
    assert not account.tell(DOORS, 1, 13 + SETTLED_SECONDS)
    assert account.tell(DOORS, 1, 14 + SETTLED_SECONDS)
    assert reasons(account) == ["DoorsAsked"]
    assert not account.tell(GOOD, 1, 50)
    assert not account.tell(DOORS, 1, 52)
    assert not account.tell(GOOD, 1, 54)
    assert account.tell(GOOD, 1, 54 + SETTLED_SECONDS)


def test_what_comes_and_goes_in_one_condition_holds_up_no_other() -> None:
    account = Account()
    account.tell(GOOD, 1, 0)
    for now in range(2, int(SETTLED_SECONDS), 4):
        assert not account.tell([*DOORS, *limit("1 request")], 1, now)
        assert not account.tell(DOORS, 1, now + 2)
    assert account.tell([*DOORS, *limit("1 request")], 1, 2 + SETTLED_SECONDS)
    assert reasons(account) == ["DoorsAsked"]


def test_after_a_start_nothing_is_said_about_what_is_not_known_yet() -> None:
    account = Account()
    assert not account.tell(HELD, 1, 0)
    assert account.view is None
    assert account.tell(GOOD, 1, 4)


def test_what_a_person_did_is_told_at_once() -> None:
    account = Account()
    account.tell(DOORS, 1, 0)
    account.tell(DOORS, 1, SETTLED_SECONDS)
    assert account.tell([by_another(["mine"])], 1, 32)
    assert account.tell([at_zero()], 1, 34)
    assert reasons(account) == ["ScaledToZero"]


def test_figures_that_change_in_what_may_pass_are_no_news() -> None:
    account = Account()
    account.tell([Extra("ScalingLimited", "True", "TooManyReplicas", "1 request")], 1, 0)
    account.tell([Extra("ScalingLimited", "True", "TooManyReplicas", "1 request")], 1, 40)
    assert account.view is not None
    assert not account.tell(
        [Extra("ScalingLimited", "True", "TooManyReplicas", "2 requests")], 1, 99
    )


def test_figures_are_told_anew_where_the_object_was_changed() -> None:
    account = Account(view=ScalingView(AutoscalingStatus(), tuple(limit("1 request"))))
    assert account.tell(limit("2 requests"), 2, 0)
    assert not account.tell(limit("3 requests"), 2, 2)


def limit(message: str) -> list[Extra]:
    return [Extra("ScalingLimited", "True", "TooManyReplicas", message)]


def test_a_new_leader_goes_on_with_what_the_status_says() -> None:
    said = [condition("ScalingActive", "PrometheusAsked"), condition("Ready", "Serving")]
    told = {"conditions": said, "autoscaling": {"source": "Prometheus"}}
    metadata = {"name": "digits", "namespace": "team", "generation": 3}
    spec = {"model": {"name": "digits"}}
    body = {"metadata": metadata, "spec": spec, "status": told}
    account = begun(InferenceService.model_validate(body))
    assert reasons(account) == ["PrometheusAsked"]
    assert not account.tell([never_asked()], 3, 0)
    assert not account.tell(HELD, 3, 2)
    assert reasons(account) == ["PrometheusAsked"]


def condition(kind: str, reason: str) -> dict[str, str]:
    message = active(decision(), "Prometheus", "").message
    time = "2026-11-22T04:00:00Z"
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": time,
    }


def test_what_a_person_took_back_is_no_longer_said_of_a_service_that_nobody_asked() -> None:
    account = Account()
    assert account.tell([by_another(["mine"])], 1, 0)
    assert account.tell([never_asked()], 1, 2)
    assert account.tell([never_asked(), *limit_of_a_zone()], 1, 4)
    assert reasons(account) == ["NoRequestsYet", "ScheduleNeverHolds"]


def limit_of_a_zone() -> list[Extra]:
    return [Extra("ScalingLimited", "True", "ScheduleNeverHolds", "no such zone")]


def test_the_last_of_two_hpas_is_named_alone() -> None:
    account = Account()
    assert account.tell([by_another(["one", "two"])], 1, 0)
    assert account.tell([by_another(["two"])], 1, 2)


def test_the_last_decisions_are_kept_newest_first() -> None:
    account = Account()
    account.tell(GOOD, 1, 0)
    for turn in range(7):
        account.decided(decision(turn), turn)
    assert account.view is not None
    found = account.view.status.decisions
    assert [each.to for each in found] == [6, 5, 4, 3, 2]
    assert (found[0].from_replicas, found[0].value, found[0].reason) == (1, 12.35, "Because.")
    assert reasons(account) == ["PrometheusAsked"]


def test_a_limit_has_one_condition_and_says_what_to_do() -> None:
    (found,) = limits(SPEC, decision(4, limit="Maximum"))
    assert (found.type, found.reason) == ("ScalingLimited", ScalingReason.TOO_MANY_REPLICAS)
    assert "Raise spec.autoscaling.maxReplicas" in found.message
    (found,) = limits(SPEC, decision(4, limit="ServiceTime"))
    assert found.reason == ScalingReason.TARGET_BELOW_SERVICE_TIME
    assert list(limits(SPEC, decision())) == []


def samples(time: float, arrivals: float) -> Samples:
    return Samples(time, arrivals, 1, arrivals, arrivals / 10, 1, startups_seconds=(30.0,))


def test_a_sample_is_decided_by_once() -> None:
    account = Account()
    first = account.decide(SPEC, samples(0, 0), 0, 1)
    second = account.decide(SPEC, samples(2, 20), 2, 1)
    assert account.decide(SPEC, samples(2, 20), 4, 1) is second
    assert second is not first
    assert account.history.startups_seconds == (30.0, 30.0)
    assert account.decide(SPEC, samples(2, 20), 60, 1).held


def test_what_a_person_set_between_two_samples_stays() -> None:
    account = Account()
    account.decide(SPEC, samples(0, 0), 0, 1)
    decided = account.decide(SPEC, samples(2, 20), 2, 1)
    held = account.decide(SPEC, samples(2, 20), 4, 3)
    assert (held.current, held.replicas) == (3, 3)
    assert account.decide(SPEC, samples(2, 20), 5, 9).replicas == SPEC.max_replicas
    assert decided.replicas != 3
    assert not account.decide(SPEC, samples(6, 60), 6, 3).held


def test_starts_that_were_told_with_unusable_samples_are_told_again() -> None:
    account = Account(replicas=Replicas(1, (), (30.0,), frozenset({"uid"})))
    assert account.decide(SPEC, None, 0, 1).held
    assert account.known is None
    account.decide(SPEC, samples(2, 0), 2, 1)
    assert account.known == {"uid"}


def test_who_refuses_a_number_is_asked_ever_less_often() -> None:
    account = Account()
    waits = []
    for _ in range(7):
        account.was_refused(Forbidden("no", 403, "Forbidden"), 100.0)
        waits.append(account.writes_again_at - 100)
    assert waits == [2, 4, 8, 16, 32, 60, 60]
    account.was_refused(Transient("later", 429, "", retry_after_seconds=90), 100.0)
    assert (account.refused, account.writes_again_at) == ("later", 190)
    account.is_not_refused()
    assert (account.refused, account.writes_again_at) == ("", 0)
