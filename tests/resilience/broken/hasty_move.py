"""An operator with a bug: a Service is led to doors that are ready, wherever they listen."""

from __future__ import annotations

from collections.abc import Sequence

import lepton_operator.__main__ as operator
from lepton_operator.inference.situation import Situation


def main(arguments: Sequence[str]) -> int:
    def is_listened_on(self: Situation, _port: int) -> bool:
        return self.has_door

    Situation.is_listened_on = is_listened_on  # type: ignore[assignment, method-assign]
    return operator.main(arguments)
