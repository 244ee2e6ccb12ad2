"""The images as pods run them: an arbitrary user without an entry in /etc/passwd, a read-only root.

No cluster is needed: each runs in a mount namespace of its own, on buildah's storage.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from obstore.exceptions import PermissionDeniedError
from obstore.store import S3Store

from e2e.chroot import LIMIT_SECONDS, USER, WRITABLE, Image
from e2e.cluster.ports import free_ports
from e2e.waiting import wait_until
from images.catalog import IMAGES
from images.mnist import SHA256
from images.store.start import Keys, bucket

_WITHOUT_TORCH = ("base", "agent", "operator", "store", "triton", "door")
_CONFIG = """
name: "linear"
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [3] }]
dynamic_batching { max_queue_delay_microseconds: 300000 }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
model_warmup [{
  name: "zeros" batch_size: 1
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [4] zero_data: true } }
}]
"""


@pytest.mark.parametrize("name", [name for name in IMAGES if name != "debian"])
def test_no_image_runs_as_root_or_carries_this_machines_pip_settings(
    image: Callable[[str], Image], name: str
) -> None:
    found = image(name)
    assert found.config["User"] == "1000:1000"
    assert not [variable for variable in found.config["Env"] if variable.startswith("PIP_")]
    assert not (found.root / "etc/pip.conf").exists()
    assert not (found.root / "etc/apt/sources.list").exists()
    assert not list((found.root / "run").glob("lepton-build/*"))
    assert not list((found.root / "root").glob(".cache/pip/*"))
    assert found.python("import sys; print(sys.version_info[:2])") == "(3, 11)"


@pytest.mark.parametrize("name", _WITHOUT_TORCH)
def test_images_that_do_not_train_have_no_torch(image: Callable[[str], Image], name: str) -> None:
    program = "from importlib.util import find_spec; print(find_spec('torch'))"
    assert image(name).python(program) == "None"


def test_the_torch_image_has_python_and_torch_and_nothing_of_ours(
    image: Callable[[str], Image],
) -> None:
    program = """
from importlib.util import find_spec
import warnings
warnings.simplefilter("ignore")
import torch
print(torch.ones(2).sum().item(), [find_spec(name) for name in ("lepton_ai", "lepton_launcher")])
"""
    assert image("torch").python(program) == "2.0 [None, None]"


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("agent", ["lepton_ai", "lepton_launcher", "onnxruntime", "obstore"]),
        ("trainer", ["lepton_ai", "lepton_launcher", "torch", "onnxruntime"]),
        ("operator", ["lepton_operator", "kopf", "kubernetes"]),
        ("door", ["images.door.door"]),
    ],
)
def test_our_code_is_there_and_compiled(
    image: Callable[[str], Image], name: str, modules: list[str]
) -> None:
    """Byte code cannot be written at run time; without it each start would compile anew."""
    program = f"""
import importlib.util, pathlib
for name in {modules!r}:
    importlib.import_module(name)
ours = list(pathlib.Path("/opt/lepton/lib").rglob("*.py"))
compiled = [pathlib.Path(importlib.util.cache_from_source(file)) for file in ours]
print(len(ours) > 0, [str(file) for file in compiled if not file.exists()])
"""
    assert image(name).python(program) == "True []"


@pytest.mark.parametrize("name", ["agent", "trainer"])
def test_the_digits_are_where_the_sdk_looks(image: Callable[[str], Image], name: str) -> None:
    program = """
import hashlib, os, pathlib
import numpy as np
file = pathlib.Path(os.environ["LEPTON_DATASETS"], "mnist.npz")
with np.load(file) as digits:
    print(hashlib.sha256(file.read_bytes()).hexdigest(), digits["x"].shape, digits["x"].dtype,
          digits["y"].dtype, len(set(digits["y"].tolist())))
"""
    assert image(name).python(program) == f"{SHA256} (10000, 28, 28) uint8 int64 10"


def test_the_door_runs_envoy_and_says_that_it_has_no_certificate(
    image: Callable[[str], Image], folder: Path
) -> None:
    door = image("door")
    assert "/1.40.0/" in door.run("envoy", "--version")
    given = ("XDS_ADDRESS=lepton-operator-xds.lepton-system.svc:18000", "DRAIN_TIMEOUT_SECONDS=30")
    argv = ("env", *given, *door.config["Entrypoint"])
    process = door.start(folder, *argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        told = wait_until(
            lambda: answer_of("http://127.0.0.1:9902/ready"), bool, "a server answers"
        )
        assert told.startswith("There is no ca.crt in /etc/lepton/door: this namespace has no")
        process.terminate()
        output, _ = process.communicate(timeout=LIMIT_SECONDS)
    finally:
        process.kill()
    assert (process.returncode, output) == (0, told)


def answer_of(url: str) -> str:
    """Return the body of an answer, whatever its status; nothing while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=LIMIT_SECONDS) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as refused:
        return refused.read().decode()
    except OSError:
        return ""


