"""Which checkpoints count, on a real folder and in a real S3 server."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e.cluster.ports import free_port
from lepton_ai.agent.checkpoint_relay import CheckpointRelay
from lepton_ai.checkpoints.archive import Archive
from lepton_ai.checkpoints.manifest import (
    Attempt,
    AttemptClosedError,
    Beginning,
    CheckpointError,
    Contents,
    Manifest,
    Place,
    StoredFile,
    line_of,
)
from lepton_ai.checkpoints.relay import Relay
from lepton_ai.checkpoints.storage import Storage, Volume, open_storage, sha256_of
from tests.agent.gateway import ACCESS_KEY, SECRET_KEY, Gateway, write_secret

FIRST, SECOND, THIRD = Attempt(1, 0), Attempt(1, 1), Attempt(2, 0)
CONTENT = b"weights" * 100
FOLDER = Place(7, FIRST).folder
FILE = f"{FOLDER}/rank-0.distcp"


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(free_port(), tmp_path_factory.mktemp("gateway")).running() as running:
        yield running


@pytest.fixture(params=["volume", "bucket", "sidecar"])
def storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Storage:
    """A place as a rank opens it, with a prefix of its own for each test."""
    if request.param == "volume":
        return open_storage((tmp_path / "check points").as_uri(), "run")
    gateway: Gateway = request.getfixturevalue("gateway")
    bucket = f"checkpoints-{uuid.uuid4().hex[:8]}"
    gateway.make_bucket(bucket)
    secret = write_secret(
        tmp_path / "secret",
        url=f"s3://{bucket}",
        endpoint=gateway.endpoint,
        region="us-east-1",
        accessKey=ACCESS_KEY,
        secretKey=SECRET_KEY,
    )
    monkeypatch.setenv("LEPTON_STORE", str(secret))
    if request.param == "sidecar":
        CheckpointRelay("lepton-store://team/", "run").serve(tmp_path / "socket")
        return Relay(tmp_path / "socket", f"s3://{bucket}/team/run")
    return open_storage(f"s3://{bucket}/team/", "run")


@pytest.fixture
def archive(storage: Storage) -> Archive:
    return Archive(storage)


def written(archive: Archive, step: int, attempt: Attempt, fingerprint: str = "ours") -> Manifest:
    """The files of a checkpoint, and the manifest that is still to be published."""
    place = Place(step, attempt)
    with archive.storage.create(f"{place.folder}/rank-0.distcp") as file:
        file.write(CONTENT[:50])
        file.write(CONTENT[50:])
    return Manifest(
        step=step,
        attempt=attempt.number,
        generation=attempt.generation,
        world_size=1,
        model_fingerprint=fingerprint,
        created=datetime.now(UTC),
        save_seconds=1.5,
        files=(file.stored(),),
    )


def saved(archive: Archive, *steps: int, attempt: Attempt = FIRST) -> None:
    for step in steps:
        archive.publish(written(archive, step, attempt))


def steps_offered(archive: Archive, attempt: Attempt) -> list[int]:
    return [offer.place.step for offer in archive.offers(attempt) if offer.counts]


def test_what_is_written_is_what_its_digest_says(storage: Storage) -> None:
    with storage.create(FILE) as file:
        file.write(CONTENT)

    assert file.stored() == StoredFile(
        path="rank-0.distcp", sha256=hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT)
    )
    assert storage.get(FILE) == CONTENT
    assert storage.read(FILE, 3, 5) == CONTENT[3:8]
    assert storage.size_bytes(FILE) == len(CONTENT)
    assert storage.paths() == [FILE]


def test_a_file_of_many_parts_comes_back(storage: Storage) -> None:
    part = bytes(range(256)) * 4096 * 7
    with storage.create(FILE) as file:
        for _ in range(3):
            file.write(part)

    stored = file.stored()
    assert stored.size_bytes == 3 * len(part)
    assert sha256_of(storage, FILE, stored.size_bytes) == stored.sha256


def test_a_buffer_may_be_used_again_once_it_is_written(storage: Storage) -> None:
    buffer = bytearray(b"a" * 1000)
    with storage.create(FILE) as file:
        for letter in b"abc":
            buffer[:] = bytes([letter]) * 1000
            file.write(memoryview(buffer))
        buffer[:] = bytes(1000)

    assert storage.get(FILE) == b"a" * 1000 + b"b" * 1000 + b"c" * 1000


def test_a_store_that_refuses_says_so(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = write_secret(
        tmp_path / "secret",
        url="s3://bucket",
        endpoint=gateway.endpoint,
        accessKey=ACCESS_KEY,
        secretKey="not the one",
    )
    monkeypatch.setenv("LEPTON_STORE", str(secret))

    with pytest.raises(CheckpointError, match="refuses our credentials"):
        open_storage("s3://bucket", "run").put_new("a", b"content")


def test_what_is_not_there_is_none(storage: Storage) -> None:
    assert storage.get(FILE) is None
    assert storage.size_bytes(FILE) is None
    assert storage.paths() == []
    storage.remove_folder(FOLDER)


def test_a_manifest_is_created_and_never_overwritten(storage: Storage) -> None:
    assert storage.put_new(FIRST.record, b"first")
    assert not storage.put_new(FIRST.record, b"second")
    assert storage.get(FIRST.record) == b"first"


def test_a_checkpoint_exists_when_its_manifest_does(archive: Archive) -> None:
    manifest = written(archive, 10, FIRST)
    assert steps_offered(archive, SECOND) == []

    archive.begin(FIRST, None)
    archive.publish(manifest)

    (offer,) = archive.offers(SECOND)
    assert offer.manifest == manifest
    archive.check_files(manifest)


def test_one_without_a_manifest_is_said_to_be_unfinished(archive: Archive) -> None:
    archive.begin(FIRST, None)
    saved(archive, 10)
    written(archive, 20, FIRST)

    unfinished, whole = archive.offers(SECOND)

    assert "step 20 of attempt 1-0 has no manifest" in unfinished.problem
    assert not unfinished.counts
    assert whole.place.step == 10


def test_what_a_closed_attempt_still_writes_does_not_count(archive: Archive) -> None:
    archive.begin(FIRST, None)
    saved(archive, 10, 20)
    late = written(archive, 30, FIRST)
    archive.begin(SECOND, Place(20, FIRST))

    with pytest.raises(AttemptClosedError, match="attempt 1-1 has begun"):
        archive.publish(late)
    archive.storage.put_new(late.place.manifest, late.encoded())  # it had looked a moment before

    refused, *counting = archive.offers(THIRD)
    assert "completed after that attempt was closed" in refused.problem
    assert [offer.place.step for offer in counting] == [20, 10]


def test_a_closed_attempt_removes_nothing(archive: Archive) -> None:
    archive.begin(FIRST, None)
    saved(archive, 10, 20)
    newest = written(archive, 30, FIRST)
    archive.publish(newest)
    archive.begin(SECOND, Place(10, FIRST))

    with pytest.raises(AttemptClosedError):
        archive.retain(1, newest)

    assert steps_offered(archive, THIRD) == [10]


def test_a_closed_attempt_cannot_begin_again(archive: Archive) -> None:
    archive.begin(FIRST, None)
    archive.begin(SECOND, None)

    with pytest.raises(AttemptClosedError):
        list(archive.offers(FIRST))


def test_two_cannot_be_one_attempt(archive: Archive) -> None:
    archive.begin(FIRST, None)

    with pytest.raises(CheckpointError, match="Give each a uri of its own"):
        archive.begin(FIRST, None)


def test_the_last_few_are_kept_over_attempts_and_leftovers_go(archive: Archive) -> None:
    archive.begin(FIRST, None)
    saved(archive, 10, 20, 30)
    written(archive, 40, FIRST)
    archive.begin(SECOND, Place(20, FIRST))
    newest = written(archive, 40, SECOND)
    archive.publish(newest)

    archive.retain(2, newest)

    assert steps_offered(archive, THIRD) == [40, 20]
    assert {path.split("/")[0] for path in archive.storage.paths()} == {
        "attempts",
        "step-000000020",
        "step-000000040",
    }


def test_the_checkpoint_of_another_model_is_not_ours_to_remove(archive: Archive) -> None:
    archive.begin(FIRST, None)
    archive.publish(written(archive, 10, FIRST, "another model"))
    newest = written(archive, 20, FIRST)
    archive.publish(newest)

    archive.retain(1, newest)

    assert steps_offered(archive, SECOND) == [20, 10]


def test_ranks_that_do_not_share_the_place_are_told_so(archive: Archive) -> None:
    archive.begin(FIRST, None)
    manifest = written(archive, 10, FIRST)
    elsewhere = StoredFile(path="rank-1.distcp", sha256="0" * 64, size_bytes=10)

    with pytest.raises(CheckpointError, match="the ranks do not share"):
        archive.publish(manifest.model_copy(update={"files": (*manifest.files, elsewhere)}))

    assert steps_offered(archive, SECOND) == []


def test_on_a_laptop_each_start_is_the_next_attempt(archive: Archive) -> None:
    assert archive.next_attempt() == (0, 0)
    archive.begin(THIRD, None)
    assert archive.next_attempt() == (3, 0)


def test_a_beginning_that_cannot_be_read_hides_nothing(archive: Archive) -> None:
    archive.begin(FIRST, None)
    saved(archive, 10)
    archive.storage.put_new(SECOND.record, b"cut")

    assert steps_offered(archive, THIRD) == [10]


@given(data=st.data())
def test_the_line_is_what_each_attempt_went_on_from(data: st.DataObject) -> None:
    """Attempts train on from a checkpoint on the line before them, and die; some write on."""
    beginnings: dict[Attempt, Beginning | None] = {}
    complete: set[Place] = set()
    line: list[Place] = []
    for number in range(data.draw(st.integers(1, 6))):
        attempt = Attempt(number, 0)
        line = line[data.draw(st.integers(0, len(line))) :]
        base = line[0] if line else None
        beginnings[attempt] = beginning(base)
        first = base.step if base else 0
        steps = data.draw(st.lists(st.integers(first + 1, first + 20), unique=True, max_size=4))
        line = [Place(step, attempt) for step in sorted(steps, reverse=True)] + line
        complete |= set(line)
        if base is not None and base.attempt < attempt:
            complete.add(Place(base.step + data.draw(st.integers(1, 50)), base.attempt))
    last = max(beginnings)

    assert list(line_of(last, complete, beginnings)) == line


def beginning(base: Place | None) -> Beginning:
    now = datetime.now(UTC)
    if base is None:
        return Beginning(created=now)
    number, generation = base.attempt
    return Beginning(created=now, step=base.step, attempt=number, generation=generation)


def test_other_files_in_the_place_are_nobody_s_checkpoint() -> None:
    contents = Contents.of(["notes.txt", "step-1/attempt-1-0/manifest.json", "attempts/x.json"])

    assert contents == (frozenset(), frozenset(), frozenset())


@pytest.mark.parametrize("uri", ["", "checkpoints", "ftp://somewhere/else", "s3://"])
def test_an_address_that_is_none_is_refused_with_a_sentence(uri: str) -> None:
    with pytest.raises(CheckpointError, match="An address begins with"):
        open_storage(uri, "run")


@pytest.fixture
def unwritable(tmp_path: Path) -> Volume:
    (tmp_path / "file").write_bytes(b"")
    return Volume(tmp_path / "file" / "run")


def test_a_volume_that_cannot_be_written_says_so(unwritable: Volume) -> None:
    with pytest.raises(CheckpointError, match="does not do what is asked"):
        unwritable.put_new("a", b"content")


def test_attempts_that_were_interrupted_are_counted_from_the_one_that_is_asked_for(
    archive: Archive,
) -> None:
    hour_ago = Beginning(created=datetime.now(UTC) - timedelta(hours=1))
    for attempt in (Attempt(1, 0), Attempt(2, 0), Attempt(2, 1)):
        archive.storage.put_new(attempt.record, hour_ago.encoded())
    archive.begin(Attempt(3, 0), None)

    failures, seconds = archive.interruptions(2, Attempt(3, 0))

    assert failures == 2
    assert seconds == pytest.approx(3600, abs=30)
    assert archive.interruptions(3, Attempt(3, 0)) == (0, 0.0)
