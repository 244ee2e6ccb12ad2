"""What Envoy is started with: as it was reviewed, and as Envoy itself judges it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from images.door.bootstrap import bootstrap, overload_manager, secrets
from images.door.settings import Settings
from images.envoy import program
from tests.conftest import Golden
from tests.door.authority import Authority

SETTINGS = Settings(
    xds_host="lepton-operator-xds.lepton-system.svc",
    xds_port=18000,
    drain_timeout_seconds=300,
    heap_bytes=448 * 2**20,
    threads=2,
    connections=7168,
)


def test_the_bootstrap_is_as_it_was_reviewed(golden: Golden) -> None:
    folder = Path("/tmp/door")
    found = {"bootstrap.json": bootstrap(SETTINGS, folder, "lepton-door-abc")}
    files = {path.name: content for path, content in secrets(SETTINGS, folder).items()}
    golden("door/bootstrap", found | files)


@pytest.mark.parametrize("heap_bytes", [448 * 2**20, None], ids=["a memory limit", "none"])
def test_envoy_takes_it_without_a_warning(
    tmp_path: Path, authority: Authority, heap_bytes: int | None
) -> None:
    settings = replace(SETTINGS, certificates=authority.folder, heap_bytes=heap_bytes)
    file = tmp_path / "bootstrap.json"
    file.write_text(json.dumps(bootstrap(settings, tmp_path, "lepton-door-abc")))
    for path, content in secrets(settings, tmp_path).items():
        path.write_text(json.dumps(content))
    argv = (str(program()), "--mode", "validate", "--log-level", "warning", "-c", str(file))
    judged = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (judged.returncode, judged.stderr) == (0, "")


def test_without_a_memory_limit_connections_are_bounded_all_the_same() -> None:
    found = overload_manager(replace(SETTINGS, heap_bytes=None))
    (monitor,) = found["resource_monitors"]
    assert monitor["typed_config"]["max_active_downstream_connections"] == 7168
    assert "actions" not in found
