from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lepton_ai import warm_up
from lepton_ai.model_folder import read_manifest
from lepton_ai.onnx_model import Limits
from lepton_ai.record import InvalidModelError
from tests.fixtures.onnx_models import model, tensor, write_digits_version

Computed = tuple[list[Any], dict[str, Any]]

MEAN: Computed = ([helper.make_node("ReduceMean", ["x"], ["y"], axes=[1])], {})
# The last four of each row, which shorter rows do not have.
LAST_FOUR: Computed = (
    [
        helper.make_node("Slice", ["x", "from", "to", "axis"], ["tail"]),
        helper.make_node("Reshape", ["tail", "shape"], ["y"]),
    ],
    {
        "from": np.array([-4]),
        "to": np.array([9999]),
        "axis": np.array([1]),
        "shape": np.array([-1, 4]),
    },
)


def endless_on_zeros() -> Computed:
    """Return a loop that goes on as long as its input is zero."""
    step = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
            helper.make_node("Identity", ["value"], ["same"]),
        ],
        "step",
        [
            tensor("number", TensorProto.INT64, []),
            tensor("go_on", TensorProto.BOOL, []),
            tensor("value", TensorProto.FLOAT, None),
        ],
        [tensor("goes_on", TensorProto.BOOL, []), tensor("same", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Equal", ["sum", "zero"], ["is_zero"]),
        helper.make_node("Loop", ["", "is_zero", "x"], ["y"], body=step),
    ]
    return nodes, {"zero": np.array(0, np.float32)}


def write(
    folder: Path,
    computed: Computed,
    shape: Sequence[int | str],
    **said: Any,
) -> Path:
    """Leave a model of one input `x`, and what else a training script may leave."""
    nodes, constants = computed
    made = model(
        nodes,
        inputs=[tensor("x", TensorProto.FLOAT, shape)],
        outputs=[tensor("y", TensorProto.FLOAT, [shape[0], None])],
        constants=constants,
    )
    onnx.save(made, folder / "model.onnx")
    if "examples" in said:
        (folder / "signature.json").write_text(json.dumps({"examples": said["examples"]}))
    if "held_out" in said:
        np.savez(folder / "heldout.npz", x=said["held_out"], y=np.zeros(len(said["held_out"])))
    return folder


def example(folder: Path) -> tuple[int, ...] | None:
    (found,) = read_manifest(folder, Limits()).signature.inputs
    return found.example


@pytest.mark.parametrize(
    ("computed", "shape", "said", "wanted"),
    [
        pytest.param(MEAN, ["n", "length"], {}, (1, 1), id="one of each"),
        pytest.param(
            MEAN,
            ["n", "length"],
            {"examples": {"x": [2, 128]}},
            (2, 128),
            id="what signature.json says",
        ),
        pytest.param(
            MEAN,
            ["n", "length"],
            {"held_out": np.zeros((9, 64))},
            (1, 64),
            id="the shape of a held-out sample",
        ),
        pytest.param(
            MEAN,
            ["n", "length"],
            {"held_out": np.zeros((9, 64)), "examples": {"x": [1, 8]}},
            (1, 8),
            id="a person's word goes before",
        ),
        pytest.param(
            MEAN,
            ["n", "length"],
            {"held_out": np.zeros((9, 64, 2))},
            (1, 1),
            id="held-out samples of another kind are left aside",
        ),
        pytest.param(MEAN, ["n", 5], {}, None, id="nothing is open but the batch"),
        pytest.param(
            LAST_FOUR,
            ["n", "length"],
            {},
            None,
            id="a size that the model does not answer is no example",
        ),
        pytest.param(
            LAST_FOUR,
            ["n", "length"],
            {"held_out": np.zeros((3, 6))},
            (1, 6),
            id="where a guess fails a sample may do",
        ),
    ],
)
def test_the_shape_that_a_model_is_warmed_up_with(
    tmp_path: Path,
    computed: Computed,
    shape: Sequence[int | str],
    said: dict[str, Any],
    wanted: tuple[int, ...] | None,
) -> None:
    assert example(write(tmp_path, computed, shape, **said)) == wanted


@pytest.mark.parametrize(
    ("examples", "sentence"),
    [
        pytest.param(
            {"z": [1, 4]}, "gives an example for 'z', and the model's inputs are x", id="name"
        ),
        pytest.param(
            {"x": [1, 4, 4]}, r"the example \[1, 4, 4\] for 'x', whose shape is", id="rank"
        ),
        pytest.param({"x": [1, 0]}, "cannot be read: examples.x.1", id="no size"),
        pytest.param({"x": [1, 2]}, "does not answer zeros of these shapes", id="an error"),
    ],
)
def test_an_example_that_cannot_be_right_is_refused(
    tmp_path: Path, examples: dict[str, Any], sentence: str
) -> None:
    folder = write(tmp_path, LAST_FOUR, ["n", "length"], examples=examples)
    with pytest.raises(InvalidModelError, match=sentence):
        read_manifest(folder, Limits())


@pytest.mark.parametrize("content", [b"no archive", None], ids=["no archive", "no samples"])
def test_held_out_data_that_cannot_be_read_cost_no_model(
    tmp_path: Path, content: bytes | None
) -> None:
    folder = write(tmp_path, MEAN, ["n", "length"], held_out=np.zeros((2, 3)))
    if content is None:
        np.savez(folder / "heldout.npz", labels=np.zeros(2))
    else:
        (folder / "heldout.npz").write_bytes(content)
    assert example(folder) == (1, 1)


def test_a_manifest_of_a_model_that_leaves_nothing_open_is_what_it_was(tmp_path: Path) -> None:
    """Digests of versions must not change because an operator was upgraded."""
    manifest = read_manifest(write_digits_version(tmp_path / "digits"), Limits()).to_dict()
    assert manifest["signature"]["inputs"] == [
        {"name": "image", "dtype": "float32", "shape": [-1, 8, 8]}
    ]
    assert "batched" not in manifest["signature"]


def test_a_model_that_never_answers_zeros_holds_no_training_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(warm_up, "LIMIT_SECONDS", 3)
    assert example(write(tmp_path, endless_on_zeros(), ["n", "length"])) is None
    assert "it had not answered after 3 s. Give the shape of a request" in caplog.text


def test_a_process_that_ends_by_itself_has_not_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file that was loaded a moment ago is gone for the process that tries it."""
    signature = read_manifest(write(tmp_path, MEAN, ["n", 5]), Limits()).signature
    open_signature = signature.model_copy(
        update={"inputs": (signature.inputs[0].model_copy(update={"shape": (-1, -1)}),)}
    )
    (tmp_path / "model.onnx").unlink()
    assert warm_up.with_examples(tmp_path, open_signature, {}) == open_signature
    assert "ONNX Runtime ended with 1" in caplog.text
