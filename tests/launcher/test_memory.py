from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lepton_launcher.memory import oom_kills

if TYPE_CHECKING:
    from pathlib import Path

V2 = "low 0\nhigh 0\nmax 31\noom 2\noom_kill 2\noom_group_kill 0\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        pytest.param(V2, 2, id="cgroup v2"),
        pytest.param(V1, 3, id="cgroup v1"),
        pytest.param("oom_kill_disable 0\nunder_oom 0\n", 0, id="a kernel that does not count"),
        pytest.param("oom_kill many\n", 0, id="no number"),
    ],
)
def test_kills_are_counted_by_the_kernel(tmp_path: Path, text: str, count: int) -> None:
    counter = tmp_path / "counter"
    counter.write_text(text)
    assert oom_kills([tmp_path / "missing", counter]) == count


def test_nobody_counts_where_there_is_no_such_group(tmp_path: Path) -> None:
    assert oom_kills([tmp_path / "missing"]) == 0
