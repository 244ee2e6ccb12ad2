from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lepton_ai.checkpoints.interval import DAY_SECONDS, PRIOR, FailureRate
from lepton_ai.checkpoints.manifest import Attempt
from lepton_ai.checkpoints.settings import Settings


def test_on_a_laptop_everything_has_a_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert Settings.from_environment({}) == Settings(
        uri=(tmp_path / "checkpoints").as_uri(),
        run="local",
        attempt=None,
        interval_seconds=None,
        failures=PRIOR,
        failures_until=None,
        keep=3,
        save_request=Path("/lepton/exchange/save"),
    )


def test_in_a_pod_the_operator_says_everything() -> None:
    environment = {
        "LEPTON_CHECKPOINT_URI": "s3://bucket/team",
        "LEPTON_RUN_UID": "4711",
        "LEPTON_ATTEMPT": "2",
        "LEPTON_GENERATION": "1",
        "LEPTON_CHECKPOINT_INTERVAL": "600",
        "LEPTON_MTBF_SECONDS": "7200.5",
        "LEPTON_MTBF_FAILURES": "3",
        "LEPTON_MTBF_ATTEMPT": "1",
        "LEPTON_CHECKPOINT_KEEP": "5",
        "LEPTON_EXCHANGE": "/elsewhere",
    }

    assert Settings.from_environment(environment) == Settings(
        uri="s3://bucket/team",
        run="4711",
        attempt=Attempt(2, 1),
        interval_seconds=600.0,
        failures=FailureRate(3.5, 3.5 * 7200.5),
        failures_until=1,
        keep=5,
        save_request=Path("/elsewhere/save"),
    )


def test_the_interval_may_be_asked_for_and_more_nodes_fail_oftener() -> None:
    found = Settings.from_environment(
        {"LEPTON_CHECKPOINT_INTERVAL": "auto", "GROUP_WORLD_SIZE": "100"}
    )

    assert found.interval_seconds is None
    assert found.failures.mtbf_seconds(1) == DAY_SECONDS / 2


def test_without_an_operator_only_restarts_of_this_attempt_are_failures() -> None:
    assert Settings.from_environment({"LEPTON_ATTEMPT": "4"}).failures_until == 4


def test_a_training_image_needs_no_library_of_the_store() -> None:
    program = """
import sys
sys.modules["obstore"] = None
from lepton_ai.checkpoints.archive import Archive
from lepton_ai.checkpoints.settings import Settings
place = {"LEPTON_CHECKPOINT_SOCKET": "/socket", "LEPTON_CHECKPOINT_URI": "s3://bucket/team"}
print(Archive(Settings.from_environment(place).storage()).storage.url)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "s3://bucket/team/local\n"
