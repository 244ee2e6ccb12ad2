"""Starts operators by fork, in milliseconds: `python -m tests.resilience.nursery MODULE`.

A kill point takes as long as the operator needs to be back, and two thirds of that is importing
Kopf, pydantic and the client. This process has imported them and done nothing else with them, so
what it forks is an operator just after its imports. MODULE is the one whose `main` is called:
lepton_operator.__main__, or one of tests/resilience/broken.

Each line of standard input is an order, {"arguments": [...], "environment": {...}, "log": "path"};
each is answered by a line with the pid.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PRELOADED = ("lepton_operator.run", "lepton_operator.plans")


def main(module: str) -> None:
    """Serve orders until standard input ends."""
    operate = importlib.import_module(module).main
    for each in _PRELOADED:
        importlib.import_module(each)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries those that were killed
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(operate, json.loads(line))
        print(pid, flush=True)


def _become(operate: Callable[[list[str]], int], order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # no operator outlives its tests
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.update(order["environment"])
    os._exit(operate(order["arguments"]))


if __name__ == "__main__":
    main(sys.argv[1])
