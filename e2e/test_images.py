"""The images as pods run them: an arbitrary user without an entry in /etc/passwd, a read-only root.

No cluster is needed: each runs in a mount namespace of its own, on buildah's storage.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from obstore.exceptions import PermissionDeniedError
from obstore.store import S3Store
from onnx import TensorProto

from e2e.chroot import LIMIT_SECONDS, USER, WRITABLE, Image
from e2e.cluster.ports import free_ports
from e2e.installation import TRITON
from e2e.waiting import wait_until
from images.catalog import IMAGES
from images.mnist import SHA256
from images.store.start import Keys, bucket
from lepton_ai.model_folder import read_manifest
from lepton_ai.onnx_model import Limits
from lepton_ai.triton_repository import Serving, model_config, write_config
from lepton_operator.build import serving
from tests.fixtures import onnx_models

_WITHOUT_TORCH = ("base", "agent", "operator", "store", "triton", "door")
POD_UID = "5f2f3c1e-0000-4000-8000-000000000000"
CLOSED = (
    "/v2/logging",
    "/v2/trace/setting",
    "/v2/models/linear/trace/setting",
    "/v2/systemsharedmemory/status",
    "/v2/cudasharedmemory/status",
)
OPEN = ("/v2", "/v2/health/ready", "/v2/models/linear", "/v2/models/linear/config")
_CONFIG = """
name: "linear"
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [3] }]
dynamic_batching { max_queue_delay_microseconds: 30000000 }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
model_warmup [{
  name: "zeros" batch_size: 1
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [4] zero_data: true } }
}]
"""


@pytest.mark.parametrize(
    "name", [each.name for each in IMAGES.values() if each.everyday and each.parent]
)
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
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with door.start(folder, *argv, alone=True, **pipes) as process:
        try:
            # It answers before it has looked for its certificates, and says so.
            told = wait_until(lambda: is_ready(process), names_a_file, "a server answers")
            assert told.startswith("There is no ca.crt in /etc/lepton/door: this namespace has no")
            process.terminate()
            output, _ = process.communicate(timeout=LIMIT_SECONDS)
        finally:
            process.kill()
    assert (process.returncode, output) == (0, told)


ASKS_THE_DOOR = """
import http.client
door = http.client.HTTPConnection("127.0.0.1", 9902)
door.request("GET", "/ready")
print(door.getresponse().read().decode(), end="")
"""


def names_a_file(told: str) -> bool:
    return ".crt" in told


def is_ready(door: subprocess.Popen[str]) -> str:
    """Return what a door in a network of its own answers; nothing before it does."""
    argv = ("nsenter", f"--target={door.pid}", "--net", sys.executable, "-c", ASKS_THE_DOOR)
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def test_triton_serves_a_model_and_batches_its_requests(
    image: Callable[[str], Image], folder: Path
) -> None:
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    write_model(folder, linear(weights).SerializeToString())
    # A full batch leaves at once: what comes first waits for the last, however late that is.
    inputs = [np.full((size, 4), size, np.float32) for size in (1, 2, 3, 2)]
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


def test_triton_loads_what_we_write_for_every_kind_of_signature(
    image: Callable[[str], Image], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = tmp_path_factory.mktemp("made")  # not in the repository, which `folder` is
    for name, model in SHAPES.items():
        write_version(folder, made / name, model)
    with triton(image("triton"), folder, "--cache-config=local,size=1048576") as (url, process):
        wait_for(process, f"{url}/v2/health/ready")
        configs = {name: read(f"{url}/v2/models/{name}/config") for name in SHAPES}
        answered = {
            name: read(f"{url}/v2/models/{name}/stats")["model_stats"][0]["inference_count"]
            for name in SHAPES
        }
    batched = {name: each["max_batch_size"] for name, each in configs.items()}
    assert batched == dict.fromkeys(SHAPES, 8) | {"fixed": 0}
    warmed_up = dict.fromkeys(SHAPES, 2 * (1 + 8)) | {"fixed": 2}
    assert answered == warmed_up, "in each of the two instances"


@pytest.mark.parametrize("key", [None, "guessed"], ids=["no key", "a guessed key"])
def test_what_changes_a_server_is_closed_to_its_clients(
    image: Callable[[str], Image], folder: Path, key: str | None
) -> None:
    write_model(folder, linear(np.ones((4, 3), np.float32)).SerializeToString())
    headers = {"lepton-restricted": key} if key else {}
    with triton(image("triton"), folder) as (url, process):
        wait_for(process, f"{url}/v2/models/linear/versions/1/ready")
        answered = {path: status(f"{url}{path}", headers) for path in (*CLOSED, *OPEN)}
        assert status(f"{url}{CLOSED[0]}", {"lepton-restricted": POD_UID}) == 200
    assert answered == dict.fromkeys(CLOSED, 403) | dict.fromkeys(OPEN, 200)


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
def triton(
    image: Image, repository: Path, *more: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server with a pod's flags on free ports; its address, and its process with its output."""
    http, grpc, metrics = free_ports(3)
    here = {
        "--model-repository": WRITABLE,
        "--http-port": str(http),
        "--grpc-port": str(grpc),
        "--metrics-port": str(metrics),
    }
    process = image.start(
        repository,
        *image.config["Entrypoint"],
        *(_elsewhere(flag, here) for flag in serving.flags(TRITON["version"])),
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        *more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with ended(process):
        yield f"http://127.0.0.1:{http}", process


def _elsewhere(flag: str, here: Mapping[str, str]) -> str:
    """A flag of a pod's, for a server that has a machine to itself."""
    name, equals, value = flag.partition("=")
    return f"{name}{equals}{here.get(name, value)}".replace("$(POD_UID)", POD_UID)


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


def identities(**tensors: tuple[int, list[int | str]]) -> onnx.ModelProto:
    """A model that gives every input back, as `<name>_out`."""
    return onnx_models.model(
        [onnx.helper.make_node("Identity", [name], [f"{name}_out"]) for name in tensors],
        inputs=[onnx_models.tensor(name, *each) for name, each in tensors.items()],
        outputs=[onnx_models.tensor(f"{name}_out", *each) for name, each in tensors.items()],
    )


SHAPES = {
    "fixed": identities(x=(TensorProto.UINT8, [1, 4, 4])),
    "sequence": identities(x=(TensorProto.INT64, ["batch", "length"])),
    "several": identities(
        tokens=(TensorProto.INT64, ["batch", "length"]),
        mask=(TensorProto.BOOL, ["batch", "length"]),
        weight=(TensorProto.FLOAT16, ["batch"]),
    ),
    "strings": identities(x=(TensorProto.STRING, ["batch", 1])),
    "bool": identities(x=(TensorProto.BOOL, ["batch", 3])),
    "scalar": identities(x=(TensorProto.DOUBLE, ["batch"])),
}


def write_version(repository: Path, made: Path, model: onnx.ModelProto) -> None:
    """Write a model as `fetch` does, with all that a service can ask for."""
    version = repository / made.name / "1"
    for place in (made, version):
        place.mkdir(parents=True)
        onnx.save(model, place / "model.onnx")
    asked = Serving(8, instances=2, response_cache=True, priority_levels=3)
    signature = read_manifest(made, Limits()).signature
    write_config(repository, made.name, model_config(made.name, 1, signature, asked))


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
    return int(read(f"{url}/v2/models/linear/stats")["model_stats"][0]["execution_count"])


def read(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=LIMIT_SECONDS) as response:
        found: dict[str, Any] = json.load(response)
    return found


def wait_for(process: subprocess.Popen[str], url: str) -> None:
    def answered(code: int) -> bool:
        assert process.poll() is None, process.stdout.read() if process.stdout else "it ended"
        return code == 200

    wait_until(lambda: status(url), answered, "a program in an image acts", url)


def status(url: str, headers: Mapping[str, str] | None = None) -> int:
    """The HTTP status, 0 while nothing listens."""
    try:
        request = urllib.request.Request(url, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
