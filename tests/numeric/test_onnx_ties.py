"""Layers between DequantizeLinear and QuantizeLinear, against onnxruntime: fused, and as the floats they mean."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from tests.numeric.test_onnx_quantised import KINDS, run
from tvm_spm.frontend import extract, load_model

node = helper.make_node
DEPTH, FILTERS = 8, 12
LAYERS = {
    "conv": ("Conv", (1, DEPTH, 20, 20), (FILTERS, DEPTH, 3, 3), {}),
    "conv, padded": ("Conv", (2, DEPTH, 12, 13), (FILTERS, DEPTH, 3, 3), {"pads": [1] * 4}),
    "product": ("MatMul", (300, 40), (40, FILTERS), {}),
    "gemm": ("Gemm", (300, 40), (FILTERS, 40), {"transB": 1}),
}
TERMS = {"Conv": 9 * DEPTH, "MatMul": 40, "Gemm": 40}
DECIMAL, BINARY = (0.02, 0.01), (2**-6, 2**-7)


def quantised(layer, scales, *, x_type="uint8", zeros=(120, 131), per_filter=False, between=(), seed=0):
    """A model, and the bytes it reads; the result spreads over all steps and many sums lie between two of them."""
    operator, x_shape, w_shape, attributes = LAYERS[layer]
    rng, info = np.random.default_rng(seed), np.iinfo(x_type)
    x = rng.integers(info.min, info.max, x_shape, endpoint=True).astype(x_type)
    # 7 bits: on processors without VNNI onnxruntime adds two products in 16 bits.
    w = rng.integers(-63, 64, w_shape).astype("int8")
    # Where the bias of a layer cannot stand in the node, there is none.
    has_bias = operator != "MatMul"
    w_scale = np.float32(scales[1]) * (rng.integers(1, 5, FILTERS) if per_filter else np.ones((), int))
    w_scale = w_scale.astype("float32")
    bias_scale = (np.float32(scales[0]) * w_scale).astype("float32")
    # Sums of n products of bytes deviate by 37 * 74 * sqrt(n); 64 steps to that, rounded to a power of two.
    deviation = 37 * 74 * TERMS[operator] ** 0.5 * scales[0] * scales[1] * (2.5 if per_filter else 1)
    step = np.float32(0.05 if scales is DECIMAL and not per_filter else 2.0 ** np.round(np.log2(deviation / 48)))
    constants = {
        "xs": np.float32(scales[0]), "xz": np.array(zeros[0], x_type), "w": w, "ws": w_scale,
        "wz": np.zeros(w_scale.shape, "int8"),
        "ys": step, "yz": np.array(zeros[1], x_type),
    }  # fmt: skip
    nodes = [
        node("DequantizeLinear", ["x", "xs", "xz"], ["xf"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=1 if operator == "MatMul" else 0),
    ]
    if has_bias:
        constants |= {
            "b": rng.integers(-999, 999, FILTERS).astype("int32"),
            "bs": bias_scale,
            "bz": np.zeros(bias_scale.shape, "int32"),
        }
        nodes.append(node("DequantizeLinear", ["b", "bs", "bz"], ["bf"], axis=0))
    nodes.append(node(operator, ["xf", "wf", *["bf"] * has_bias], ["f"], **attributes))
    last = "f"
    for number, each in enumerate(between):
        constants |= {"low": np.float32(0), "high": np.float32(255) * step}
        nodes.append(node(each, [last, *(["low", "high"] if each == "Clip" else [])], [f"g{number}"]))
        last = f"g{number}"
    nodes.append(node("QuantizeLinear", [last, "ys", "yz"], ["y"]))
    graph = helper.make_graph(
        nodes, "layer", [helper.make_tensor_value_info("x", KINDS[x_type], x_shape)],
        [helper.make_tensor_value_info("y", KINDS[x_type], None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), x


def by_onnxruntime(model, x, *, fused):
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if fused else level.ORT_DISABLE_ALL
    # Of int8 it fuses layers on Arm only, unless it is told to.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def ours(model, x):
    return run(extract(load_model(model)), {"x": x})[0]


CASES = [
    *({"layer": layer, "per_filter": each} for layer in LAYERS for each in (False, True)),
    {"layer": "conv", "x_type": "int8", "zeros": (-3, 9)},
    {"layer": "conv", "zeros": (120, 0), "between": ("Relu",)},
    {"layer": "conv", "zeros": (120, 0), "between": ("Clip",)},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_onnxruntime_fuses_is_the_same_to_the_last_bit(case):
    model, x = quantised(scales=DECIMAL, **case)
    np.testing.assert_array_equal(ours(model, x), by_onnxruntime(model, x, fused=True))


@pytest.mark.parametrize("case", [*CASES, {"layer": "conv", "between": ("Relu",)}], ids=str)
def test_where_no_float_is_rounded_the_floats_say_the_same(case):
    model, x = quantised(scales=BINARY, **case)
    np.testing.assert_array_equal(ours(model, x), by_onnxruntime(model, x, fused=False))


@pytest.mark.parametrize("seed", range(3))
def test_floats_say_otherwise_only_halfway_between_two_steps(seed):
    model, x = quantised("conv", DECIMAL, seed=seed)
    values = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    got, floats = ours(model, x), by_onnxruntime(model, x, fused=False)
    shifted = x.astype("int64") - values["xz"]
    windows = np.lib.stride_tricks.sliding_window_view(shifted, (3, 3), axis=(2, 3))
    kernels, factor = values["w"].astype("int64"), float(values["xs"]) * float(values["ws"])
    bias = values["b"].reshape(1, -1, 1, 1)
    sums = np.einsum("ncyxij,kcij->nkyx", windows, kernels) + bias
    size = np.einsum("ncyxij,kcij->nkyx", abs(windows), abs(kernels)) + abs(bias)
    # Each of two factors, their product, every sum and the quotient round by 2^-24 of their size at most.
    error = (9 * DEPTH + 5) * 2.0**-24 * size * factor / float(values["ys"])
    steps = sums * factor / float(values["ys"])
    is_open = np.abs(steps - np.floor(steps) - 0.5) <= error
    assert 0 < is_open.mean() < 0.02
    np.testing.assert_array_equal(got[~is_open], floats[~is_open])
    assert np.abs(got.astype(int) - floats).max() <= 1
