"""The user's own rules (failurePolicy.rules): the first that a failure matches decides."""

from __future__ import annotations

from collections.abc import Collection

from lepton_operator import names
from lepton_operator.api.training import Cause, FailureMatch, FailurePolicy
from lepton_operator.training.evidence import Failure


def rule_for(policy: FailurePolicy, failure: Failure) -> int | None:
    """Return the index of the rule that decides about this failure.

    None decides about rules that are themselves the failure.
    """
    if failure.cause is Cause.INVALID_SPEC:
        return None
    rules = enumerate(policy.rules)
    return next((index for index, rule in rules if _matches(rule.match, failure)), None)


def _matches(match: FailureMatch, failure: Failure) -> bool:
    return (
        _among(failure.exit_code, match.exit_codes)
        and _among(failure.signal, match.signals)
        and _among(failure.cause, match.reasons)
        and _found(match.message_pattern, failure)
    )


def _among(value: object, wanted: Collection[object]) -> bool:
    return not wanted or value in wanted


def _found(pattern: str | None, failure: Failure) -> bool:
    """Tell whether the pod, which alone looks for patterns, says that it found this one."""
    return pattern is None or names.short_hash(pattern) in failure.matched
