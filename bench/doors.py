"""When the doors of a namespace have what they are to serve, by the word of their own Envoys.

The pods behind them are fake and answer nobody. So a time ends with the listener of a service and
its ready endpoints in every door: all that a request needs but a pod that answers.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.kubectl import Kubectl

_WITHIN = (Path(__file__).parent / "within_door.py").read_text()
_DEPLOYMENT = "deployment/lepton-door"
_PODS = "lepton.ai/role=door"
_LIMIT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Look:
    """Processes in every door that look until it has what is waited for."""

    processes: tuple[subprocess.Popen[str], ...]

    def end(self) -> float:
        """Wait; return when the last door had it, in seconds since 1970."""
        return max(float(_line(each)) for each in self.processes)


def doors(kubectl: Kubectl) -> tuple[str, ...]:
    """Wait until the doors take requests; return the names of their pods."""
    for wait in (("wait", "--for=create", _DEPLOYMENT), ("rollout", "status", _DEPLOYMENT)):
        kubectl.run(*wait, f"--timeout={_LIMIT_SECONDS}s", timeout_seconds=_LIMIT_SECONDS + 10)
    return tuple(each["metadata"]["name"] for each in kubectl.list("pods", _PODS))


def look(
    kubectl: Kubectl, names: Iterable[str], *, pods: int, services: int = 1, service: str = ""
) -> Look:
    """Look in these doors for so many services of so many ready pods each, or for one by name."""
    asked = (str(services), str(pods), *([service] if service else []))
    command = ("python", "-c", _WITHIN, *asked)
    found = tuple(kubectl.start("exec", each, "--", *command) for each in names)
    for each in found:
        _line(each)  # it looks
    return Look(found)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"Looking into a door ended with code {process.wait()}.")
    return line
