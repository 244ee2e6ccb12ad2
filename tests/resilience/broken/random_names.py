"""An operator with a bug: pods get a suffix that each process draws anew, as by generateName.

Undisturbed it works. One that was started again does not know the pods of the one before, and
makes them a second time.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

import lepton_operator.__main__ as operator
from lepton_operator import names


def main(arguments: Sequence[str]) -> int:
    suffix = secrets.token_hex(3)

    def training_pod(job: str, attempt: int, rank: int) -> str:
        return f"{job}-train-{attempt}-{rank}-{suffix}"

    def parse_training_pod(job: str, pod: str) -> tuple[int, int] | None:
        found = re.fullmatch(rf"{re.escape(job)}-train-([0-9]+)-([0-9]+)-{suffix}", pod)
        return (int(found[1]), int(found[2])) if found else None

    names.training_pod = training_pod
    names.parse_training_pod = parse_training_pod
    return operator.main(arguments)
