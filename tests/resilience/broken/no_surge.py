"""An operator with a bug: old pods leave the doors though nothing serves in their place yet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import lepton_operator.__main__ as operator
from lepton_operator.inference import rollout
from lepton_operator.views import PodView


def main(arguments: Sequence[str]) -> int:
    def serves(pod: PodView, now: datetime) -> bool:  # noqa: ARG001 - as the right one
        return True

    rollout.serves = serves  # type: ignore[attr-defined]
    return operator.main(arguments)
