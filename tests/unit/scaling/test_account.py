"""What a service's status is told of its scaling, and when that is news."""

from __future__ import annotations

from lepton_operator.autoscale.values import Decision, History, Samples, Spec
from lepton_operator.conditions import Extra
from lepton_operator.scaling.account import SETTLED_SECONDS, Account
from lepton_operator.scaling.saying import ScalingReason, active, at_zero, by_another, limits

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
    assert account.tell(GOOD, 0)
    assert not account.tell(GOOD, 2)
    assert reasons(account) == ["PrometheusAsked"]


def test_what_may_pass_is_told_once_it_has_lasted() -> None:
    account = Account()
    account.tell(GOOD, 0)
    assert not account.tell(DOORS, 10)
    assert not account.tell(GOOD, 12)
    assert not account.tell(DOORS, 14)
    assert not account.tell(DOORS, 13 + SETTLED_SECONDS)
    assert account.tell(DOORS, 14 + SETTLED_SECONDS)
    assert reasons(account) == ["DoorsAsked"]
    assert account.tell(GOOD, 16 + SETTLED_SECONDS)


def test_after_a_start_nothing_is_said_about_what_is_not_known_yet() -> None:
    account = Account()
    assert not account.tell(HELD, 0)
    assert account.view is None
    assert account.tell(GOOD, 4)


def test_what_a_person_did_is_told_at_once() -> None:
    account = Account()
    account.tell(GOOD, 0)
    assert account.tell([by_another(["mine"])], 2)
    assert account.tell([at_zero()], 4)
    assert reasons(account) == ["ScaledToZero"]


def test_figures_that_change_in_what_may_pass_are_no_news() -> None:
    account = Account()
    account.tell([Extra("ScalingLimited", "True", "TooManyReplicas", "1 request")], 0)
    account.tell([Extra("ScalingLimited", "True", "TooManyReplicas", "1 request")], 40)
    assert account.view is not None
    assert not account.tell([Extra("ScalingLimited", "True", "TooManyReplicas", "2 requests")], 99)


def test_the_last_of_two_hpas_is_named_alone() -> None:
    account = Account()
    assert account.tell([by_another(["one", "two"])], 0)
    assert account.tell([by_another(["two"])], 2)


def test_the_last_decisions_are_kept_newest_first() -> None:
    account = Account()
    account.tell(GOOD, 0)
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
