from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_ai import datasets
from lepton_ai.lineage import (
    FILE,
    MAX_BYTES,
    Checkpoint,
    Data,
    Lineage,
    read,
    tell_checkpoint,
    tell_data,
)

DIGEST = "sha256:" + "a" * 64


def test_data_and_checkpoint_are_told_one_after_the_other(tmp_path: Path) -> None:
    digits = datasets.from_arrays("mine", np.zeros((3, 2)), np.arange(3))
    folder = tmp_path / "output"

    tell_data(folder, [digits])
    tell_checkpoint(folder, Checkpoint(step=12, digest=DIGEST))

    assert read(folder) == Lineage(
        data=(Data(name="mine", digest=digits.digest, samples=3),),
        checkpoint=Checkpoint(step=12, digest=DIGEST),
    )


def test_other_ranks_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    tell_checkpoint(tmp_path, Checkpoint(step=12, digest=DIGEST))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"checkpoint": {"step": -1, "digest": "x"}}',
        b'{"data": [' + b" " * MAX_BYTES + b"]}",
    ],
)
def test_what_does_not_fit_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert read(tmp_path) == Lineage()
    assert "cannot be read" in caplog.text


def test_nothing_told_is_nothing_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path) == Lineage()
    assert not caplog.text
