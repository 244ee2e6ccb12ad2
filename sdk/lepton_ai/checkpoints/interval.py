"""How often to save: from what a save costs, and how often training is interrupted.

Saving each T seconds costs C / T of the time, and each interruption T / 2 on average of work that
is repeated. At a mean time between failures M their sum is least at T = sqrt(2 C M) (J. W. Young,
Communications of the ACM 17, 1974); J. T. Daly's higher-order estimate (Future Generation Computer
Systems 22, 2006) stays right where C is not small beside M.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST_SAVE_SECONDS = 10.0
"""When nothing has been measured yet: early, so that a place that takes no checkpoint is known."""

LEAST_DURATIONS = 2.0
"""An interval is never under twice a save's duration."""

DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class SaveCost:
    """What a save in the background costs.

    Attributes:
        stall_seconds: for how long training stood still.
        slowdown_seconds: by how much the steps beside the save took longer, all together.
        duration_seconds: from its begin until the checkpoint existed.

    """

    stall_seconds: float
    slowdown_seconds: float
    duration_seconds: float

    @property
    def lost_seconds(self) -> float:
        """Seconds of training that the save took."""
        return self.stall_seconds + self.slowdown_seconds


@dataclass(frozen=True)
class FailureRate:
    """What is believed of a node's failures: a Gamma distribution of their rate.

    Failures are taken for a Poisson process, to whose rate the Gamma is conjugate: what was seen is
    added to what was believed.

    Attributes:
        failures: the distribution's shape.
        node_seconds: its rate parameter: in how much time of one node so many were seen.

    """

    failures: float
    node_seconds: float

    def after(self, failures: int, node_seconds: float) -> FailureRate:
        """Return the belief after so many failures in so many seconds of all nodes together."""
        return FailureRate(self.failures + failures, self.node_seconds + node_seconds)

    def mtbf_seconds(self, nodes: int) -> float:
        """Return the mean time between failures of a gang that any one of its nodes interrupts."""
        return self.node_seconds / (self.failures * nodes)


PRIOR = FailureRate(failures=0.5, node_seconds=0.5 * 50 * DAY_SECONDS)
"""One failure in 50 days of a node, held as firmly as half a failure seen.

Meta's research clusters counted one in 47.7 days of a node of 8 GPUs (arXiv 2410.21680), the
training of Llama 3 one in 264 (419 in 54 days of 2,048 nodes). The first own failure outweighs it.
"""


@dataclass(frozen=True)
class Interval:
    """Seconds from the begin of one save to the begin of the next, and why so many."""

    seconds: float
    because: str


def best_interval(cost: SaveCost | None, mtbf_seconds: float) -> Interval:
    """Return the interval that wastes least: Daly's, but never under two durations of a save.

    Args:
        cost: what a save was measured to cost; None before the first one.
        mtbf_seconds: mean time between failures of the whole gang.

    """
    if cost is None:
        return Interval(
            FIRST_SAVE_SECONDS,
            f"{FIRST_SAVE_SECONDS:.0f} s: what a save costs is not known before the first one",
        )
    best_seconds = _daly(cost.lost_seconds, mtbf_seconds)
    least_seconds = LEAST_DURATIONS * cost.duration_seconds
    facts = (
        f"a save costs {cost.lost_seconds:.3g} s of training ({cost.stall_seconds:.3g} s of stall, "
        f"{cost.slowdown_seconds:.3g} s of slower steps), a failure is expected each "
        f"{mtbf_seconds:.3g} s"
    )
    if least_seconds > best_seconds:
        return Interval(
            least_seconds,
            f"{least_seconds:.3g} s, twice what a save takes: {facts}, which asks "
            f"for {best_seconds:.3g} s (Daly)",
        )
    return Interval(best_seconds, f"{best_seconds:.3g} s (Daly): {facts}")


def _daly(lost_seconds: float, mtbf_seconds: float) -> float:
    """Return Daly's optimum, (20) and (37) of the paper, with the cost of the save itself."""
    if lost_seconds >= 2 * mtbf_seconds:
        return mtbf_seconds + lost_seconds
    ratio = lost_seconds / (2 * mtbf_seconds)
    young_seconds = math.sqrt(2 * lost_seconds * mtbf_seconds)
    return young_seconds * (1 + math.sqrt(ratio) / 3 + ratio / 9)
