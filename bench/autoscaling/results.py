"""What a suite found: for the bars, and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from bench.autoscaling import bars
from bench.autoscaling.table import Row, means
from bench.autoscaling.world import Setting


@dataclass(frozen=True)
class Suite:
    """All tables of one start-up time: by seed, then by trace."""

    setting: Setting
    tables: Sequence[dict[str, list[Row]]]

    @property
    def rows(self) -> list[Row]:
        """Return the mean over traces and seeds of each policy and setting."""
        return means(chain.from_iterable(each.values() for each in self.tables))

    @property
    def by_seed(self) -> list[list[Row]]:
        return [means(each.values()) for each in self.tables]

    def of_trace(self, trace: str) -> list[Row]:
        return means(each[trace] for each in self.tables)

    @property
    def curve(self) -> list[Row]:
        """Return our law asked for other percentiles, the one that was asked for among them."""
        return bars.of_policy(self.by_seed[0], "lepton")
