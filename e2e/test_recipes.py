"""The recipes inside the trainer image: what can only run where PyTorch is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.chroot import WRITABLE, Image
from e2e.deadlines import DEADLINES_SECONDS
from e2e.installation import ROOT, image_references
from e2e.kubectl import Kubectl
from e2e.pods import ended, program_pod
from e2e.waiting import wait_until

POD = "script"


def test_export_and_training_hold_what_they_promise(bare_namespace: Kubectl) -> None:
    script = ROOT / "tests" / "sdk" / "recipes" / "with_torch.py"

    log = run_in_trainer(bare_namespace, script, "a script ends")

    assert "\nOK" in log


@pytest.mark.long
def test_the_recipes_to_copy_go_on_in_gangs_of_two_and_three(
    image: Callable[[str], Image], folder: Path
) -> None:
    shutil.copy(ROOT / "tests" / "sdk" / "recipes" / "gangs_with_torch.py", folder)

    output = image("trainer").run(
        "python",
        f"{WRITABLE}/gangs_with_torch.py",
        writable=folder,
        limit_seconds=DEADLINES_SECONDS["recipes are tried"],
    )
    print(output)

    assert output.endswith("OK")


@pytest.mark.long
def test_the_demos_gate_is_cleared_by_two_points_on_each_of_ten_seeds(
    bare_namespace: Kubectl,
) -> None:
    log = run_in_trainer(bare_namespace, ROOT / "e2e" / "ten_seeds.py", "ten seeds are trained")
    print(log)

    figures = json.loads(log.splitlines()[-1])
    assert len(figures["accuracy"]) == 10
    assert figures["minimum"] >= 0.92


def run_in_trainer(kubectl: Kubectl, script: Path, deadline: str) -> str:
    """Run a script of this checkout in a pod of the trainer image; return what it printed."""
    scripts = {"name": POD}
    data = {script.name: script.read_text()}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": scripts, "data": data},
        trainer_pod(f"/scripts/{script.name}"),
    )
    pod = wait_until(lambda: kubectl.get("pod", POD), ended, deadline)
    assert pod is not None
    log = kubectl.logs(POD)
    assert pod["status"]["phase"] == "Succeeded", log
    return log


def trainer_pod(script: str) -> dict[str, Any]:
    container = {
        "name": "script",
        "image": image_references()["trainer"],
        "command": ["python", script],
        "volumeMounts": [{"name": "scripts", "mountPath": "/scripts"}],
    }
    volumes = [{"name": "scripts", "configMap": {"name": POD}}]
    return program_pod(POD, container, volumes=volumes)
