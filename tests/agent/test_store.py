from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from e2e.cluster.ports import free_port
from lepton_ai.record import DigestMismatchError
from lepton_ai.store import (
    NoStoreError,
    StoreAddress,
    StoreUnavailableError,
    file_sha256,
    open_store,
)
from tests.agent.gateway import SECRET_KEY, write_secret
from tests.agent.stores import StoreUnderTest

LARGE_BYTES = 20 * 1024 * 1024 + 17


def test_an_object_is_written_once(any_store: StoreUnderTest) -> None:
    store = any_store.open()
    assert store.put_new("runs/u/1-0.json", b"first")
    assert not store.put_new("runs/u/1-0.json", b"second")
    assert store.get("runs/u/1-0.json") == b"first"


def test_what_does_not_exist_is_none_and_an_empty_list(any_store: StoreUnderTest) -> None:
    store = any_store.open()
    assert store.get("runs/nobody/success.json") is None
    assert store.size_bytes("runs/nobody/success.json") is None
    assert store.paths_below("runs/nobody") == []
    assert store.paths_in("runs/nobody") == []
    store.check()


def test_a_listing_of_a_folder_leaves_out_what_is_below_it(any_store: StoreUnderTest) -> None:
    store = any_store.open()
    for path in ("versions/1.json", "versions/2.json", "versions/1/evaluation-ab.json"):
        store.put_new(path, b"{}")
    assert sorted(store.paths_in("versions")) == ["versions/1.json", "versions/2.json"]
    assert len(store.paths_below("versions")) == 3


def test_a_large_file_comes_back_as_it_went(any_store: StoreUnderTest, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(LARGE_BYTES))
    store, digest = any_store.open(), file_sha256(file)
    store.put_blob("blobs/large", file, digest)
    assert store.size_bytes("blobs/large") == LARGE_BYTES
    assert store.download("blobs/large", tmp_path / "back") == digest
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("size_bytes", [100, LARGE_BYTES])
def test_a_file_that_changed_since_its_digest_was_taken_leaves_no_object(
    any_store: StoreUnderTest, tmp_path: Path, size_bytes: int
) -> None:
    file = tmp_path / "changing"
    file.write_bytes(os.urandom(size_bytes))
    store = any_store.open()
    with pytest.raises(DigestMismatchError, match="changing changed while it was uploaded"):
        store.put_blob("blobs/changing", file, hashlib.sha256(b"before").hexdigest())
    assert store.size_bytes("blobs/changing") is None


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        pytest.param({}, "lepton-store is missing or has no key 'url'", id="no Secret"),
        pytest.param({"url": "ftp://x"}, "starts with none of s3://", id="an unknown scheme"),
        pytest.param({"url": "s3://"}, "names no bucket", id="no bucket"),
        pytest.param(
            {"url": "s3://b", "accessKey": "a"}, "only one of accessKey and secretKey", id="one key"
        ),
        pytest.param(
            {"url": "s3://b", "endpoint": "http://s"}, "no accessKey and secretKey", id="no keys"
        ),
    ],
)
def test_an_incomplete_secret_is_no_store(
    tmp_path: Path, keys: dict[str, str], sentence: str
) -> None:
    folder = write_secret(tmp_path / "secret", **keys)
    with pytest.raises(NoStoreError, match=sentence):
        StoreAddress.from_folder(folder)


def test_a_bucket_that_does_not_exist_is_not_an_empty_one(s3_store: StoreUnderTest) -> None:
    s3_store.objects.rmdir()
    store = s3_store.open()
    with pytest.raises(StoreUnavailableError, match="NoSuchBucket"):
        store.get("a")
    with pytest.raises(StoreUnavailableError, match="NoSuchBucket"):
        store.put_new("a", b"")
    with pytest.raises(StoreUnavailableError, match="NoSuchBucket"):
        store.check()


def test_refused_credentials_are_told_without_the_key(s3_store: StoreUnderTest) -> None:
    (Path(s3_store.location) / "secretKey").write_text("f" * 32)
    address = StoreAddress.from_folder(Path(s3_store.location))
    with pytest.raises(StoreUnavailableError) as caught:
        open_store(address).get("a")
    assert "refuses our credentials (SignatureDoesNotMatch" in str(caught.value)
    assert "f" * 32 not in str(caught.value) + repr(address)


def test_a_store_that_is_down_is_given_up_after_its_patience() -> None:
    address = StoreAddress("s3://b", f"http://127.0.0.1:{free_port()}", "", "key", SECRET_KEY)
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="does not do what is asked") as caught:
        open_store(address, patience_seconds=1).get("a")
    assert 0.5 < time.monotonic() - began < 5
    assert SECRET_KEY not in str(caught.value)
