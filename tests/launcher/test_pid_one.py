"""The launcher as PID 1 of a process namespace, as in a container."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Pod

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
ORPHANS = """
import os, pathlib, time
for _ in range(50):
    if os.fork() == 0:
        os.fork()
        os._exit(0)
    os.wait()
def others():
    pids = {int(folder.name) for folder in pathlib.Path("/proc").glob("[0-9]*")}
    return sorted(pids - {1, os.getpid()})
deadline = time.monotonic() + 10
while others() and time.monotonic() < deadline:
    time.sleep(0.01)
print(others(), os.getppid())
"""


@pytest.fixture
def namespace() -> list[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = [NAMESPACE[0], *user, *NAMESPACE[1:]]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a process namespace")
    return command


def test_it_reaps_every_orphan_while_the_rank_goes_on(pod: Pod, namespace: list[str]) -> None:
    pod.run(pod.script(ORPHANS), through=namespace).begin().agree()
    assert pod.wait() == 0
    assert pod.stdout == b"[] 1\n"


def test_the_rank_may_be_killed_without_an_end_of_pid_1(pod: Pod, namespace: list[str]) -> None:
    pod.run(pod.script("import os; os.kill(os.getpid(), 9)"), through=namespace).begin().agree()
    assert pod.message()["signal"] == 9
    assert pod.wait() == 137
