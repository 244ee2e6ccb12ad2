from __future__ import annotations

import os
from pathlib import Path

import pytest

from lepton_ai.recipes.ranks import Rank, available_cores, machine, threads_per_rank


def test_a_process_without_torchrun_is_a_gang_of_one() -> None:
    alone = Rank.from_environment({})

    assert alone == Rank(rank=0, local_rank=0, world_size=1)
    assert alone.leads


def test_a_rank_is_what_torchrun_says() -> None:
    third = Rank.from_environment({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"})

    assert third == Rank(rank=2, local_rank=0, world_size=4)
    assert not third.leads


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        pytest.param({"cpu.max": "100000 100000"}, 1, id="cgroup v2 with a limit of one core"),
        pytest.param({"cpu.max": "50000 100000"}, 1, id="cgroup v2 with half a core"),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            1,
            id="cgroup v1 with a limit of one core",
        ),
    ],
)
def test_a_container_keeps_within_its_limit(
    tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)

    assert available_cores(tmp_path) == cores


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({}, id="no cgroup"),
        pytest.param({"cpu.max": "max 100000"}, id="cgroup v2 without a limit"),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            id="cgroup v1 without a limit",
        ),
    ],
)
def test_without_a_limit_all_cores_of_the_affinity_count(
    tmp_path: Path, files: dict[str, str]
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)

    assert available_cores(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cores", "ranks", "threads"),
    [
        pytest.param(8, 2, 4, id="cores are shared out evenly"),
        pytest.param(2, 2, 1, id="one each"),
        pytest.param(2, 4, 1, id="at least one, where ranks outnumber cores"),
        pytest.param(7, 2, 3, id="a core that cannot be shared stays free"),
    ],
)
def test_threads_of_a_rank(cores: int, ranks: int, threads: int) -> None:
    assert threads_per_rank(cores, ranks) == threads


def test_a_machine_is_the_same_one_when_asked_twice() -> None:
    assert machine()
    assert machine() == machine()
