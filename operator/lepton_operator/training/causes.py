"""What each class of failure means: whose budget pays, what follows, and what it outranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from lepton_operator.api.training import Action, Budget, Cause


class Weight(IntEnum):
    """Which of several failures of one attempt is the cause: the lowest weight.

    A result that rank 0 has left and that is no model stays one, whatever happens to its peers.
    Ranks whose peer was lost end by themselves, with broken connections; so a loss outranks them.
    Clocks differ between pods: a rank that blames a peer never outranks one that says what it did,
    whichever ended first, nor does one that left no message at all.
    """

    RESULT = 0
    LOSS = 1
    PREPARATION = 2
    END = 3
    SILENCE = 4
    VICTIM = 5


@dataclass(frozen=True, slots=True)
class Trait:
    """`budget` None: it counts against none. `may_repeat`: the same error again is the user's."""

    budget: Budget | None
    weight: Weight
    action: Action = "Restart"
    may_repeat: bool = False


TRAITS: Mapping[Cause, Trait] = {
    Cause.INVALID_SPEC: Trait(None, Weight.RESULT, "Fail"),
    Cause.NO_MODEL: Trait(None, Weight.RESULT, "Fail"),
    Cause.INVALID_MODEL: Trait(None, Weight.RESULT, "Fail"),
    # By a pod's own words, but only where somebody took a pod's place away: docs/adr/0015.
    Cause.SAVED: Trait("Preemption", Weight.LOSS),
    Cause.PREEMPTED: Trait("Preemption", Weight.LOSS),
    Cause.EVICTED: Trait("Infrastructure", Weight.LOSS),
    Cause.POD_LOST: Trait("Infrastructure", Weight.LOSS),
    Cause.NODE_NOT_READY: Trait("Infrastructure", Weight.LOSS),
    Cause.NODE_UNHEALTHY: Trait("Infrastructure", Weight.LOSS, "RestartElsewhere"),
    Cause.NO_STORE: Trait(None, Weight.PREPARATION),
    Cause.STORE_UNAVAILABLE: Trait(None, Weight.PREPARATION),
    Cause.PREPARATION_FAILED: Trait("Infrastructure", Weight.PREPARATION),
    Cause.STORAGE_EXCEEDED: Trait("User", Weight.END, may_repeat=True),
    Cause.OUT_OF_MEMORY: Trait("User", Weight.END, may_repeat=True),
    Cause.CANNOT_START: Trait("User", Weight.END),
    # A pod's own words may claim a user's error, never one of the infrastructure: these two count
    # as the user's, until the node itself says that it is broken.
    Cause.GPU_ERROR: Trait("User", Weight.END, "RestartElsewhere", may_repeat=True),
    Cause.NETWORK_ERROR: Trait("User", Weight.END, "RestartElsewhere", may_repeat=True),
    Cause.USER_ERROR: Trait("User", Weight.END, may_repeat=True),
    Cause.HANG: Trait("User", Weight.END, may_repeat=True),
    Cause.NO_RECORD: Trait("User", Weight.END),
    Cause.NO_MESSAGE: Trait("User", Weight.SILENCE, may_repeat=True),
    Cause.TERMINATED: Trait("User", Weight.VICTIM),
    Cause.PEER_LOST: Trait("User", Weight.VICTIM),
    # By a pod's own words, and yet infrastructure: docs/adr/0012.
    Cause.PARTITIONED: Trait("Infrastructure", Weight.VICTIM),
}

STORE = frozenset({Cause.NO_STORE, Cause.STORE_UNAVAILABLE})
