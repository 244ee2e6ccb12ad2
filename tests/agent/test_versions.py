from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lepton_ai.model_folder import read_manifest
from lepton_ai.onnx_model import Limits
from lepton_ai.record import DigestMismatchError, SourceNotFoundError
from lepton_ai.store import StoreUnavailableError
from lepton_ai.versions import (
    EvaluationRecord,
    Manifest,
    ModelVersions,
    Version,
    canonical_json,
)
from tests.agent.stores import StoreUnderTest

WRITERS = 8


@pytest.fixture(scope="module")
def manifest(digits: Path) -> Manifest:
    return read_manifest(digits, Limits())


def versions_of(store: StoreUnderTest, name: str = "digits") -> ModelVersions:
    return ModelVersions(store.open(), "team", name)


def publish(versions: ModelVersions, identity: str, manifest: Manifest, folder: Path) -> Version:
    return versions.publish(identity, manifest, folder, {"accuracy": 0.9}, {"uid": identity})


def test_versions_count_from_one_and_a_run_makes_one(
    any_store: StoreUnderTest, manifest: Manifest, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(10)  # each look at the clock meets another one
    monkeypatch.setattr("lepton_ai.versions.now", lambda: f"2026-11-22T04:00:{next(seconds)}Z")
    versions = versions_of(any_store)
    made = [publish(versions, run, manifest, digits) for run in ("a", "b", "a")]
    assert [version.version for version in made] == [1, 2, 1]
    assert versions.numbers() == [2, 1]
    found = versions.find("b")
    assert found is not None
    assert found == made[1]
    assert versions.find("c") is None


def test_equal_bytes_of_two_runs_have_one_digest_and_one_set_of_blobs(
    any_store: StoreUnderTest, manifest: Manifest, digits: Path
) -> None:
    versions = versions_of(any_store)
    first, second = (publish(versions, run, manifest, digits) for run in ("a", "b"))
    assert first.digest == second.digest == manifest.digest
    assert first.lineage != second.lineage
    assert len(any_store.open().paths_below("models/team/digits/blobs")) == len(manifest.files)


def test_writers_at_the_same_time_get_a_version_each(
    any_store: StoreUnderTest, manifest: Manifest, digits: Path
) -> None:
    with ThreadPoolExecutor(WRITERS) as pool:
        made = list(
            pool.map(
                lambda run: publish(versions_of(any_store), f"run-{run}", manifest, digits),
                range(WRITERS),
            )
        )
    assert sorted(version.version for version in made) == list(range(1, WRITERS + 1))
    assert versions_of(any_store).numbers() == list(range(WRITERS, 0, -1))


def test_one_run_that_is_handed_over_many_times_at_once_is_one_version(
    any_store: StoreUnderTest, manifest: Manifest, digits: Path
) -> None:
    publish(versions_of(any_store), "another", manifest, digits)
    with ThreadPoolExecutor(WRITERS) as pool:
        made = list(
            pool.map(
                lambda _: publish(versions_of(any_store), "run", manifest, digits), range(WRITERS)
            )
        )
    assert {version.version for version in made} == {2}
    assert versions_of(any_store).numbers() == [2, 1]


def test_the_digest_is_that_of_the_manifest_in_canonical_json(manifest: Manifest) -> None:
    shuffled = json.loads(json.dumps(manifest.to_dict(), sort_keys=False))
    assert Manifest.model_validate(shuffled).digest == manifest.digest
    assert canonical_json({"b": "é", "a": [1, None]}) == '{"a":[1,null],"b":"é"}'.encode()


def test_a_version_is_refused_under_another_digest(
    folder_store: StoreUnderTest, manifest: Manifest, digits: Path
) -> None:
    versions = versions_of(folder_store)
    publish(versions, "run", manifest, digits)
    with pytest.raises(DigestMismatchError, match="A version never changes"):
        versions.read_exactly(1, "sha256:" + "0" * 64)
    with pytest.raises(SourceNotFoundError, match="no version 7 of the model digits"):
        versions.read_exactly(7, manifest.digest)


def test_a_download_is_whole_or_not_there(
    any_store: StoreUnderTest, manifest: Manifest, digits: Path, tmp_path: Path
) -> None:
    versions = versions_of(any_store)
    version = publish(versions, "run", manifest, digits)
    target = tmp_path / "model.onnx"
    target.write_bytes(b"half of it")
    versions.download(version, "model.onnx", target)
    assert target.read_bytes() == (digits / "model.onnx").read_bytes()
    assert list(tmp_path.glob(".*.partial")) == []


def test_what_is_here_already_is_not_downloaded_again(
    folder_store: StoreUnderTest, manifest: Manifest, digits: Path, tmp_path: Path
) -> None:
    versions = versions_of(folder_store)
    version = publish(versions, "run", manifest, digits)
    versions.download(version, "model.onnx", tmp_path / "model.onnx")
    for blob in (folder_store.objects / "models/team/digits/blobs").iterdir():
        blob.unlink()
    versions.download(version, "model.onnx", tmp_path / "model.onnx")
    with pytest.raises(SourceNotFoundError, match=r"bytes of model\.onnx of version 1 .* missing"):
        versions.download(version, "model.onnx", tmp_path / "elsewhere.onnx")


def test_damaged_bytes_are_never_taken(
    folder_store: StoreUnderTest, manifest: Manifest, digits: Path, tmp_path: Path
) -> None:
    versions = versions_of(folder_store)
    version = publish(versions, "run", manifest, digits)
    model = manifest.file("model.onnx")
    assert model is not None
    (folder_store.objects / "models/team/digits/blobs" / model.sha256).write_bytes(b"damaged")
    with pytest.raises(DigestMismatchError, match="The object is damaged"):
        versions.download(version, "model.onnx", tmp_path / "model.onnx")
    assert list(tmp_path.glob("*.onnx")) + list(tmp_path.glob(".*.partial")) == []


def test_an_evaluation_is_recorded_once(
    any_store: StoreUnderTest, manifest: Manifest, digits: Path
) -> None:
    versions = versions_of(any_store)
    publish(versions, "run", manifest, digits)

    def evaluation(accuracy: float, created: str, dataset_digest: str) -> EvaluationRecord:
        return EvaluationRecord(
            version=1,
            dataset="heldout",
            dataset_digest=dataset_digest,
            samples=10,
            metrics={"accuracy": accuracy},
            created=created,
        )

    ours, other = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    first = versions.record_evaluation(evaluation(0.9, "2026-01-01T00:00:00Z", ours))
    assert versions.record_evaluation(evaluation(0.1, "2026-01-02T00:00:00Z", ours)) == first
    newer = versions.record_evaluation(evaluation(0.8, "2026-01-03T00:00:00Z", other))
    assert versions.newest_evaluation(1, "heldout") == newer
    assert versions.newest_evaluation(1, "mnist") is None
    assert versions.numbers() == [1]


def test_a_record_that_is_none_is_told_and_not_overwritten(
    folder_store: StoreUnderTest, manifest: Manifest, digits: Path
) -> None:
    store = folder_store.open()
    store.put_new("models/team/digits/versions/1.json", b'{"version": "one"}')
    with pytest.raises(StoreUnavailableError, match=r"versions/1\.json in the store is not a"):
        publish(versions_of(folder_store), "run", manifest, digits)
    assert store.get("models/team/digits/versions/1.json") == b'{"version": "one"}'


SECOND_DIGEST = "sha256:" + "d" * 64


@pytest.mark.parametrize(
    ("lineage", "short"),
    [
        pytest.param({}, {}, id="nothing is known"),
        pytest.param({"imageID": "trainer:1"}, {}, id="an image without a digest"),
        pytest.param(
            {"imageID": f"docker-pullable://trainer@{SECOND_DIGEST}"},
            {"imageDigest": "sha256:dddddddddddd"},
            id="an image as Docker tells it",
        ),
        pytest.param({"checkpoint": [], "uid": "u"}, {"uid": "u"}, id="what does not fit"),
    ],
)
def test_a_message_has_a_lineage_in_short(
    manifest: Manifest, lineage: dict[str, object], short: dict[str, object]
) -> None:
    assert a_version(manifest, lineage).summary().lineage == short


def test_several_data_sets_have_one_digest_in_short_that_follows_from_all(
    manifest: Manifest,
) -> None:
    one = {"name": "a", "digest": SECOND_DIGEST, "samples": 1}
    pair, triple = (
        a_version(manifest, {"data": [one] * count}).summary().lineage["dataDigest"]
        for count in (2, 3)
    )
    assert len({pair, triple, SECOND_DIGEST[:19]}) == 3


def a_version(manifest: Manifest, lineage: dict[str, object]) -> Version:
    return Version(
        version=1,
        identity="run",
        digest=manifest.digest,
        size_bytes=manifest.size_bytes,
        manifest=manifest,
        lineage=lineage,
        created="2026-11-22T04:00:00Z",
    )
