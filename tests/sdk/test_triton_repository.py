from __future__ import annotations

from typing import Any

from google.protobuf import text_format as protobuf_text
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from lepton_ai.triton_repository import model_config, text_format
from lepton_ai.versions import Signature, Tensor

BATCHED = Signature(
    inputs=(
        Tensor(name="image", dtype="float32", shape=(-1, 1, 28, 28)),
        Tensor(name="weight", dtype="int64", shape=(-1,)),
    ),
    outputs=(Tensor(name="probabilities", dtype="float16", shape=(-1, 10)),),
)


def parsed(signature: Signature, max_batch_size: int = 8, version: int = 3) -> Any:
    """Return the config as Triton's own message."""
    text = text_format(model_config("reader", version, signature, max_batch_size))
    return protobuf_text.Parse(text, model_config_pb2.ModelConfig())


def test_a_model_with_a_free_batch_is_batched_and_warmed_up() -> None:
    config = parsed(BATCHED)
    assert (config.name, config.backend, config.max_batch_size) == ("reader", "onnxruntime", 8)
    assert config.default_model_filename == "model.onnx"
    assert list(config.version_policy.specific.versions) == [3]
    assert config.HasField("dynamic_batching")
    image, weight = config.input
    assert (image.name, list(image.dims)) == ("image", [1, 28, 28])
    assert image.data_type == model_config_pb2.TYPE_FP32
    assert (list(weight.dims), list(weight.reshape.shape)) == ([1], [])
    assert weight.HasField("reshape")
    assert config.output[0].data_type == model_config_pb2.TYPE_FP16
    assert [sample.batch_size for sample in config.model_warmup] == [1, 8]
    zeros = config.model_warmup[0].inputs["image"]
    assert (list(zeros.dims), zeros.zero_data) == ([1, 28, 28], True)


def test_a_model_with_a_fixed_batch_gets_its_whole_shapes() -> None:
    fixed = Signature(
        inputs=(Tensor(name="image", dtype="uint8", shape=(1, 28, 28)),),
        outputs=(Tensor(name="label", dtype="int64", shape=(1,)),),
    )
    config = parsed(fixed)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [1, 28, 28]
    assert list(config.output[0].dims) == [1]
    assert not config.output[0].HasField("reshape")
    assert [sample.batch_size for sample in config.model_warmup] == [1]


def test_sizes_that_the_file_leaves_open_are_not_guessed_for_a_warm_up() -> None:
    text = Signature(
        inputs=(Tensor(name="tokens", dtype="int64", shape=(-1, -1)),),
        outputs=(Tensor(name="logits", dtype="float32", shape=(-1, 2)),),
    )
    config = parsed(text)
    assert list(config.input[0].dims) == [-1]
    assert len(config.model_warmup) == 0


def test_no_batching_is_asked_for_with_zero() -> None:
    config = parsed(BATCHED, max_batch_size=0)
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [-1, 1, 28, 28]
    assert not config.HasField("dynamic_batching")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_arrives_as_it_is(name: str) -> None:
    signature = Signature(
        inputs=(Tensor(name=name, dtype="string", shape=(-1, 1)),),
        outputs=(Tensor(name=f'"{name}\\', dtype="bool", shape=(-1, 1)),),
    )
    config = parsed(signature)
    assert config.input[0].name == name
    assert config.output[0].name == f'"{name}\\'
    assert list(config.model_warmup[0].inputs) == [name]
