from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lepton_ai.recipes.output import (
    output_folder,
    write_heldout,
    write_metrics,
    write_signature,
)


def test_the_launchers_folder_is_used_and_made(tmp_path: Path) -> None:
    folder = output_folder({"LEPTON_OUTPUT_DIR": str(tmp_path / "a" / "b")})

    assert folder == tmp_path / "a" / "b"
    assert folder.is_dir()


def test_a_laptop_gets_output_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert output_folder({}) == Path("output")
    assert (tmp_path / "output").is_dir()


def test_held_out_data_come_back_as_they_were(tmp_path: Path) -> None:
    x = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 1, 3, 4)
    y = np.array([4, 2])

    write_heldout(tmp_path, x, y)

    with np.load(tmp_path / "heldout.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"x", "y"}
        np.testing.assert_array_equal(arrays["x"], x)
        np.testing.assert_array_equal(arrays["y"], y)
        assert arrays["x"].dtype == np.float32


def test_nothing_but_the_data_decides_the_bytes(tmp_path: Path) -> None:
    x, y = np.zeros((2, 3), dtype=np.float32), np.array([0, 1])

    write_heldout(tmp_path, x, y)

    with zipfile.ZipFile(tmp_path / "heldout.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_signature_and_metrics_are_json(tmp_path: Path) -> None:
    write_signature(tmp_path, ["zero", "one"], {"image": "grey"})
    write_metrics(tmp_path, {"accuracy": 0.5})

    assert json.loads((tmp_path / "signature.json").read_text()) == {
        "labels": ["zero", "one"],
        "preprocessing": {"image": "grey"},
    }
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"accuracy": 0.5}
