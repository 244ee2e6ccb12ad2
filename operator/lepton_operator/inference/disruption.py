"""How many pods of a service an eviction may take.

None, while the pods of a node that is being emptied can be made ready elsewhere first: the drain of
a node waits until that is done. Where no other pod becomes ready, one.
"""

from __future__ import annotations

from lepton_operator.inference.situation import Situation


def max_unavailable(situation: Situation) -> int:
    """Return the budget's maxUnavailable."""
    disruption = situation.view.service.spec.disruption
    if disruption is not None and disruption.max_unavailable is not None:
        return disruption.max_unavailable
    if situation.view.nodes is None:
        return 1  # nobody would see that a node is cordoned, and its drain would never end
    deadline = situation.surge_deadline
    is_hopeless = deadline is not None and deadline <= situation.now
    return 1 if situation.fleet.moving and is_hopeless else 0
