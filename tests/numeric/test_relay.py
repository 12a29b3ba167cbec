"""Operators of Relay against numpy, one text per family. Integers are equal, floats within a few roundings."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tests.numeric.relay_operators import check, conv, integers, normal
from tests.relay_cases import execute, function, metadata, outputs, run
from tvm_spm.frontend.relay import OPERATORS, import_relay
from tvm_spm.frontend.relay.operators.registry import describe_operators


def test_element_wise():
    x, y = normal(2, 3, 4), normal(4)
    n, m = np.array([-7, 7, -8, 5], "int32"), np.array([2, -2, 3, 4], "int32")
    h = np.array([0.5, 1.5, 2.5, -0.5, -2.5, 0.49999997, -0.49999997, 7.2], "float32")
    p = np.abs(x) + np.float32(0.5)
    erf = np.vectorize(math.erf)
    check(
        {
            "add(%x, %y)": x + y,
            "%x - %y * 2f": x - y * np.float32(2),
            "divide(%n, %m)": np.array([-3, -3, -2, 1], "int32"),  # towards zero
            "mod(%n, %m)": np.array([-1, 1, -2, 1], "int32"),
            "floor_divide(%n, %m)": np.array([-4, -4, -3, 1], "int32"),
            "right_shift(%n, 1)": n >> 1,
            "left_shift(%n, 2)": n << 2,
            "power(%p, 2f)": p**2,
            "maximum(%x, %y)": np.maximum(x, y),
            "minimum(%x, 0f)": np.minimum(x, 0),
            "%x >= %y": x >= y,
            "logical_and(less(%x, 0f), logical_not(equal(%x, %y)))": (x < 0) & (x != y),
            "negative(abs(%x))": -np.abs(x),
            "round(%h)": np.array([1, 2, 3, -1, -3, 0, -0.0, 7], "float32"),  # halves away from zero
            "floor(%x) + ceil(%x)": np.floor(x) + np.ceil(x),
            "sign(%x)": np.sign(x),
            "nn.relu(%x)": np.maximum(x, 0),
            "sigmoid(%x)": (1 / (1 + np.exp(-x.astype("float64")))).astype("float32"),
            "tanh(%x)": np.tanh(x),
            "erf(%x)": erf(x).astype("float32"),
            "rsqrt(%p)": (1 / np.sqrt(p.astype("float64"))).astype("float32"),
            "log(exp(%x))": x,
            "nn.leaky_relu(%x, alpha=0.1f)": np.where(x > 0, x, x * np.float32(0.1)),
            "nn.leaky_relu(%x)": np.where(x > 0, x, x * np.float32(0.25)),
            "nn.prelu(%x, %y, axis=2)": np.where(x > 0, x, x * y),
            "nn.bias_add(%x, %y, axis=-1)": x + y,
            "clip(%x, a_min=-0.5f, a_max=0.25f)": np.clip(x, np.float32(-0.5), np.float32(0.25)),
            'cast(%h, dtype="int32")': h.astype("int32"),
            "where(greater(%x, 0f), %x, %y)": np.where(x > 0, x, y),
            "zeros_like(%x)": np.zeros_like(x),
        },
        {"x": x, "n": n, "m": m, "h": h, "p": p},
        weights={"y": y},
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip


def test_convolutions_in_every_layout():
    x, w = normal(1, 4, 7, 6), normal(8, 4, 3, 3)
    grouped, depthwise, line = normal(6, 2, 3, 3), normal(4, 2, 3, 3), normal(5, 4, 3)
    nhwc = x.transpose(0, 2, 3, 1).copy()
    packed = x.reshape(1, 2, 2, 7, 6).transpose(0, 1, 3, 4, 2).copy()
    # (O/4, I/2, kh, kw, 2i, 4o)
    packed_w = w.reshape(2, 4, 2, 2, 3, 3).transpose(0, 2, 4, 5, 3, 1).copy()
    expected = conv(x, w, stride=2, pad=(1, 0, 1, 2))
    as_rows = np.concatenate([depthwise[c : c + 1].reshape(2, 1, 3, 3) for c in range(4)])
    constants = (w, w.transpose(2, 3, 1, 0), packed_w, grouped, depthwise, depthwise.transpose(2, 3, 0, 1), line,
                 w.transpose(1, 0, 2, 3), w.transpose(2, 3, 0, 1))  # fmt: skip
    where = ", ".join(("strides=[2, 2]", "padding=[1, 0, 1, 2]", "channels=8", "kernel_size=[3, 3]"))
    c = [f"meta[relay.Constant][{i}]" for i in range(len(constants))]
    check(
        {
            f"nn.conv2d(%x, {c[0]}, {where})": expected,
            f'nn.conv2d(%nhwc, {c[1]}, {where}, data_layout="NHWC", kernel_layout="HWIO")': expected.transpose(
                0, 2, 3, 1
            ),
            f'nn.contrib_conv2d_NCHWc(%packed, {c[2]}, {where}, data_layout="NCHW2c", kernel_layout="OIHW2i4o", '
            'out_layout="NCHW4c")': expected.reshape(1, 2, 4, *expected.shape[2:]).transpose(0, 1, 3, 4, 2),
            f"nn.conv2d(%x, {c[3]}, padding=[1], groups=2, dilation=[2, 2])": conv(
                x, grouped, pad=(1,) * 4, dilation=2, groups=2
            ),
            f"nn.conv2d(%x, {c[4]}, groups=4, channels=8)": conv(x, as_rows, groups=4),
            f'nn.conv2d(%nhwc, {c[5]}, groups=4, data_layout="NHWC", kernel_layout="HWOI")': conv(
                x, as_rows, groups=4
            ).transpose(0, 2, 3, 1),
            f"nn.conv1d(squeeze(strided_slice(%x, begin=[0], end=[1], axes=[2]), axis=[2]), {c[6]}, padding=[1])": conv(
                x[:, :, :1], line[:, :, None], pad=(0, 1, 0, 1)
            )[:, :, 0],
            f"nn.conv2d_transpose(%x, {c[7]}, channels=8, kernel_size=[3, 3], strides=[2, 2], padding=[1, 1])": (
                transpose_conv(x, w, stride=2)[:, :, 1:-1, 1:-1]
            ),
            f'nn.conv2d_transpose(%nhwc, {c[8]}, strides=[2, 2], data_layout="NHWC", kernel_layout="HWOI")': (
                transpose_conv(x, w, stride=2).transpose(0, 2, 3, 1)
            ),
        },
        {"x": x, "nhwc": nhwc, "packed": packed},
        constants=constants, rtol=1e-5, atol=1e-5,
    )  # fmt: skip


def transpose_conv(x, w, stride):
    """Every input element scatters the kernel (OIHW here)."""
    batch, ins, height, width = x.shape
    outs, _, rows, columns = w.shape
    out = np.zeros((batch, outs, (height - 1) * stride + rows, (width - 1) * stride + columns), "float32")
    for y, z in itertools.product(range(height), range(width)):
        patch = np.einsum("bi,oihw->bohw", x[:, :, y, z], w)
        out[:, :, y * stride : y * stride + rows, z * stride : z * stride + columns] += patch
    return out


def test_layers_of_one_layout_are_joined_without_moving_data():
    x, w = normal(1, 8, 8, 4), normal(3, 3, 4, 4)
    body = """
      %0 = nn.conv2d(%x, meta[relay.Constant][0], padding=[1, 1], data_layout="NHWC", kernel_layout="HWIO");
      %1 = nn.bias_add(%0, meta[relay.Constant][1], axis=3);
      %2 = clip(%1, a_min=0f, a_max=6f);
      %3 = nn.max_pool2d(%2, pool_size=[2, 2], strides=[2, 2], layout="NHWC");
      %4 = nn.pad(%3, 0f, pad_width=[[0, 0], [0, 1], [0, 1], [0, 0]]);
      %5 = nn.conv2d(%4, meta[relay.Constant][0], data_layout="NHWC", kernel_layout="HWIO");
      %6 = concatenate((%5, add(%5, %5)), axis=3);
      mean(%6, axis=[1, 2])"""
    bias = normal(4)
    mod = import_relay(function(body, {"x": x}) + metadata(w, bias), origin="text")
    names = [str(b.value.op.name) for b in mod["main"].body.blocks[0].bindings if hasattr(b.value, "op")]
    assert names.count("relax.permute_dims") == 1  # of the input alone
    plain, kernel = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
    first = np.clip(conv(plain, kernel, pad=(1,) * 4) + bias[:, None, None], 0, 6)
    pooled = first.reshape(1, 4, 4, 2, 4, 2).max((3, 5))
    second = conv(np.pad(pooled, ((0, 0), (0, 0), (0, 1), (0, 1))), kernel)
    expected = np.concatenate([second, second + second], 1).mean((2, 3))
    np.testing.assert_allclose(execute(mod, [x])[0], expected, rtol=1e-4, atol=1e-5)


def test_layout_transform_and_back():
    x = normal(1, 8, 3, 2)
    packed = x.reshape(1, 2, 4, 3, 2).transpose(0, 1, 3, 4, 2)
    to, back = 'src_layout="NCHW", dst_layout="NCHW4c"', 'src_layout="NCHW4c", dst_layout="NCHW"'
    check(
        {
            f"layout_transform(%x, {to})": packed,
            f"nn.relu(layout_transform(%x, {to}))": np.maximum(packed, 0),
            f"layout_transform(nn.relu(layout_transform(%x, {to})), {back})": np.maximum(x, 0),
            "add(transpose(%x, axes=[0, 2, 3, 1]), meta[relay.Constant][0])": x.transpose(0, 2, 3, 1)
            + np.arange(8, dtype="float32"),
            "reshape(transpose(%x, axes=[0, 2, 3, 1]), newshape=[0, -1])": x.transpose(0, 2, 3, 1).reshape(1, 48),
        },
        {"x": x},
        constants=(np.arange(8, dtype="float32"),),
    )


def test_products():
    x, w, a, b = normal(3, 5), normal(4, 5), normal(2, 3, 5), normal(2, 4, 5)
    packed = normal(2, 5, 4)
    check(
        {
            "nn.dense(%x, %w, units=4)": x @ w.T,
            "nn.dense(%a, %w, units=None)": a @ w.T,
            "nn.contrib_dense_pack(%x, %packed, units=8)": x @ packed.transpose(0, 2, 1).reshape(8, 5).T,
            "nn.matmul(%x, %w, units=None, transpose_b=True)": x @ w.T,
            "nn.matmul(%w, %w, units=None, transpose_a=True)": w.T @ w,
            "nn.batch_matmul(%a, %b, transpose_b=True)": a @ b.transpose(0, 2, 1),
            "nn.batch_matmul(%a, transpose(%b, axes=[0, 2, 1]))": a @ b.transpose(0, 2, 1),
            "nn.batch_flatten(%a)": a.reshape(2, 15),
        },
        {"x": x, "a": a, "b": b},
        weights={"w": w, "packed": packed},
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip


def test_pools_and_images():
    x = normal(1, 8, 4, 6)
    pairs = x.reshape(1, 8, 2, 2, 3, 2)
    blocks = x.reshape(1, 2, 2, 2, 4, 6)
    rows, columns = np.arange(8) // 2, np.arange(12) // 2
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    sums = sum(padded[:, :, y : y + 4, z : z + 6] for y in range(3) for z in range(3))
    counts = sum(np.pad(np.ones((4, 6)), 1)[y : y + 4, z : z + 6] for y in range(3) for z in range(3))
    check(
        {
            "nn.max_pool2d(%x, pool_size=[2, 2], strides=[2, 2], padding=[0, 0, 0, 0])": pairs.max((3, 5)),
            "nn.avg_pool2d(%x, pool_size=[2, 2], strides=[2, 2])": pairs.mean((3, 5)),
            "nn.avg_pool2d(%x, pool_size=[3, 3], padding=[1, 1, 1, 1])": (sums / counts).astype("float32"),
            "nn.avg_pool2d(%x, pool_size=[3, 3], padding=[1, 1, 1, 1], count_include_pad=True)": sums / 9,
            "nn.global_avg_pool2d(%x)": x.mean((2, 3), keepdims=True),
            "nn.global_max_pool2d(%x)": x.max((2, 3), keepdims=True),
            "nn.adaptive_avg_pool2d(%x, output_size=[2, 3])": pairs.mean((3, 5)),
            "nn.adaptive_max_pool2d(%x, output_size=[1, 1])": x.max((2, 3), keepdims=True),
            "nn.pad(%x, 2f, pad_width=[[0, 0], [0, 0], [1, 0], [0, 2]])": np.pad(
                x, ((0, 0), (0, 0), (1, 0), (0, 2)), constant_values=2
            ),
            'nn.pad(%x, 0f, pad_width=[[0, 0], [0, 0], [1, 2], [0, 2]], pad_mode="reflect")': np.pad(
                x, ((0, 0), (0, 0), (1, 2), (0, 2)), mode="reflect"
            ),
            'nn.pad(%x, 0f, pad_width=[[0, 0], [0, 0], [1, 2], [0, 2]], pad_mode="edge")': np.pad(
                x, ((0, 0), (0, 0), (1, 2), (0, 2)), mode="edge"
            ),
            "nn.mirror_pad(%x, pad_width=[[0, 0], [0, 0], [1, 2], [0, 2]])": np.pad(
                x, ((0, 0), (0, 0), (1, 2), (0, 2)), mode="symmetric"
            ),
            'nn.upsampling(%x, scale_h=2f, scale_w=2f, method="nearest_neighbor")': x[:, :, rows][..., columns],
            'image.resize2d(%x, size=[8, 12], roi=[0f, 0f, 0f, 0f], method="nearest_neighbor", '
            'coordinate_transformation_mode="asymmetric", rounding_method="floor")': x[:, :, rows][..., columns],
            "nn.depth_to_space(%x, block_size=2)": blocks.transpose(0, 3, 4, 1, 5, 2).reshape(1, 2, 8, 12),
            'nn.depth_to_space(%x, block_size=2, mode="CRD")': x.reshape(1, 2, 2, 2, 4, 6)
            .transpose(0, 1, 4, 2, 5, 3)
            .reshape(1, 2, 8, 12),
            "nn.space_to_depth(nn.depth_to_space(%x, block_size=2), block_size=2)": x,
        },
        {"x": x},
    )


def test_normalisations():
    x, scale, shift = normal(2, 4, 3, 3), normal(4), normal(4)
    mean, var = normal(4), np.abs(normal(4)) + np.float32(0.5)
    t, g, s = normal(2, 5, 6), normal(6), normal(6)

    def over(axes, data, eps):
        return (data - data.mean(axes, keepdims=True)) / np.sqrt(data.var(axes, keepdims=True) + eps)

    c = (slice(None), None, None)
    exps = np.exp(x - x.max(1, keepdims=True))
    squares = np.pad(x * x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    local = sum(squares[:, i : i + 4] for i in range(3))
    grouped = over((2, 3, 4), x.reshape(2, 2, 2, 3, 3), 1e-5).reshape(x.shape)
    check(
        {
            "nn.softmax(%x, axis=1)": exps / exps.sum(1, keepdims=True),
            "nn.log_softmax(%t)": t - np.log(np.exp(t).sum(-1, keepdims=True)),
            "nn.batch_norm(%x, %scale, %shift, %mean, %var, epsilon=0.001f).0": (x - mean[c])
            / np.sqrt(var[c] + 1e-3)
            * scale[c]
            + shift[c],
            "nn.batch_norm(%x, %scale, %shift, %mean, %var, scale=False, center=False).0": (x - mean[c])
            / np.sqrt(var[c] + 1e-5),
            "nn.layer_norm(%t, %g, %s)": over(-1, t, 1e-5) * g + s,
            "nn.instance_norm(%x, %scale, %shift)": over((2, 3), x, 1e-5) * scale[c] + shift[c],
            "nn.group_norm(%x, %scale, %shift, num_groups=2)": grouped * scale[c] + shift[c],
            "nn.l2_normalize(%x, eps=0.01f, axis=[1])": x / np.sqrt(np.maximum((x * x).sum(1, keepdims=True), 0.01)),
            "nn.lrn(%x, size=3, bias=1f, alpha=0.5f, beta=0.75f)": x / (1 + 0.5 / 3 * local) ** 0.75,
            "nn.dropout(%x).0": x,
        },
        {"x": x, "t": t},
        weights={"scale": scale, "shift": shift, "mean": mean, "var": var, "g": g, "s": s},
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_moving_data():
    x, table = normal(2, 3, 4), normal(5, 3)
    i = np.array([[0, 9], [4, 1]], "int32")
    check(
        {
            "reshape(%x, newshape=[0, -1])": x.reshape(2, 12),
            "reshape(%x, newshape=[-3, -2])": x.reshape(6, 4),
            "reshape(%x, newshape=[0, 0, -4, 2, -1])": x.reshape(2, 3, 2, 2),
            "dyn.reshape(%x, meta[relay.Constant][0], newshape=None)": x.reshape(4, 6),
            "transpose(%x)": x.T,
            "transpose(%x, axes=[1, 0, 2])": x.transpose(1, 0, 2),
            "squeeze(expand_dims(%x, axis=1, num_newaxis=2))": x,
            "expand_dims(%x, axis=-1)": x[..., None],
            "concatenate((%x, %x), axis=-1)": np.concatenate([x, x], -1),
            "stack((%x, %x), axis=1)": np.stack([x, x], 1),
            "split(%x, indices_or_sections=2, axis=2).1": x[:, :, 2:],
            "split(%x, indices_or_sections=[1], axis=1).1": x[:, 1:],
            "strided_slice(%x, begin=[0, 2], end=[2, 0], strides=[1, -1], axes=[0, 1])": x[:, 2:0:-1],
            "strided_slice(%x, begin=[-1], end=[-100], strides=[-1], axes=[1])": x[:, ::-1],
            'strided_slice(%x, begin=[0, 1, 1], end=[-1, 1, 2], slice_mode="size", axes=None)': x[:, 1:2, 1:3],
            "take(%table, %i, axis=0)": table[np.clip(i, 0, 4)],
            "take(%table, %i)": table.reshape(-1)[i],
            "gather(%table, %j, axis=1)": np.take_along_axis(table[:2], J, 1),
            "gather_nd(%table, %j)": table[J[0], J[1]],
            "repeat(%x, repeats=2, axis=1)": x.repeat(2, 1),
            "tile(%table, reps=[2, 1])": np.tile(table, (2, 1)),
            "reverse(%x, axis=0)": x[::-1],
            "broadcast_to(%table, shape=[2, 5, 3])": np.broadcast_to(table, (2, 5, 3)),
            'full(2f, shape=[2, 2], dtype="float32")': np.full((2, 2), 2, "float32"),
            'zeros(shape=[3], dtype="int32")': np.zeros(3, "int32"),
            "full_like(%table, 1f)": np.ones_like(table),
            'arange(1, 7, 2, start=None, stop=None, step=None, dtype="int32")': np.array([1, 3, 5], "int32"),
            "shape_of(%x)": np.array([2, 3, 4], "int32"),
            'one_hot(%j, 2f, 0f, depth=3, axis=-1, dtype="float32")': 2 * np.eye(3, dtype="float32")[J],
        },
        {"x": x, "i": i, "j": J},
        weights={"table": table},
        constants=(np.array([4, -1], "int64"),),
    )


J = np.array([[0, 2], [1, 1]], "int32")


def test_reductions():
    x = normal(2, 3, 4)
    ties = np.array([[1, 3, 3], [2, 2, 0]], "float32")
    mean = x.mean(1, keepdims=True)
    check(
        {
            "sum(%x)": x.sum(),
            "sum(%x, axis=[1], keepdims=True)": x.sum(1, keepdims=True),
            "mean(%x, axis=[0, 2])": x.mean((0, 2)),
            "mean(%x, axis=[0], exclude=True)": x.mean((1, 2)),
            "max(%x, axis=[-1])": x.max(-1),
            "min(%x, axis=[1])": x.min(1),
            "prod(%x, axis=[2])": x.prod(2),
            "all(greater(%x, -1f), axis=[2])": (x > -1).all(2),
            "any(greater(%x, 1f), axis=[2])": (x > 1).any(2),
            "variance(%x, mean(%x, axis=[1], keepdims=True), axis=[1])": ((x - mean) ** 2).mean(1),
            "variance(%x, mean(%x, axis=[1]), axis=[1], unbiased=True)": x.var(1, ddof=1),
            "argmax(%ties, axis=[1])": np.array([1, 0], "int32"),
            "argmax(%ties, axis=[1], select_last_index=True)": np.array([2, 1], "int32"),
            "argmin(%ties, axis=[0], keepdims=True)": np.array([[0, 1, 1]], "int32"),
            "argmax(%ties)": np.array(1, "int32"),
        },
        {"x": x, "ties": ties},
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip


def test_sorting_stays_on_the_host():
    x = np.array([[3, 1, 2], [0, 5, 4]], "float32")
    found = outputs(
        ["topk(%x, k=2, axis=-1).0", "topk(%x, k=2, axis=-1).1", 'argsort(%x, axis=1, dtype="int32")'], {"x": x}
    )
    np.testing.assert_array_equal(found[0], [[3, 2], [5, 4]])
    np.testing.assert_array_equal(found[1], [[0, 2], [1, 2]])
    np.testing.assert_array_equal(found[2], [[1, 2, 0], [0, 2, 1]])


def test_every_family_of_the_reference_is_covered():
    lines = describe_operators().splitlines()
    assert lines[-1] == f"{len(OPERATORS)} operators"
    assert "nn.softmax(data, axis=-1)" in lines
    assert "clip(data, a_min, a_max)" in lines
    assert len(OPERATORS) >= 150
    for prefix, least in (("nn.", 40), ("qnn.", 20), ("image.", 1), ("dyn.", 2)):
        assert sum(name.startswith(prefix) for name in OPERATORS) >= least, prefix


def test_constants_of_a_text_are_computed_once_and_not_per_inference():
    w = integers(-128, 128, 2, 3, dtype="int8")
    body = '  nn.dense(%x, qnn.dequantize(meta[relay.Constant][0], 0.5f, 1, out_dtype="float32"), units=2)'
    x = normal(4, 3)
    mod = import_relay(function(body, {"x": x}) + metadata(w), origin="text")
    assert len(mod["main"].body.blocks[0].bindings) <= 3  # a transpose, the product, the output
    np.testing.assert_allclose(execute(mod, [x])[0], x @ ((w.astype("float32") - 1) * 0.5).T, rtol=1e-5, atol=1e-4)


def test_run_needs_only_what_the_text_declares():
    x = normal(2, 2)
    assert np.array_equal(run(function("  %x", {"x": x}), {"x": x})[0], x)
