"""What the demo says at its end."""

from __future__ import annotations

from pathlib import Path

from e2e.cluster import tools
from e2e.cluster.target import Target
from e2e.demo import farewell


def test_the_commands_that_are_shown_work_on_a_machine_without_a_kubectl_of_its_own() -> None:
    lines = farewell(Target(Path("/home/me/kubeconfig"), "mine"), 61.4).splitlines()
    assert lines[0].startswith("Done in 61 s.")
    where = "--kubeconfig /home/me/kubeconfig --context mine -n lepton-demo"
    for line, command in zip(lines[1:], ("get tj,lm,lisvc,pods", "delete -f"), strict=True):
        assert f"{tools.path('kubectl')} {where} {command}" in line
    assert tools.path("kubectl").is_absolute()
