"""Ranks save in the object store through their pod's sidecar: a real one, over a real S3 server."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lepton_ai.checkpoints.archive import Archive
from lepton_ai.checkpoints.manifest import Attempt, AttemptClosedError, CheckpointError, Manifest
from lepton_ai.checkpoints.manifest import Place as CheckpointPlace
from lepton_ai.checkpoints.relay import Relay
from tests.agent.gateway import Gateway
from tests.agent.pods import UID, SidecarPod, sidecar
from tests.agent.stores import StoreUnderTest
from tests.agent.test_telemetry import PROGRESS, answer, leave

URI = "lepton-store://checkpoints"
FIRST, SECOND = Attempt(1, 0), Attempt(2, 0)
MIB = 1024 * 1024


def as_ranks(pod: SidecarPod) -> Archive:
    """The archive as the pod's ranks see it."""
    return Archive(Relay(pod.folder / "exchange" / "checkpoints.sock", f"{URI}/{UID}"))


def save(archive: Archive, step: int, attempt: Attempt, content: bytes) -> Manifest:
    place = CheckpointPlace(step, attempt)
    with archive.storage.create(f"{place.folder}/rank-0.distcp") as file:
        file.write(content)
    manifest = Manifest(
        step=step,
        attempt=attempt.number,
        generation=attempt.generation,
        world_size=1,
        model_fingerprint="ours",
        created=datetime.now(UTC),
        save_seconds=0.5,
        files=(file.stored(),),
    )
    archive.publish(manifest)
    return manifest


def whole(archive: Archive, attempt: Attempt) -> list[int]:
    """The steps of what an attempt may begin with, after all files were read."""
    found = []
    for offer in archive.offers(attempt):
        if offer.manifest is None:
            continue
        try:
            archive.check_files(offer.manifest)
        except CheckpointError:
            continue
        found.append(offer.place.step)
    return found


def test_a_pod_on_another_node_goes_on_from_what_the_one_before_saved(
    s3_store: StoreUnderTest, tmp_path: Path
) -> None:
    large = bytes(range(256)) * 4096 * 40  # several parts of an upload
    with sidecar(s3_store, tmp_path / "a", model=None, checkpoint_uri=URI) as pod:
        first = as_ranks(pod)
        first.begin(FIRST, None)
        for step in (10, 20):
            save(first, step, FIRST, large)
    with sidecar(s3_store, tmp_path / "b", attempt=2, model=None, checkpoint_uri=URI) as pod:
        assert whole(as_ranks(pod), SECOND) == [20, 10]
    below = s3_store.objects / "checkpoints"
    assert [each.name for each in below.iterdir()] == [UID]
    assert not any(UID in each.name for each in s3_store.objects.iterdir())


def test_a_damaged_one_is_left_for_the_one_before(s3_store: StoreUnderTest, tmp_path: Path) -> None:
    with sidecar(s3_store, tmp_path / "pod", model=None, checkpoint_uri=URI) as pod:
        archive = as_ranks(pod)
        archive.begin(FIRST, None)
        for step in (10, 20):
            save(archive, step, FIRST, b"weights")
        place = CheckpointPlace(20, FIRST)
        stored = s3_store.objects / "checkpoints" / UID / place.folder / "rank-0.distcp"
        stored.write_bytes(b"WEIGHTS")
        assert whole(archive, SECOND) == [10]


def test_a_late_write_of_an_attempt_that_is_closed_makes_no_checkpoint(
    s3_store: StoreUnderTest, tmp_path: Path
) -> None:
    with (
        sidecar(s3_store, tmp_path / "a", model=None, checkpoint_uri=URI) as cut_off,
        sidecar(s3_store, tmp_path / "b", attempt=2, model=None, checkpoint_uri=URI) as pod,
    ):
        old, new = as_ranks(cut_off), as_ranks(pod)
        old.begin(FIRST, None)
        base = save(old, 10, FIRST, b"weights")
        new.begin(SECOND, base.place)
        with pytest.raises(AttemptClosedError, match="attempt 2-0 has begun"):
            save(old, 20, FIRST, b"late")
        assert whole(new, Attempt(3, 0)) == [10]


def test_a_store_that_refuses_in_the_middle_of_a_save_costs_that_save_alone(
    gateway: Gateway, s3_store: StoreUnderTest, tmp_path: Path
) -> None:
    with sidecar(s3_store, tmp_path / "pod", model=None, checkpoint_uri=URI) as pod:
        archive = as_ranks(pod)
        archive.begin(FIRST, None)
        save(archive, 10, FIRST, b"weights")
        gateway.refuse_writes_above(16 * 1024)
        try:
            with pytest.raises(CheckpointError, match="does not do what is asked"):
                save(archive, 20, FIRST, bytes(40 * 1024 * 1024))
        finally:
            gateway.refuse_writes_above(-1)
        assert whole(archive, SECOND) == [10]
        save(archive, 30, FIRST, b"again")
        assert whole(archive, SECOND) == [30, 10]


