"""Quantised operators of Relay against integer arithmetic in numpy, bit by bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tvm

from tests.numeric.relay_operators import check, conv, integers
from tests.relay_cases import execute, function, metadata, outputs
from tvm_spm.frontend.relay import import_relay


def fixed(value, ratio):
    """value * ratio with a multiplier of 31 bits, halves up; Python integers have no width."""
    fraction, exponent = math.frexp(ratio)
    multiplier = int(math.floor(fraction * 2**31 + 0.5))
    shift = 31 - exponent
    return (value * multiplier + (1 << (shift - 1))) >> shift


def rescale(values, ratio, zero_point, low=-128, high=127):
    ratios = np.broadcast_to(np.asarray(ratio, "float64"), values.shape)
    found = [fixed(int(v), float(r)) for v, r in zip(values.ravel(), ratios.ravel(), strict=True)]
    return np.clip(np.array(found).reshape(values.shape) + zero_point, low, high)


def f32(value):
    return float(np.float32(value))


@pytest.mark.parametrize(("dtype", "weight_dtype", "zero", "weight_zero"), [
    ("int8", "int8", -128, 0), ("uint8", "uint8", 3, 128), ("uint8", "int8", 200, 7),
])  # fmt: skip
def test_quantised_layers_are_exact(dtype, weight_dtype, zero, weight_zero):
    low, high = (-128, 128) if dtype == "int8" else (0, 256)
    w_low, w_high = (-128, 128) if weight_dtype == "int8" else (0, 256)
    q, w = integers(low, high, 1, 3, 6, 5, dtype=dtype), integers(w_low, w_high, 4, 3, 3, 3, dtype=weight_dtype)
    rows, x = integers(w_low, w_high, 4, 7, dtype=weight_dtype), integers(low, high, 2, 7, dtype=dtype)
    scales = np.array([0.1, 0.02, 0.3, 0.004], "float32")
    wide = w.astype("int64") - weight_zero
    total = conv(q.astype("int64"), wide, stride=2, pad=(1, 1, 1, 0), fill=zero) - conv(
        np.full(q.shape, zero), wide, stride=2, pad=(1, 1, 1, 0), fill=zero
    )
    dense = (x.astype("int64") - zero) @ (rows.astype("int64") - weight_zero).T
    bias = np.array([100, -2000, 30, 4], "int32")
    layer = f"{zero}, {weight_zero}, 0.5f, meta[relay.Constant][2]"
    where = 'strides=[2, 2], padding=[1, 1, 1, 0], channels=4, kernel_size=[3, 3], out_dtype="int32"'
    text = f"qnn.conv2d(%q, meta[relay.Constant][0], {layer}, {where})"
    nhwc = (f'qnn.conv2d(transpose(%q, axes=[0, 2, 3, 1]), meta[relay.Constant][4], {layer}, {where}, '
            'data_layout="NHWC", kernel_layout="HWIO")')  # fmt: skip
    low_out, high_out = (-128, 127)
    check(
        {
            text: total.astype("int32"),
            nhwc: total.transpose(0, 2, 3, 1).astype("int32"),
            f'qnn.dense(%x, meta[relay.Constant][1], {layer}, units=4, out_dtype="int32")': dense.astype("int32"),
            f"qnn.requantize(nn.bias_add({text}, meta[relay.Constant][3]), meta[relay.Constant][2], 0, 30f, 5, axis=1, "
            'out_dtype="int8")': rescale(
                total + bias[:, None, None], (scales.astype("float64") / 30)[:, None, None], 5, low_out, high_out
            ).astype("int8"),
        },
        {"q": q, "x": x},
        constants=(w, rows, scales, bias, w.transpose(2, 3, 1, 0)),
    )


def test_quantised_layer_reads_eight_bits():
    q, w = integers(-128, 128, 1, 4, 5, 5), integers(-128, 128, 8, 4, 3, 3)
    body = "  qnn.conv2d(%q, meta[relay.Constant][0], 17, 0, 0.5f, 0.25f, padding=[1, 1, 1, 1])"
    mod = import_relay(function(body, {"q": q}) + metadata(w), origin="text")
    calls = [b.value for b in mod["main"].body.blocks[0].bindings]
    layer = next(call for call in calls if call.op.name == "relax.nn.conv2d")
    assert [str(arg.ty.dtype) for arg in layer.args] == ["int8", "int8"]
    assert str(layer.ty.dtype) == "int32"


def test_rescaling_rounds_as_relay_does():
    v = np.array([-5, -4, -3, -2, -1, 0, 1, 2, 3, 5, 1000, -1000, 2**30, -(2**30)], "int32")
    half = np.floor(v / 2 + 0.5)
    away = np.sign(v) * np.floor(np.abs(v) / 2 + 0.5)
    check(
        {
            'qnn.requantize(%v, 1f, 0, 2f, 0, out_dtype="int32")': half.astype("int32"),
            'qnn.requantize(%v, 1f, 0, 2f, 0, rounding="TONEAREST", out_dtype="int32")': away.astype("int32"),
            'qnn.requantize(%v, 1f, 0, 2f, 3, compute_dtype="float64", out_dtype="int8")': np.clip(
                half + 3, -128, 127
            ).astype("int8"),
            'qnn.requantize(%v, 1f, 0, 2f, 0, rounding="TONEAREST", compute_dtype="float32", '
            'out_dtype="int8")': np.clip(away, -128, 127).astype("int8"),
            'qnn.requantize(%v, 0.1f, 7, 0.3f, -4, out_dtype="uint8")': rescale(
                v.astype("int64") - 7, f32(0.1) / f32(0.3), -4, 0, 255
            ).astype("uint8"),
            'qnn.requantize(%v, 1e-20f, 0, 1f, 9, out_dtype="int8")': np.full(v.shape, 9, "int8"),
            "fixed_point_multiply(%v, multiplier=1073741824, shift=0)": half.astype("int32"),
            "fixed_point_multiply_per_axis(reshape(%v, newshape=[7, 2]), meta[relay.Constant][0], "
            "meta[relay.Constant][1], meta[relay.Constant][2], is_lshift_required=True, is_rshift_required=True, "
            "axes=[1])": np.stack([half[::2], v[1::2]], 1).astype("int32"),
        },
        {"v": v},
        constants=(np.array([1 << 30, 1 << 30], "int32"), np.array([0, 1], "int32"), np.array([0, 0], "int32")),
    )


def test_quantised_arithmetic():
    a, b = integers(-128, 128, 2, 3, 4), integers(-128, 128, 2, 3, 4)
    x = np.array([[-9.9, 0.25, 0.75, 1.25, 3, 100]], "float32")
    sa, sb, so = f32(0.1), f32(0.07), f32(0.15)
    left, right = (
        rescale(a.astype("int64") - 3, sa / so, -5, -(2**31), 2**31),
        rescale(b.astype("int64") + 2, sb / so, -5, -(2**31), 2**31),
    )
    product = (a.astype("int64") - 3) * (b.astype("int64") + 2)
    real = (a.astype("int32") - 3).astype("float32") * np.float32(0.1)
    halves = np.sign(x / np.float32(0.5)) * np.floor(np.abs(x / np.float32(0.5)) + 0.5)

    def quantised(values, scale, zero):
        steps = values / np.float32(scale)
        return np.clip(np.sign(steps) * np.floor(np.abs(steps) + 0.5) + zero, -128, 127).astype("int8")

    two = "%a, %b, 0.1f, 3, 0.07f, -2, 0.15f, -5"
    small = rescale(rescale(a.astype("int64") - 3, sa / so, -5, -(2**31), 2**31), 0.25, 0, -(2**31), 2**31) + fixed(
        -5, 0.75
    )
    leaky = np.where(a.astype(int) < 3, small, rescale(a.astype("int64") - 3, sa / so, -5, -(2**31), 2**31))
    check(
        {
            f"qnn.add({two})": np.clip(left + right + 5, -128, 127).astype("int8"),
            f"qnn.subtract({two})": np.clip(left - right - 5, -128, 127).astype("int8"),
            f"qnn.mul({two})": rescale(product, f32(np.float32(0.1) * np.float32(0.07)) / so, -5).astype("int8"),
            'qnn.quantize(%x, 0.5f, -4, out_dtype="int8")': np.clip(halves - 4, -128, 127).astype("int8"),
            'qnn.quantize(%x, 0.5f, 4, out_dtype="uint8")': np.clip(halves + 4, 0, 255).astype("uint8"),
            'qnn.dequantize(%a, 0.1f, 3, out_dtype="float32")': real,
            'qnn.dequantize(%a, meta[relay.Constant][0], meta[relay.Constant][1], axis=1, out_dtype="float32")': (
                a - np.array([1, 2, 3]).reshape(3, 1)
            ).astype("float32")
            * np.array([0.5, 1, 2], "float32").reshape(3, 1),
            "qnn.concatenate((%a, %b), (0.1f, 0.15f), (3, -5), 0.15f, -5, axis=1)": np.concatenate(
                [np.clip(left, -128, 127).astype("int8"), b], 1
            ),
            "qnn.tanh(%a, 0.1f, 3, 0.15f, -5)": quantised(np.tanh(real), 0.15, -5),
            "qnn.hardswish(%a, 0.1f, 3, 0.15f, -5)": quantised(real * np.clip(real + 3, 0, 6) / 6, 0.15, -5),
            "qnn.leaky_relu(%a, 0.1f, 3, 0.15f, -5)": np.clip(leaky, -128, 127).astype("int8"),
            "qnn.batch_matmul(%a, %b, 3, -2, 0.1f, 0.07f, transpose_b=True)": (
                (a.astype("int64") - 3) @ (b.astype("int64") + 2).transpose(0, 2, 1)
            ).astype("int32"),
        },
        {"a": a, "b": b, "x": x},
        constants=(np.array([0.5, 1, 2], "float32"), np.array([1, 2, 3], "int32")),
    )


def test_quantised_pool_and_softmax():
    a = integers(-100, 100, 1, 4, 4, 2)
    sums = a.transpose(0, 3, 1, 2).astype("int64").reshape(1, 2, 2, 2, 2, 2).sum((3, 5))
    row = np.array([[10, 20, 30, -40]], "int8")
    found = outputs(
        [
            'qnn.avg_pool2d(%a, 1f, 0, 1f, 0, pool_size=[2, 2], strides=[2, 2], layout="NHWC")',
            "qnn.softmax(%row, 0.1f, 0, 0.0078125f, 0, axis=-1)",
        ],
        {"a": a, "row": row},
    )
    quotient = (np.sign(sums) * (np.abs(sums) // 4)).transpose(0, 2, 3, 1)  # integers are divided towards zero
    np.testing.assert_array_equal(found[0], quotient.astype("int8"))
    real = np.exp(row * 0.1) / np.exp(row * 0.1).sum()
    assert np.abs(found[1] / 128 - real).max() < 0.04  # what the integer algorithm of the paper promises


QDQ = {
    "convolution, a scale per filter": (
        "nn.conv2d(qnn.dequantize(%q, 0.5f, 3), qnn.dequantize(meta[relay.Constant][0], meta[relay.Constant][1], "
        "meta[relay.Constant][2], axis=0), padding=[1, 1, 1, 1], channels=4, kernel_size=[3, 3])"
    ),
    "convolution over NHWC": (
        "nn.conv2d(qnn.dequantize(%r, 0.5f, 3), qnn.dequantize(meta[relay.Constant][3], meta[relay.Constant][1], "
        'meta[relay.Constant][2], axis=3), padding=[1, 1, 1, 1], channels=4, kernel_size=[3, 3], data_layout="NHWC", '
        'kernel_layout="HWIO")'
    ),
    "dense": (
        "nn.dense(qnn.dequantize(%x, 0.5f, 3), qnn.dequantize(meta[relay.Constant][4], meta[relay.Constant][1], "
        "meta[relay.Constant][2], axis=0), units=4)"
    ),
    "dense of a transposed weight": (
        "nn.dense(qnn.dequantize(%x, 0.5f, 3), transpose(qnn.dequantize(meta[relay.Constant][5], "
        "meta[relay.Constant][1], meta[relay.Constant][2], axis=1)), units=4)"
    ),
    "product of two tensors": (
        "nn.batch_matmul(qnn.dequantize(%u, 0.5f, 3), qnn.dequantize(%v, 0.25f, -2), transpose_b=True)"
    ),
    "product behind a reshape": (
        "nn.matmul(reshape(qnn.dequantize(%u, 0.5f, 3), newshape=[6, 5]), qnn.dequantize(meta[relay.Constant][6], "
        "0.25f, 0), transpose_a=False, transpose_b=False)"
    ),
}


MATMUL, CONV2D = tvm.ir.Op.get("relax.matmul"), tvm.ir.Op.get("relax.nn.conv2d")


def real(q, scale, zero):
    return (q.astype("int64") - zero) * np.asarray(scale, "float64")


@pytest.mark.parametrize("name", QDQ)
def test_layers_between_dequantised_tensors_multiply_bytes(name):
    rng = np.random.default_rng(4)
    q, w = (rng.integers(-128, 128, shape).astype("int8") for shape in ((1, 3, 6, 5), (4, 3, 3, 3)))
    x, rows = (rng.integers(-128, 128, shape).astype("int8") for shape in ((2, 7), (4, 7)))
    u, v, m = (rng.integers(-128, 128, shape).astype("int8") for shape in ((2, 3, 5), (2, 4, 5), (5, 4)))
    scales, zeros = np.array([0.125, 0.25, 2, 0.5], "float32"), np.array([0, 1, -3, 2], "int32")
    inputs = {"q": q, "r": q.transpose(0, 2, 3, 1).copy(), "x": x, "u": u, "v": v}
    constants = (w, scales, zeros, w.transpose(2, 3, 1, 0).copy(), rows, rows.T.copy(), m)
    kernel = real(w, scales[:, None, None, None], zeros[:, None, None, None])
    image = conv(real(q, 0.5, 3), kernel, stride=1, pad=(1, 1, 1, 1), fill=0)
    dense = real(x, 0.5, 3) @ real(rows, scales[:, None], zeros[:, None]).T
    want = {
        "convolution, a scale per filter": image, "convolution over NHWC": image.transpose(0, 2, 3, 1),
        "dense": dense, "dense of a transposed weight": dense,
        "product of two tensors": real(u, 0.5, 3) @ real(v, 0.25, -2).transpose(0, 2, 1),
        "product behind a reshape": real(u, 0.5, 3).reshape(6, 5) @ real(m, 0.25, 0),
    }[name]  # fmt: skip
    mod = import_relay(function(f"  {QDQ[name]}", inputs) + metadata(*constants), origin="text")
    # Scales are powers of two: nothing is rounded.
    np.testing.assert_array_equal(execute(mod, list(inputs.values()))[0], want)
    calls = [binding.value for binding in mod["main"].body.blocks[0].bindings]
    layers = [call for call in calls if getattr(call, "op", None) in (MATMUL, CONV2D)]
    assert [str(layer.ty.dtype) for layer in layers] == ["int32"]
    if name != "product of two tensors":
        assert str(layers[0].args[0].ty.dtype) == "int8"


def test_scales_inside_of_a_sum_leave_floats():
    x, scales = np.arange(6, dtype="int8").reshape(2, 3), np.array([1, 2, 4], "float32")
    data = "qnn.dequantize(%x, meta[relay.Constant][1], 0, axis=1)"
    text = f"  nn.dense({data}, qnn.dequantize(meta[relay.Constant][0], 1f, 0), units=3)"
    mod = import_relay(function(text, {"x": x}) + metadata(np.eye(3, dtype="int8"), scales), origin="text")
    np.testing.assert_array_equal(execute(mod, [x])[0], x * scales)
