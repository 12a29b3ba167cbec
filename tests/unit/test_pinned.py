"""Inputs whose numbers are fixed before import become constants, and choose the branches that follow from them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tvm_spm.cli.options import parse_value
from tvm_spm.deploy import runtime
from tvm_spm.errors import ModelError, SpmError
from tvm_spm.frontend import extract, load_model
from tvm_spm.tuner import tune


def _branch(name: str, size: int) -> onnx.GraphProto:
    weight = helper.make_tensor(f"w_{name}", TensorProto.FLOAT, (8, size), np.arange(8 * size, dtype=np.float32))
    node = helper.make_node("MatMul", ["x", f"w_{name}"], [name])
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)], [weight])


def _by_rate() -> onnx.ModelProto:
    """As speech networks do: a scalar input chooses between two networks whose results differ in shape."""
    nodes = [
        helper.make_node("Constant", [], ["wide"], value_int=16_000),
        helper.make_node("Equal", ["sr", "wide"], ["is_wide"]),
        helper.make_node("If", ["is_wide"], ["y"], then_branch=_branch("a", 6), else_branch=_branch("b", 3)),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 8)),
        helper.make_tensor_value_info("sr", TensorProto.INT64, ()),
    ]
    graph = helper.make_graph(nodes, "speech", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize(("rate", "size"), [(16_000, 6), (8_000, 3)])
def test_a_value_chooses_the_branch(rate: int, size: int) -> None:
    mod = load_model(_by_rate(), values={"sr": rate})
    assert [param.name for param in mod["main"].params] == ["x"]
    found = extract(mod)
    x = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    (y,) = runtime.run(runtime.build(found.mod, "edge-256"), [x])
    np.testing.assert_allclose(y, x @ np.arange(8 * size, dtype=np.float32).reshape(8, size), rtol=1e-5, atol=1e-4)


def test_the_model_given_is_left_as_it_is() -> None:
    model = _by_rate()
    before = model.SerializeToString()
    load_model(model, values={"sr": 8_000})
    assert model.SerializeToString() == before


def test_a_relax_module_takes_values_too() -> None:
    model = load_model(_by_rate(), values={"sr": 8_000})
    pinned = load_model(model, values={"x": np.ones((2, 8), np.float32)})
    assert list(pinned["main"].params) == []


def test_one_number_fills_an_input() -> None:
    pinned = load_model(load_model(_by_rate(), values={"sr": 8_000}), values={"x": 2})
    (y,) = runtime.run(runtime.build(extract(pinned).mod, "edge-256"), [])
    np.testing.assert_allclose(y, np.full((2, 8), 2.0) @ np.arange(24.0).reshape(8, 3))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rate": 1}, "value given for 'rate', which is no input: choose one of 'sr', 'x'"),
        ({"sr": 0.5}, r"input 'sr': value 0.5: not whole numbers that int64 holds"),
        ({"sr": 2.0**80}, r"input 'sr': value 1.2089258196146292e\+24: not whole numbers that int64 holds"),
        ({"sr": [1, 2]}, r"input 'sr': 2 numbers given, it has 1 \(\); give 1$"),
        ({"sr": "fast"}, r"input 'sr': value fast: not numbers"),
        ({"x": [1.0] * 15}, r"input 'x': 15 numbers given, it has 16 \(2, 8\); give 1 or 16"),
        ({"x": [[1.0], [1.0, 2.0]]}, r"input 'x': value \[\[1.0\], \[1.0, 2.0\]\]: "),
    ],
)
def test_values_that_do_not_fit_are_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_model(_by_rate(), values=values)  # type: ignore[arg-type]


def test_tune_refuses_what_maps_nothing() -> None:
    with pytest.raises(SpmError, match=r"values = \[1\] \(list\): must map names of inputs to numbers"):
        tune("resnet18", "spm/edge-256", values=[1])  # type: ignore[arg-type]


def test_the_command_line_takes_numbers_by_name() -> None:
    assert parse_value("sr=16000") == ("sr", [16_000])
    assert parse_value("a=b=1, -0.5,2e3") == ("a=b", [1, -0.5, 2_000])


@pytest.mark.parametrize("text", ["sr", "=1", "sr=", "sr=1,,2", "sr=fast"])
def test_the_command_line_refuses_other_texts(text: str) -> None:
    with pytest.raises(SpmError, match="expected NAME=16000"):
        parse_value(text)
