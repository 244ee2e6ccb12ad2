"""What a person reads who starts the operator with something missing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.cluster.control_plane import ControlPlane
from e2e.deadlines import DEADLINES_SECONDS
from tests.integration.conftest import IMAGES


def start(*arguments: str) -> tuple[int, str]:
    argv = [sys.executable, "-m", "lepton_operator", "run", *arguments]
    environment = {name: os.environ[name] for name in ("PATH",)}
    seconds = DEADLINES_SECONDS["the operator leads"]  # it takes the same imports to say why not
    ended = subprocess.run(
        argv, env=environment, capture_output=True, text=True, check=False, timeout=seconds
    )
    return ended.returncode, ended.stderr


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return write_settings(tmp_path, 0)


def write_settings(folder: Path, port: int) -> Path:
    file = folder / "settings.json"
    file.write_text(json.dumps({"defaults": {"images": IMAGES}, "httpPort": port}))
    return file


def test_without_settings(tmp_path: Path) -> None:
    code, said = start("--settings", str(tmp_path / "none.json"))
    assert code == 2
    assert "none.json cannot be used as settings" in said


def test_with_a_setting_that_does_not_exist(settings: Path) -> None:
    content = json.loads(settings.read_text()) | {"worker": 3}
    settings.write_text(json.dumps(content))
    code, said = start("--settings", str(settings))
    assert code == 2
    assert "worker" in said


def test_outside_of_a_pod_and_without_a_kubeconfig(settings: Path) -> None:
    code, said = start("--settings", str(settings))
    assert code == 2
    assert "No API server is known" in said
    assert "--kubeconfig" in said


def test_with_a_port_that_is_taken(plane: ControlPlane, tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:  # noqa: S104 - as the probes' server does
        settings = write_settings(tmp_path, taken.getsockname()[1])
        code, said = start(
            "--settings", str(settings), "--kubeconfig", str(plane.layout.kubeconfig)
        )
    assert code == 2
    assert "address already in use" in said
