from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format as protobuf_text
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from lepton_ai.record import CannotBatchError
from lepton_ai.triton_repository import Serving, model_config, text_format
from lepton_ai.versions import Signature, Tensor
from tests.conftest import Golden

DEFAULT = Serving(max_batch_size=8)
EVERYTHING = Serving(
    max_batch_size=8,
    must_batch=True,
    preferred_batch_sizes=(4, 8),
    max_queue_delay_microseconds=500,
    instances=2,
    response_cache=True,
    priority_levels=3,
)


def tensor(name: str, dtype: str, *shape: int, example: tuple[int, ...] | None = None) -> Tensor:
    return Tensor(name=name, dtype=dtype, shape=shape, example=example)


def signature(*inputs: Tensor, out: Tensor | None = None, **more: Any) -> Signature:
    outputs = (out or tensor("probabilities", "float32", -1, 10),)
    return Signature(inputs=inputs, outputs=outputs, **more)


BATCHED = signature(tensor("image", "float32", -1, 1, 28, 28))
FIXED = signature(tensor("image", "uint8", 1, 28, 28), out=tensor("label", "int64", 1))
SEQUENCES = signature(tensor("tokens", "int64", -1, -1, example=(1, 16)))
SIGNATURES = {
    "dynamic-batch": BATCHED,
    "fixed": FIXED,
    "dynamic-sequence": SEQUENCES,
    "several-inputs": signature(
        tensor("tokens", "int64", -1, -1, example=(1, 16)),
        tensor("mask", "bool", -1, -1, example=(1, 16)),
        tensor("weight", "float16", -1),
        out=tensor("logits", "bfloat16", -1, -1, 2),
    ),
    "strings": signature(tensor("text", "string", -1, 1), out=tensor("label", "string", -1, 1)),
    "scalar": signature(tensor("threshold", "float64"), out=tensor("flag", "bool")),
}


def message(found: Signature, serving: Serving = DEFAULT) -> Any:
    """Return the config as Triton's own message."""
    text = text_format(model_config("reader", 3, found, serving))
    return protobuf_text.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("case", SIGNATURES)
def test_the_file_is_as_it_was_reviewed_and_triton_reads_it(golden: Golden, case: str) -> None:
    text = text_format(model_config("reader", 3, SIGNATURES[case], DEFAULT))
    golden(f"triton/{case}", text.splitlines())
    parsed = protobuf_text.Parse(text, model_config_pb2.ModelConfig())
    assert (parsed.name, parsed.backend) == ("reader", "onnxruntime")
    assert parsed.default_model_filename == "model.onnx"
    assert list(parsed.version_policy.specific.versions) == [3]


def test_the_file_of_a_service_that_asks_for_everything(golden: Golden) -> None:
    text = text_format(model_config("reader", 3, BATCHED, EVERYTHING))
    golden("triton/everything", text.splitlines())
    config = message(BATCHED, EVERYTHING)
    assert config.instance_group[0].count == 2
    assert config.response_cache.enable
    batcher = config.dynamic_batching
    assert list(batcher.preferred_batch_size) == [4, 8]
    assert batcher.max_queue_delay_microseconds == 500
    assert (batcher.priority_levels, batcher.default_priority_level) == (3, 2)
    assert batcher.default_queue_policy.allow_timeout_override


@pytest.mark.parametrize(
    ("found", "serving", "warmed_up"),
    [
        pytest.param(BATCHED, DEFAULT, {1: [1, 28, 28], 8: [1, 28, 28]}, id="one and a full batch"),
        pytest.param(BATCHED, Serving(1), {1: [1, 28, 28]}, id="a batch of one is both"),
        pytest.param(FIXED, DEFAULT, {1: [1, 28, 28]}, id="a fixed batch is in the shape"),
        pytest.param(SEQUENCES, DEFAULT, {1: [16], 8: [16]}, id="open sizes are the example's"),
        pytest.param(
            signature(tensor("tokens", "int64", -1, -1)),
            DEFAULT,
            {},
            id="without an example no size is guessed",
        ),
        pytest.param(
            signature(tensor("x", "float32", -1, 4, example=(2, 4)), batched=False),
            DEFAULT,
            {1: [2, 4]},
            id="a model that is not batched answers its whole example",
        ),
        pytest.param(
            SEQUENCES, Serving(0), {1: [1, 16]}, id="so does one that is not to be batched"
        ),
    ],
)
def test_what_a_model_answers_before_it_is_ready(
    found: Signature, serving: Serving, warmed_up: dict[int, list[int]]
) -> None:
    samples = message(found, serving).model_warmup
    name = found.inputs[0].name
    assert {each.batch_size: list(each.inputs[name].dims) for each in samples} == warmed_up
    assert all(each.inputs[name].zero_data for each in samples)
    assert len({each.name for each in samples}) == len(samples)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        pytest.param(FIXED, "the first size of 'image' is always 1", id="a fixed batch of 1"),
        pytest.param(
            signature(tensor("image", "float32", -1, 4), out=tensor("sum", "float32", 1)),
            "the first size of 'sum' is always 1",
            id="one answer for all",
        ),
        pytest.param(
            signature(tensor("x", "float32", -1), tensor("threshold", "float32")),
            "'threshold' is a scalar",
            id="a scalar",
        ),
        pytest.param(
            signature(tensor("a", "float32", -1, 4), tensor("b", "float32", -1, 4), batched=False),
            "the first sizes of its inputs have different names",
            id="no common first dimension",
        ),
    ],
)
def test_a_model_that_cannot_be_batched_is_served_one_by_one_or_refused(
    found: Signature, why: str
) -> None:
    config = message(found)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert [list(each.dims) or [1] for each in config.input] == [
        list(each.shape) or [1] for each in found.inputs
    ]
    with pytest.raises(CannotBatchError, match="The model cannot be batched") as refused:
        message(found, Serving(max_batch_size=8, must_batch=True))
    assert why in str(refused.value)


def test_priorities_order_requests_that_are_not_batched_too() -> None:
    config = message(FIXED, Serving(max_batch_size=8, priority_levels=2))
    assert config.max_batch_size == 0
    assert config.dynamic_batching.priority_levels == 2
    assert config.dynamic_batching.default_priority_level == 2


def test_one_value_a_sample_is_reshaped() -> None:
    (value,) = message(signature(tensor("value", "int64", -1))).input
    assert (list(value.dims), list(value.reshape.shape)) == ([1], [])
    assert value.HasField("reshape")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_arrives_as_it_is(name: str) -> None:
    found = signature(tensor(name, "string", -1, 1), out=tensor(f'"{name}\\', "bool", -1, 1))
    config = message(found)
    assert config.input[0].name == name
    assert config.output[0].name == f'"{name}\\'
    assert list(config.model_warmup[0].inputs) == [name]


def test_what_would_keep_triton_from_the_next_batch_is_in_no_file_that_does_not_ask_for_it() -> (
    None
):
    """Timeouts and bounds of Triton's own queue: see `_priorities`."""
    batcher = message(BATCHED, Serving(8, preferred_batch_sizes=(4,))).dynamic_batching
    assert not batcher.HasField("default_queue_policy")
    assert not batcher.priority_levels
    assert not message(BATCHED, Serving(1)).HasField("dynamic_batching"), "nothing to put together"
