from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.ports import free_port
from tests.agent.gateway import ACCESS_KEY, SECRET_KEY, Gateway, write_secret
from tests.agent.stores import StoreUnderTest
from tests.fixtures.onnx_models import write_digits_version


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(free_port(), tmp_path_factory.mktemp("gateway")).running() as running:
        yield running


@pytest.fixture
def s3_store(gateway: Gateway, tmp_path: Path) -> StoreUnderTest:
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    secret = write_secret(
        tmp_path / "secret",
        url=f"s3://{bucket}",
        endpoint=gateway.endpoint,
        region="us-east-1",
        accessKey=ACCESS_KEY,
        secretKey=SECRET_KEY,
    )
    return StoreUnderTest(str(secret), gateway.make_bucket(bucket), tmp_path)


@pytest.fixture
def folder_store(tmp_path: Path) -> StoreUnderTest:
    return StoreUnderTest(f"file://{tmp_path}/store", tmp_path / "store", tmp_path)


@pytest.fixture(params=["a folder", "S3"])
def any_store(request: pytest.FixtureRequest) -> StoreUnderTest:
    name = {"a folder": "folder_store", "S3": "s3_store"}[request.param]
    found = request.getfixturevalue(name)
    assert isinstance(found, StoreUnderTest)
    return found


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits_version(tmp_path_factory.mktemp("digits"))
