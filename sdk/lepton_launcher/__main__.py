"""The command line. `run` is for people and pods; `agent` and `rank` are started by `run`."""

from __future__ import annotations

import importlib
import sys

_MODULES = {"run": "supervisor", "agent": "agent", "rank": "rank"}


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["run"]
    if command not in _MODULES:
        command, rest = "run", ["--help"]
    # Imported by name: a rank must not pay for the modules of PID 1.
    module = importlib.import_module(f"lepton_launcher.{_MODULES[command]}")
    code: int = module.main(rest)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
