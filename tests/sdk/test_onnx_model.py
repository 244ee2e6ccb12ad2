from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lepton_ai.onnx_model import Limits, inspect
from lepton_ai.record import InvalidModelError
from lepton_ai.versions import Tensor
from tests.fixtures.onnx_models import (
    IR_VERSION,
    OPSET,
    model,
    tensor,
    write_broken_model,
    write_digits_model,
    write_too_new_model,
)


def test_signature_opset_and_ir_come_from_the_file(tmp_path: Path) -> None:
    found = inspect(write_digits_model(tmp_path / "model.onnx"), Limits(opset=OPSET, ir=IR_VERSION))
    assert found.signature.inputs == (Tensor(name="image", dtype="float32", shape=(-1, 8, 8)),)
    assert found.signature.outputs == (
        Tensor(name="probabilities", dtype="float32", shape=(-1, 10)),
    )
    assert (found.opset, found.ir) == (OPSET, IR_VERSION)


@pytest.mark.parametrize(
    ("element_type", "dtype"),
    [
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.INT64, "int64"),
        (TensorProto.BOOL, "bool"),
        (TensorProto.STRING, "string"),
    ],
)
def test_dtypes_are_numpys_words(tmp_path: Path, element_type: int, dtype: str) -> None:
    same = model(
        [helper.make_node("Identity", ["x"], ["y"])],
        inputs=[tensor("x", element_type, ["n", "length", 3])],
        outputs=[tensor("y", element_type, ["n", "length", 3])],
    )
    onnx.save(same, tmp_path / "model.onnx")
    assert inspect(tmp_path / "model.onnx").signature.inputs == (
        Tensor(name="x", dtype=dtype, shape=(-1, -1, 3)),
    )


@pytest.mark.parametrize(
    ("names", "batched"),
    [
        pytest.param(("n", "n"), True, id="one name for both"),
        pytest.param(("n", "m"), False, id="two names"),
        pytest.param(("n", None), True, id="a size without a name"),
        pytest.param(("a_dynamic_axes_1", "b_dynamic_axes_1"), True, id="names that torch made up"),
        pytest.param(("unk__7", "n"), True, id="a name that tf2onnx made up"),
    ],
)
def test_first_sizes_of_different_names_are_no_batch(
    tmp_path: Path, names: tuple[str, str | None], *, batched: bool
) -> None:
    product = model(
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        inputs=[
            tensor("a", TensorProto.FLOAT, [names[0], 4]),
            tensor("b", TensorProto.FLOAT, [names[1], 4]),
        ],
        outputs=[tensor("y", TensorProto.FLOAT, [names[0], 4])],
    )
    onnx.save(product, tmp_path / "model.onnx")
    assert inspect(tmp_path / "model.onnx").signature.is_batched is batched


def _write_empty(file: Path) -> None:
    file.write_bytes(b"")


def _write_another_message(file: Path) -> None:
    file.write_bytes(helper.make_opsetid("", 17).SerializeToString())


def _write_weights_elsewhere(file: Path) -> None:
    write_digits_model(file)
    onnx.save_model(
        onnx.load(file), file, save_as_external_data=True, location="weights", size_threshold=0
    )


def _write_unknown_operator(file: Path) -> None:
    nodes = [helper.make_node("Telepathy", ["x"], ["y"])]
    x, y = (tensor(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y"))
    onnx.save(model(nodes, inputs=[x], outputs=[y]), file)


def _write_sequence(file: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    nodes = [helper.make_node("SplitToSequence", ["x"], ["parts"])]
    inputs = [tensor("x", TensorProto.FLOAT, ["n", 3])]
    onnx.save(model(nodes, inputs=inputs, outputs=[sequence]), file)


def _write_scalar(file: Path) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)]
    inputs = [tensor("x", TensorProto.FLOAT, ["n", 3])]
    onnx.save(model(nodes, inputs=inputs, outputs=[tensor("total", TensorProto.FLOAT, [])]), file)


def _write_new_file_format(file: Path) -> None:
    write_digits_model(file)
    proto = onnx.load(file)
    proto.ir_version = 12
    onnx.save(proto, file)


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        pytest.param(write_broken_model, "is not an ONNX file", id="a web page"),
        pytest.param(_write_empty, r"\(0 bytes\) is not an ONNX file", id="an empty file"),
        pytest.param(_write_another_message, "is not an ONNX file", id="another protobuf message"),
        pytest.param(
            write_too_new_model,
            "uses ONNX opset 25, and the Triton that would serve it loads at most opset 21",
            id="a new opset",
        ),
        pytest.param(
            _write_new_file_format,
            "IR version 12, and the Triton that would serve it loads at most IR version 10",
            id="a new IR",
        ),
        pytest.param(
            _write_weights_elsewhere,
            "weights of 'weights' in another file",
            id="external",
        ),
        pytest.param(_write_unknown_operator, "cannot load .*Telepathy", id="an unknown operator"),
        pytest.param(_write_scalar, "'total' is a scalar", id="a scalar"),
        pytest.param(_write_sequence, "'parts' is a seq.*tensors only", id="a sequence"),
    ],
)
def test_a_file_that_triton_would_not_load_is_refused_with_a_sentence(
    tmp_path: Path, write: Callable[[Path], object], sentence: str
) -> None:
    write(tmp_path / "model.onnx")
    with pytest.raises(InvalidModelError, match=sentence):
        inspect(tmp_path / "model.onnx", Limits(opset=21, ir=10))


def test_a_constant_is_no_input(tmp_path: Path) -> None:
    plus = model(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        inputs=[tensor("x", TensorProto.FLOAT, ["n"])],
        outputs=[tensor("y", TensorProto.FLOAT, ["n"])],
        constants={"one": np.ones(1, dtype=np.float32)},
    )
    onnx.save(plus, tmp_path / "model.onnx")
    assert [each.name for each in inspect(tmp_path / "model.onnx").signature.inputs] == ["x"]