@pytest.mark.parametrize(
    "path",
    [
        f"../../runs/{UID}/success.json",
        "../success.json",
        "step-000000001/attempt-1-0/..",
        "step-000000001/attempt-1-0/../../../a/b",
        "models/team/digits/versions/1.json",
        "attempts/attempt-1-0.json/../x",
        "",
    ],
)
def test_nothing_else_in_the_store_is_reached(
    s3_store: StoreUnderTest, tmp_path: Path, path: str
) -> None:
    with sidecar(s3_store, tmp_path / "pod", model=None, checkpoint_uri=URI) as pod:
        storage = as_ranks(pod).storage
        with pytest.raises(CheckpointError, match="hands on nothing else"):
            storage.put_new(path, b"forged")
        with pytest.raises(CheckpointError, match="hands on nothing else"):
            storage.remove_folder(path)
    assert not list(s3_store.objects.rglob("*.json"))


def test_a_rank_that_dies_while_it_saves_leaves_no_checkpoint(
    s3_store: StoreUnderTest, tmp_path: Path
) -> None:
    with sidecar(s3_store, tmp_path / "pod", model=None, checkpoint_uri=URI) as pod:
        archive = as_ranks(pod)
        archive.begin(FIRST, None)
        with socket.socket(socket.AF_UNIX) as rank:
            rank.connect(str(pod.folder / "exchange" / "checkpoints.sock"))
            folder = CheckpointPlace(10, FIRST).folder
            rank.sendall(f"PUT /{folder}/rank-0.distcp HTTP/1.1\r\n".encode())
            rank.sendall(b"Transfer-Encoding: chunked\r\n\r\n7\r\nwei")
        save(archive, 20, FIRST, b"weights")
        assert whole(archive, SECOND) == [20]


def test_many_large_files_at_once_take_little_memory(
    s3_store: StoreUnderTest, tmp_path: Path
) -> None:
    part = memoryview(bytes(MIB))

    def write(rank: int) -> None:
        with storage.create(f"{CheckpointPlace(10, FIRST).folder}/rank-{rank}.distcp") as file:
            for _ in range(96):
                file.write(part)

    with sidecar(s3_store, tmp_path / "pod", model=None, checkpoint_uri=URI) as pod:
        storage = as_ranks(pod).storage
        assert storage.paths() == []
        before = peak_bytes(pod)
        with ThreadPoolExecutor(6) as ranks:
            list(ranks.map(write, range(6)))
        assert peak_bytes(pod) - before < 192 * MIB


def peak_bytes(pod: SidecarPod) -> int:
    """The most memory that the sidecar has held so far."""
    status = Path(f"/proc/{pod.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


@pytest.mark.parametrize("size_bytes", [0, 1000, 9 * 1024 * 1024])
def test_what_ends_too_early_is_never_filled_up(
    s3_store: StoreUnderTest, tmp_path: Path, size_bytes: int
) -> None:
    with sidecar(s3_store, tmp_path / "pod", model=None, checkpoint_uri=URI) as pod:
        storage = as_ranks(pod).storage
        path = f"{CheckpointPlace(10, FIRST).folder}/rank-0.distcp"
        with storage.create(path) as file:
            file.write(bytes(size_bytes))
        assert storage.read(path, 0, size_bytes) == bytes(size_bytes)
        with pytest.raises(CheckpointError):
            storage.read(path, 0, size_bytes + 100)


def test_a_sidecar_that_is_started_again_goes_on(s3_store: StoreUnderTest, tmp_path: Path) -> None:
    for step in (10, 20):
        with sidecar(s3_store, tmp_path / "pod", model=None, checkpoint_uri=URI) as pod:
            archive = as_ranks(pod)
            if step == 10:
                archive.begin(FIRST, None)
            save(archive, step, FIRST, b"weights")
    with sidecar(s3_store, tmp_path / "pod", model=None, checkpoint_uri=URI) as pod:
        assert whole(as_ranks(pod), SECOND) == [20, 10]


def test_what_rank_0_says_of_a_failed_save_is_told(
    folder_store: StoreUnderTest, tmp_path: Path
) -> None:
    with sidecar(folder_store, tmp_path / "pod", model=None, checkpoint_uri=URI) as pod:
        pod.start()
        leave(pod, PROGRESS)
        (pod.folder / "exchange" / "checkpoint-problem").write_text("The store is full.")
        assert json.loads(answer(pod, "/progress")[1])["checkpointProblem"] == "The store is full."
        (pod.folder / "exchange" / "checkpoint-problem").unlink()
        assert "checkpointProblem" not in json.loads(answer(pod, "/progress")[1])


def test_a_link_to_what_a_script_may_not_read_is_not_followed(
    s3_store: StoreUnderTest, tmp_path: Path
) -> None:
    with sidecar(s3_store, tmp_path / "pod", model=None) as pod:
        pod.start()
        leave(pod, PROGRESS)
        (pod.folder / "exchange" / "checkpoint-problem").symlink_to(
            tmp_path / "secret" / "secretKey"
        )
        assert "checkpointProblem" not in json.loads(answer(pod, "/progress")[1])


def test_a_plain_script_that_trains_and_saves_nothing_there_is_told_of(
    s3_store: StoreUnderTest, tmp_path: Path
) -> None:
    plain = {key: PROGRESS[key] for key in ("attempt", "generation", "phase", "step")}
    with sidecar(s3_store, tmp_path / "pod", model=None, checkpoint_uri=URI) as pod:
        pod.start()
        leave(pod, plain)
        found = json.loads(answer(pod, "/progress")[1])
        assert "only the SDK's Checkpointer" in found["checkpointProblem"]
        as_ranks(pod).next_attempt()
        assert "checkpointProblem" not in json.loads(answer(pod, "/progress")[1])
