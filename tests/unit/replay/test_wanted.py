from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import yaml

from lepton_operator.replay.arguments import add_arguments
from lepton_operator.replay.recording import Recording
from lepton_operator.replay.wanted import asked_for
from lepton_operator.settings import Door, Prometheus, Settings, Triton
from tests.builders import defaults

RECORDING = Recording("team", "digits", 2.0, ())
ASKED = ("--target-ms", "250", "--max", "20")


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(argv)


def manifest(folder: Path, *names: str, **spec: Any) -> str:
    """Write a file of services that ask for a latency; return its place."""
    asked = {"maxReplicas": 9, "target": {"latencyMilliseconds": 300, "percentile": 99}}
    services = [
        {
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {"model": {"name": name}, "autoscaling": asked, **spec},
        }
        for name in names
    ]
    file = folder / "services.yaml"
    file.write_text(yaml.safe_dump_all(services))
    return str(file)


@pytest.fixture
def settings() -> Settings:
    """Of an installation whose Tritons put 16 requests together, behind three doors."""
    return Settings(
        defaults=defaults(triton=Triton(max_batch_size=16)),
        door=Door(replicas=3),
        prometheus=Prometheus(max_age_seconds=60),
    )


def test_batches_are_the_manifests_else_the_settings_else_tritons_default(
    tmp_path: Path, settings: Settings
) -> None:
    said = manifest(tmp_path, "digits", batching={"maxBatchSize": 4})
    assert asked_for(parsed("--manifest", said), RECORDING, settings).max_batch == 4
    assert asked_for(parsed("--manifest", said, "--max-batch=2"), RECORDING, None).max_batch == 2
    assert asked_for(parsed(*ASKED), RECORDING, settings).max_batch == 16
    assert asked_for(parsed(*ASKED), RECORDING, None).max_batch == 32


def test_doors_and_the_age_of_samples_are_the_settings(settings: Settings) -> None:
    found = asked_for(parsed(*ASKED), RECORDING, settings)
    assert (found.door.doors, found.stale_after_seconds) == (3, 60)


def test_of_several_services_the_recorded_one_is_taken(tmp_path: Path) -> None:
    found = asked_for(
        parsed("--manifest", manifest(tmp_path, "other", "digits"), "--max", "5"), RECORDING, None
    )
    assert (found.max_replicas, found.target_seconds, found.percentile) == (5, 0.3, 99)
    others = parsed("--manifest", manifest(tmp_path, "other", "another"))
    with pytest.raises(ValueError, match="leave the one of digits in it"):
        asked_for(others, RECORDING, None)


def test_a_wrong_manifest_is_said_by_its_field(tmp_path: Path) -> None:
    wrong = parsed("--manifest", manifest(tmp_path, "digits", replicas=-1))
    with pytest.raises(ValueError, match=r"is wrong: spec\.replicas: "):
        asked_for(wrong, RECORDING, None)
