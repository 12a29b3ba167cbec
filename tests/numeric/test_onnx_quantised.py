"""Quantised layers of ONNX are layers of 8-bit integers, equal to their definitions to the last bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_spm.deploy import runtime
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract, load_model

node = helper.make_node
KINDS = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32}


def loaded(nodes, data, outputs, constants, opset=17):
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info(key, KINDS[str(value.dtype)], value.shape) for key, value in data.items()],
        [helper.make_tensor_value_info(name, KINDS[kind], None) for name, kind in outputs.items()],
        [value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value), key)
         for key, value in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return extract(load_model(helper.make_model(graph, opset_imports=opsets, ir_version=10)))


def run(found, data):
    return runtime.run(runtime.build(found.mod, "edge-256"), list(data.values()))


def operand_bits(found):
    """Bits of data, weights and outputs of each layer that multiplies."""
    works = [task.work for task in found.graph.tasks if hasattr(task.work, "macs")]
    return [(work.I.elem_bits, work.W.elem_bits, work.O.elem_bits) for work in works]


def convolved(x, w, stride, pads, groups):
    """Sums over windows in int64, one output at a time; outside the image there is nothing to add."""
    per_group = w.shape[0] // groups
    height, width = ((x.shape[2 + a] + 2 * pads - w.shape[2 + a]) // stride + 1 for a in (0, 1))
    y = np.zeros((x.shape[0], w.shape[0], height, width), np.int64)
    for n, k, oy, ox in np.ndindex(y.shape):
        first = k // per_group * w.shape[1]
        for c, fy, fx in np.ndindex(w.shape[1:]):
            iy, ix = oy * stride + fy - pads, ox * stride + fx - pads
            if 0 <= iy < x.shape[2] and 0 <= ix < x.shape[3]:
                y[n, k, oy, ox] += int(x[n, first + c, iy, ix]) * int(w[k, c, fy, fx])
    return y


def requantised(floats, zero, dtype):
    info = np.iinfo(dtype)
    return np.clip(np.rint(floats) + int(zero), info.min, info.max).astype(dtype)


def whole(rng, dtype, *shape):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, size=shape, endpoint=True).astype(dtype)


CONVOLUTIONS = [
    (x_type, w_type, x_zero, w_zero, pads, groups)
    for (x_type, w_type), x_zero, w_zero, (pads, groups) in itertools.product(
        [("uint8", "int8"), ("int8", "int8"), ("uint8", "uint8")], [0, 3], [0, "per filter"], [(0, 1), (1, 1), (1, 4)]
    )
]


@pytest.mark.parametrize(("x_type", "w_type", "x_zero", "w_zero", "pads", "groups"), CONVOLUTIONS)
def test_qlinear_conv(x_type, w_type, x_zero, w_zero, pads, groups):
    rng = np.random.default_rng(5)
    x, w = whole(rng, x_type, 1, 4, 6, 5), whole(rng, w_type, 8, 4 // groups, 3, 3)
    zeros = np.zeros(8, w_type) if w_zero == 0 else rng.integers(1, 4, 8).astype(w_type)
    bias, w_scale = rng.integers(-500, 500, 8).astype("int32"), rng.uniform(0.01, 0.03, 8).astype("float32")
    constants = {
        "xs": np.float32(0.02), "xz": np.array(x_zero, x_type), "w": w, "ws": w_scale, "wz": zeros,
        "ys": np.float32(0.31), "yz": np.array(7, "uint8"), "b": bias,
    }  # fmt: skip
    layer = node("QLinearConv", ["x", *constants], ["y"], strides=[2, 2], pads=[pads] * 4, group=groups)
    found = loaded([layer], {"x": x}, {"y": "uint8"}, constants)
    shifted = w.astype(np.int64) - zeros.astype(np.int64)[:, None, None, None]
    sums = convolved(x.astype(np.int64) - x_zero, shifted, 2, pads, groups) + bias[None, :, None, None]
    scale = np.float32(0.02) * w_scale / np.float32(0.31)
    want = requantised(sums.astype("float32") * scale[None, :, None, None], 7, "uint8")
    np.testing.assert_array_equal(run(found, {"x": x})[0], want)
    assert operand_bits(found)[0][0] == 8
    if w_zero == 0:
        assert operand_bits(found) == [(8, 8, 32)]


@pytest.mark.parametrize(("x_zero", "w_zero"), [(0, 0), (3, 0), (3, 120)])
@pytest.mark.parametrize("weights", ["constants", "inputs"])
def test_integer_products(x_zero, w_zero, weights):
    rng = np.random.default_rng(6)
    x, w = whole(rng, "uint8", 5, 12), whole(rng, "uint8", 12, 7)
    constants = {"xz": np.uint8(x_zero), "wz": np.uint8(w_zero)} | ({"w": w} if weights == "constants" else {})
    data = {"x": x} | ({} if weights == "constants" else {"w": w})
    found = loaded([node("MatMulInteger", ["x", "w", "xz", "wz"], ["y"])], data, {"y": "int32"}, constants, opset=10)
    want = (x.astype(np.int64) - x_zero) @ (w.astype(np.int64) - w_zero)
    np.testing.assert_array_equal(run(found, data)[0], want)
    if weights == "constants":
        # Differences from a zero point in the middle of the range of uint8 need a ninth bit.
        assert operand_bits(found)[0][:2] == (8, 8 if w_zero == 0 else 16)


def test_a_product_whose_zero_point_follows_from_the_data_reads_bytes():
    rng = np.random.default_rng(6)
    data, w = {"x": rng.standard_normal((4, 32)).astype("float32")}, whole(rng, "int8", 32, 16)
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("MatMulInteger", ["q", "w", "z"], ["m"]),
        node("Cast", ["m"], ["f"], to=TensorProto.FLOAT), node("Mul", ["f", "s"], ["y"]),
    ]  # fmt: skip
    found = loaded(nodes, data, {"y": "float32"}, {"w": w})
    low, high = min(0, data["x"].min()), max(0, data["x"].max())
    scale = np.float32((high - low) / np.float32(255))
    zero = np.clip(np.rint(-low / scale), 0, 255)
    q = np.clip(np.rint(data["x"] / scale) + zero, 0, 255)
    want = ((q - zero) @ w.astype(np.float64)).astype("float32") * scale
    np.testing.assert_array_equal(run(found, data)[0], want)
    assert operand_bits(found)[0][:2] == (8, 8)


QDQ = {
    "conv, one scale per filter": ("Conv", (1, 4, 6, 6), (8, 4, 3, 3), 0, "per filter"),
    "conv, one scale": ("Conv", (1, 4, 6, 6), (8, 4, 3, 3), 0, "one"),
    "product": ("MatMul", (5, 12), (12, 7), 1, "one"),
    "product, one scale per column": ("MatMul", (5, 12), (12, 7), 1, "per filter"),
    "gemm": ("Gemm", (5, 12), (7, 12), 0, "per filter"),
}  # fmt: skip


@pytest.mark.parametrize("name", QDQ)
@pytest.mark.parametrize("x_zero", [0, -5])
def test_a_layer_between_dequantised_tensors_multiplies_bytes(name, x_zero):
    operator, x_shape, w_shape, axis, scales = QDQ[name]
    rng = np.random.default_rng(8)
    x, w = whole(rng, "int8", *x_shape), whole(rng, "int8", *w_shape)
    filters = w_shape[axis]
    w_scale = rng.uniform(0.01, 0.03, filters).astype("float32") if scales == "per filter" else np.float32(0.02)
    bias = rng.integers(-900, 900, filters).astype("int32")
    constants = {
        "xs": np.float32(0.05), "xz": np.int8(x_zero), "w": w, "ws": w_scale, "ys": np.float32(0.4), "yz": np.int8(2),
        "b": bias, "bs": np.float32(0.05) * w_scale,
    }  # fmt: skip
    nodes = [
        node("DequantizeLinear", ["x", "xs", "xz"], ["xf"]),
        node("DequantizeLinear", ["w", "ws"], ["wf"], axis=axis),
        node("DequantizeLinear", ["b", "bs"], ["bf"], axis=0),
    ]
    if operator == "MatMul":
        nodes += [node("MatMul", ["xf", "wf"], ["p"]), node("Add", ["p", "bf"], ["s"])]
    else:
        nodes.append(node(operator, ["xf", "wf", "bf"], ["s"], **({"transB": 1} if operator == "Gemm" else {})))
    nodes += [node("Relu", ["s"], ["r"]), node("QuantizeLinear", ["r", "ys", "yz"], ["y"])]
    found = loaded(nodes, {"x": x}, {"y": "int8"}, constants)
    shifted = x.astype(np.int64) - x_zero
    if operator == "Conv":
        sums, spread = convolved(shifted, w, 1, 0, 1), (1, -1, 1, 1)
    else:
        sums, spread = shifted @ (w.T if operator == "Gemm" else w).astype(np.int64), (1, -1)
    scale = (np.float32(0.05) * w_scale).reshape(spread if scales == "per filter" else ())
    floats = (sums + bias.reshape(spread)).astype("float64") * scale
    steps = np.maximum(floats, 0) / np.float64(np.float32(0.4))
    got, want = run(found, {"x": x})[0], requantised(steps, 2, "int8")
    # float32 rounds what lies within 1e-3 of a half to either side.
    is_clear = np.abs(steps - np.floor(steps) - 0.5) > 1e-3
    assert is_clear.mean() > 0.9
    np.testing.assert_array_equal(got[is_clear], want[is_clear])
    assert np.abs(got.astype(int) - want).max() <= 1
    assert operand_bits(found)[0][:2] == (8, 8)


def test_a_quantised_gemm_and_neighbours_of_the_microsoft_domain():
    rng = np.random.default_rng(9)
    data, w, bias = (
        {"x": whole(rng, "uint8", 4, 16)},
        whole(rng, "int8", 6, 16),
        rng.integers(-99, 99, 6).astype("int32"),
    )
    constants = {
        "xs": np.float32(0.02), "xz": np.uint8(9), "w": w, "ws": np.float32(0.03), "wz": np.int8(0), "b": bias,
        "gs": np.float32(0.1), "gz": np.uint8(100), "ss": np.float32(1 / 256), "sz": np.uint8(0),
    }  # fmt: skip
    nodes = [
        node("QGemm", ["x", "xs", "xz", "w", "ws", "wz", "b", "gs", "gz"], ["g"], domain="com.microsoft", transB=1),
        node("QLinearSigmoid", ["g", "gs", "gz", "ss", "sz"], ["y"], domain="com.microsoft"),
    ]
    found = loaded(nodes, data, {"y": "uint8"}, constants)
    sums = (data["x"].astype(np.int64) - 9) @ w.T.astype(np.int64) + bias
    scale = np.float32(1) * np.float32(0.02) * np.float32(0.03) / np.float32(0.1)
    g = requantised(sums.astype("float32") * scale, 100, "uint8")
    sigmoid = 1 / (1 + np.exp(-(g.astype("float64") - 100) * 0.1))
    assert np.abs(run(found, data)[0].astype(int) - requantised(sigmoid * 256, 0, "uint8")).max() <= 1


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", ["packed", "floats", "none"])
def test_weights_of_few_bits_in_blocks(bits, zeros):
    rng = np.random.default_rng(10)
    depth, columns, block = 48, 5, 16
    values = rng.integers(0, 1 << bits, (columns, depth // block, block))
    scale = rng.uniform(0.1, 0.2, (columns, depth // block)).astype("float32")
    zero = np.full((columns, depth // block), 1 << (bits - 1))
    per_byte = 8 // bits

    def packed(numbers):
        padded = np.concatenate([numbers, np.zeros((*numbers.shape[:-1], -numbers.shape[-1] % per_byte), int)], -1)
        shifts = bits * np.arange(per_byte)
        return (padded.reshape(*numbers.shape[:-1], -1, per_byte) << shifts).sum(-1).astype("uint8")

    constants = {"w": packed(values), "s": scale.reshape(-1)}
    if zeros != "none":
        zero = rng.integers(0, 1 << bits, zero.shape)
        constants["z"] = packed(zero).reshape(-1) if zeros == "packed" else zero.astype("float32")
    data = {"x": rng.standard_normal((3, depth)).astype("float32")}
    layer = node("MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft", K=depth, N=columns, bits=bits,
                 block_size=block)  # fmt: skip
    matrix = ((values - zero[..., None]) * scale[..., None].astype("float64")).reshape(columns, depth).T
    got = run(loaded([layer], data, {"y": "float32"}, constants), data)[0]
    np.testing.assert_allclose(got, data["x"] @ matrix, rtol=1e-4, atol=1e-4)


def test_four_bit_constants_are_dequantised_once():
    rng = np.random.default_rng(11)
    values, scale = rng.integers(-8, 8, (32, 6)), rng.uniform(0.1, 0.2, (2, 6)).astype("float32")
    weight = helper.make_tensor("w", TensorProto.INT4, (32, 6), values.reshape(-1))
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["wf"], axis=0, block_size=16), node("MatMul", ["x", "wf"], ["y"])
    ]  # fmt: skip
    # For fewer rows they stay packed, see test_packed.
    data = {"x": rng.standard_normal((16, 32)).astype("float32")}
    found = loaded(nodes, data, {"y": "float32"}, {"w": weight, "s": scale}, opset=21)
    want = data["x"] @ (values * np.repeat(scale, 16, axis=0).astype("float64"))
    np.testing.assert_allclose(run(found, data)[0], want, rtol=1e-4, atol=1e-4)
    assert len(found.graph.tasks) == 1


def test_a_scale_that_depends_on_the_data_is_named():
    constants = {"xz": np.uint8(0), "w": np.ones((2, 2, 1, 1), "int8"), "ws": np.float32(1), "wz": np.int8(0),
                 "ys": np.float32(1), "yz": np.uint8(0)}  # fmt: skip
    layer = node("QLinearConv", ["x", "xs", *constants], ["y"], name="c1")
    data = {"x": np.zeros((1, 2, 4, 4), "uint8"), "xs": np.ones((), "float32")}
    with pytest.raises(ModelError, match=r"node 'c1' \(operator QLinearConv\): its scale 'xs' depends on the inputs"):
        loaded([layer], data, {"y": "uint8"}, constants)
