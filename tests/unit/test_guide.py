"""The guide, and the page on failing trainings, tell every reason that a status can have, and no
other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest

from lepton_operator.inference.reasons import ServingReason
from lepton_operator.models.reasons import ModelReason
from lepton_operator.scaling.saying import ScalingReason
from lepton_operator.training.status import (
    CHECKPOINT_PLACE_KNOWN,
    CHECKPOINTS_SAVED,
    FAILED,
    PROGRESS_KNOWN,
    SLOW_RANK,
    Reason,
)

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "guide.md").read_text()
OF_EVENTS = {
    ModelReason.VERSION_LISTED,
    ModelReason.VERSION_ACCEPTED,
    ModelReason.VERSION_REFUSED,
    ModelReason.VERSION_CONFLICT,
    ModelReason.SERVED,
    ServingReason.REPLACING,
    ServingReason.ROLLED_BACK,
    ServingReason.DRAIN_TIMED_OUT,
    ServingReason.SCALED,
}


def words(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)


def rows() -> Iterator[tuple[str, str]]:
    """Yield the first two columns of each row of the table of reasons."""
    _, _, table = GUIDE.partition("| reason | kind | what it means |\n|---|---|---|\n")
    for line in table.partition("\n\n")[0].splitlines():
        _, reasons, kinds, *_ = line.split("|")
        yield reasons, kinds


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [("TrainingJob", Reason), ("LeptonModel", ModelReason), ("InferenceService", ServingReason)],
)
def test_the_guide_tells_every_reason_of_a_kind(kind: str, reasons: type[StrEnum]) -> None:
    told = [
        word
        for written, kinds in rows()
        if kind in kinds or kinds.strip() == "all"
        for word in words(written)
    ]
    assert len(told) == len(set(told))
    assert set(told) == {each.value for each in set(reasons) - OF_EVENTS} | {"InvalidSpec"}


def test_the_page_on_failing_trainings_says_what_to_do_for_every_reason() -> None:
    page = (DOCS / "training.md").read_text()
    table = page.partition("<!-- reasons -->")[2].partition("<!-- end of reasons -->")[0]
    rows = [line.split("|")[1:3] for line in table.strip().splitlines()[2:]]
    told = [word for reasons, _ in rows for word in words(reasons)]
    assert sorted(told) == sorted(each.value for each in Reason)
    assert all(advice.strip() for _, advice in rows)
    warnings = (PROGRESS_KNOWN, CHECKPOINT_PLACE_KNOWN, CHECKPOINTS_SAVED, SLOW_RANK)
    for condition in (FAILED, *warnings):
        assert f"`{condition}" in page


def test_the_page_on_autoscaling_tells_every_reason_of_its_conditions() -> None:
    page = (DOCS / "autoscaling.md").read_text()
    _, _, table = page.partition("| condition | reason |")
    told = [
        word
        for line in table.partition("\n\n")[0].splitlines()[2:]
        for word in words(line.split("|")[2])
    ]
    assert sorted(told) == sorted(each.value for each in ScalingReason)