def test_triton_serves_a_model_and_batches_its_requests(
    image: Callable[[str], Image], folder: Path
) -> None:
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    write_model(folder, linear(weights).SerializeToString())
    inputs = [np.full((size, 4), size, np.float32) for size in (1, 2, 3, 1)]
    with triton(image("triton"), folder) as (url, process):
        wait_for(process, f"{url}/v2/models/linear/versions/1/ready")
        before = executions(url)
        with ThreadPoolExecutor(len(inputs)) as clients:
            answered = list(clients.map(lambda x: infer(url, x), inputs))
        assert executions(url) - before < len(inputs)
    for x, y in zip(inputs, answered, strict=True):
        np.testing.assert_array_equal(y, x @ weights)


def test_triton_ends_with_the_reason_when_a_file_is_no_model(
    image: Callable[[str], Image], folder: Path
) -> None:
    write_model(folder, b"not an ONNX file")
    with triton(image("triton"), folder) as (_, process):
        output, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode != 0
    assert "INVALID_PROTOBUF" in output[-2048:], "the kubelet keeps the last 2,048 bytes of a log"


def test_triton_ends_with_the_reason_when_the_configuration_means_another_model(
    image: Callable[[str], Image], folder: Path
) -> None:
    write_model(folder, linear(np.ones((4, 3), np.float64)).SerializeToString())
    with triton(image("triton"), folder) as (_, process):
        output, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert "the input 'x' is a tensor(float), but in" in output
    assert "it is a tensor(double)" in output


def test_the_store_gives_each_namespace_its_own_bucket(
    image: Callable[[str], Image], folder: Path
) -> None:
    root_secret = "of this test only"
    (folder / "root-secret").write_text(root_secret)
    (folder / "namespaces").write_text("team-a\nteam-b\n")
    (folder / "data").mkdir()
    os.chown(folder / "data", USER, 0)
    found = image("store")
    with store(found, folder) as url:
        own = bucket_as("team-a", url, root_secret)
        own.put("models/a", b"bytes")
        assert bytes(own.get("models/a").bytes()) == b"bytes"
        with pytest.raises(PermissionDeniedError):
            bucket_as("team-b", url, root_secret, of="team-a").get("models/a")
    (folder / "namespaces").write_text("team-a\nteam-c\n")
    with store(found, folder) as url:
        kept = bucket_as("team-a", url, root_secret)
        assert bytes(kept.get("models/a").bytes()) == b"bytes"
        bucket_as("team-c", url, root_secret).put("models/c", b"bytes")


@contextmanager
def triton(image: Image, repository: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server on free ports; its address, and its process with all its output on stdout."""
    http, grpc, metrics = free_ports(3)
    process = image.start(
        repository,
        *image.config["Entrypoint"],
        f"--model-repository={WRITABLE}",
        "--model-control-mode=none",
        "--exit-on-error=true",
        "--strict-readiness=true",
        "--disable-auto-complete-config",
        "--log-info=false",
        "--http-address=127.0.0.1",
        f"--http-port={http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with ended(process):
        yield f"http://127.0.0.1:{http}", process


@contextmanager
def store(image: Image, folder: Path) -> Iterator[str]:
    """A server on free ports; its address."""
    s3, admin = free_ports(2)
    process = image.start(
        folder,
        *image.config["Entrypoint"],
        f"--root-secret={WRITABLE}/root-secret",
        f"--admin-port={admin}",
        "serve",
        f"--port={s3}",
        f"--folder={WRITABLE}/data",
        f"--namespaces={WRITABLE}/namespaces",
    )
    with ended(process):
        wait_for(process, f"http://127.0.0.1:{s3}/healthz")
        yield f"http://127.0.0.1:{s3}"


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def bucket_as(namespace: str, url: str, root_secret: str, of: str = "") -> S3Store:
    """The bucket of a namespace (its own by default), opened with the keys of this one."""
    keys = Keys.of(root_secret, namespace)
    return S3Store(
        bucket(of or namespace),
        endpoint=url,
        region="us-east-1",
        access_key_id=keys.access,
        secret_access_key=keys.secret,
        client_options={"allow_http": True},
    )


def linear(weights: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """y = x @ weights, in a file that the oldest Triton we know can load."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(weights.dtype)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [onnx.helper.make_tensor_value_info("x", kind, ["batch", weights.shape[0]])],
        [onnx.helper.make_tensor_value_info("y", kind, ["batch", weights.shape[1]])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opset = onnx.helper.make_opsetid("", 17)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)


def write_model(repository: Path, model: bytes) -> None:
    folder = repository / "linear" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    (folder.parent / "config.pbtxt").write_text(_CONFIG)


def infer(url: str, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}
    request = urllib.request.Request(
        f"{url}/v2/models/linear/infer", json.dumps({"inputs": [tensor]}).encode()
    )
    with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as response:
        output = json.load(response)["outputs"][0]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def executions(url: str) -> int:
    with urllib.request.urlopen(f"{url}/v2/models/linear/stats", timeout=5) as response:
        return int(json.load(response)["model_stats"][0]["execution_count"])


def wait_for(process: subprocess.Popen[str], url: str) -> None:
    def answered(code: int) -> bool:
        assert process.poll() is None, process.stdout.read() if process.stdout else "it ended"
        return code == 200

    wait_until(lambda: status(url), answered, "a server answers", url)


def status(url: str) -> int:
    """The HTTP status, 0 while nothing listens."""
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
