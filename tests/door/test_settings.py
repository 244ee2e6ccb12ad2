"""What the container gives the door: environment and limits."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from images.door.errors import DoorError
from images.door.settings import cpu_limit, memory_limit_bytes, most_connections, read

GIVEN = {
    "XDS_ADDRESS": "lepton-operator-xds.lepton-system.svc:18000",
    "DRAIN_TIMEOUT_SECONDS": "300",
}
MIB = 2**20


def group(folder: Path, **files: str) -> Path:
    """A control group; `__` in a name stands for `/`, and the last `_` for the dot."""
    for name, content in files.items():
        *folders, file = name.split("__")
        path = folder.joinpath(*folders, file.replace("_", ".", 1))
        path.parent.mkdir(exist_ok=True)
        path.write_text(content + "\n")
    return folder


def test_the_container_says_who_the_operator_is_and_how_long_a_drain_takes(tmp_path: Path) -> None:
    found = read(GIVEN, tmp_path)
    assert (found.xds_host, found.xds_port) == ("lepton-operator-xds.lepton-system.svc", 18000)
    assert found.drain_timeout_seconds == 300


@pytest.mark.parametrize(
    ("files", "limit_bytes"),
    [
        ({}, None),
        ({"memory_max": "max"}, None),
        ({"memory_max": "536870912"}, 512 * MIB),
        ({"memory__memory_limit_in_bytes": "9223372036854771712"}, None),
        ({"memory__memory_limit_in_bytes": "536870912"}, 512 * MIB),
    ],
    ids=["no group", "v2 without", "v2", "v1 without", "v1"],
)
def test_the_memory_limit_is_the_control_groups(
    tmp_path: Path, files: dict[str, str], limit_bytes: int | None
) -> None:
    assert memory_limit_bytes(group(tmp_path, **files)) == limit_bytes


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, None),
        ({"cpu_max": "max 100000"}, None),
        ({"cpu_max": "150000 100000"}, 1.5),
        ({"cpu__cpu_cfs_quota_us": "-1", "cpu__cpu_cfs_period_us": "100000"}, None),
        ({"cpu__cpu_cfs_quota_us": "150000", "cpu__cpu_cfs_period_us": "100000"}, 1.5),
    ],
    ids=["no group", "v2 without", "v2", "v1 without", "v1"],
)
def test_the_cpu_limit_is_the_control_groups(
    tmp_path: Path, files: dict[str, str], cpus: float | None
) -> None:
    assert cpu_limit(group(tmp_path, **files)) == cpus


def test_the_heap_is_what_the_limit_leaves(tmp_path: Path) -> None:
    assert read(GIVEN, group(tmp_path, memory_max=str(512 * MIB))).heap_bytes == 448 * MIB
    assert read(GIVEN, tmp_path / "none").heap_bytes is None


@pytest.mark.parametrize(
    ("heap_bytes", "files", "connections"),
    [
        (448 * MIB, 2**20, 7168),
        (448 * MIB, 20_000, 5000),
        (None, 2**20, 50_000),
        (2**40, resource.RLIM_INFINITY, 50_000),
    ],
    ids=["memory is short", "files are short", "no memory limit", "no limit at all"],
)
def test_connections_fit_into_memory_and_open_files(
    heap_bytes: int | None, files: int, connections: int
) -> None:
    assert most_connections(heap_bytes, files) == connections


def test_there_is_a_thread_for_each_cpu_of_the_limit(tmp_path: Path) -> None:
    assert read(GIVEN, group(tmp_path, cpu_max="150000 100000")).threads == 2
    assert 1 <= read(GIVEN, tmp_path / "none").threads <= 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"XDS_ADDRESS": ""}, "XDS_ADDRESS is not set: the manifest of the door's pods"),
        ({"XDS_ADDRESS": "operator"}, "XDS_ADDRESS is 'operator', but must be host:port."),
        ({"DRAIN_TIMEOUT_SECONDS": ""}, "DRAIN_TIMEOUT_SECONDS is not set"),
        ({"DRAIN_TIMEOUT_SECONDS": "5m"}, "'5m', but must be a number of seconds."),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(DoorError) as refused:
        read({**GIVEN, **changes}, tmp_path)
    assert sentence in str(refused.value)


def test_a_limit_that_envoy_cannot_live_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DoorError, match=r"of 96 MiB is too small for Envoy: set .* to 128Mi"):
        read(GIVEN, group(tmp_path, memory_max=str(96 * MIB)))
