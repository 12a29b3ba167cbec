"""Small networks, each about one operator; ``builder.tensor`` is an input and ``builder.emit`` a step."""

from __future__ import annotations

from tvm import relax, te
from tvm.relax import op


class Network:
    """Builds a Relax function with an input per tensor."""

    def __init__(self):
        self.builder, self.params = relax.BlockBuilder(), []

    def tensor(self, *shape, dtype="float32"):
        self.params.append(relax.Var(f"p{len(self.params)}", relax.TensorType(shape, dtype)))
        return self.params[-1]

    def emit(self, call):
        return self.builder.emit(call)


def module(make):
    """A function of one expression."""
    found = Network()
    with found.builder.function("main"):
        with found.builder.dataflow():
            made = make(found)
            out = found.builder.emit_output(found.builder.normalize(made))
        found.builder.emit_func_output(out, found.params)
    return found.builder.finalize()


def conv(rng, builder, *, layout="NCHW", groups=1, is_padded=True):
    stride, dilation = (tuple(int(v) for v in rng.integers(1, 3, 2)) for _ in range(2))
    padding = tuple(int(v) for v in rng.integers(0, 3, 4)) if is_padded else 0
    window = tuple(int(v) for v in rng.integers(1, 4, 2))
    channels, filters = 2 * groups, 3 * groups
    rows, cols = (int(v) for v in rng.integers(7, 11, 2))
    if layout == "NCHW":
        data, weight = (2, channels, rows, cols), (filters, channels // groups, *window)
    else:
        data, weight = (2, rows, cols, channels), (*window, channels // groups, filters)
    return op.nn.conv2d(
        builder.tensor(*data), builder.tensor(*weight), strides=stride, dilation=dilation, padding=padding,
        groups=groups, data_layout=layout, kernel_layout="OIHW" if layout == "NCHW" else "HWIO",
    )  # fmt: skip


def depthwise(rng, builder):
    multiplier = int(rng.integers(1, 3))
    data, weight = builder.tensor(1, 4, 8, 9), builder.tensor(4 * multiplier, 1, 3, 3)
    return op.nn.conv2d(data, weight, groups=4, padding=1, strides=int(rng.integers(1, 3)))


def quantised(rng, builder):
    """Eight bits in, 32 bits in the sum, eight bits out."""
    data, weight = builder.tensor(1, 4, 7, 6, dtype="int8"), builder.tensor(6, 4, 3, 3, dtype="int8")
    total = op.nn.conv2d(data, weight, padding=1, strides=int(rng.integers(1, 3)), out_dtype="int32")
    return op.astype(op.clip(op.add(total, builder.tensor(1, 6, 1, 1, dtype="int32")), -128, 127), "int8")


def with_epilogue(rng, builder):
    """Bias, residual, scale per channel, activation."""
    total = op.nn.conv2d(builder.tensor(1, 3, 8, 8), builder.tensor(4, 3, 3, 3), padding=1)
    total = op.add(op.add(total, builder.tensor(1, 4, 1, 1)), builder.tensor(1, 4, 8, 8))
    return op.nn.relu(op.multiply(total, builder.tensor(4, 1, 1)))


def matmul(rng, builder, *, batch=(), transposed=False, shared=False):
    m, k, n = (int(v) for v in rng.integers(2, 9, 3))
    weight = builder.tensor(*(() if shared else batch), *((n, k) if transposed else (k, n)))
    axes = [*range(len(batch) * (not shared)), *(v + len(batch) * (not shared) for v in (1, 0))]
    return op.matmul(builder.tensor(*batch, m, k), op.permute_dims(weight, axes) if transposed else weight)


def max_pool(rng, builder):
    size, stride, padding = (int(v) for v in (rng.integers(2, 4), rng.integers(1, 4), rng.integers(0, 2)))
    return op.nn.max_pool2d(
        builder.tensor(1, 3, 9, 8), (size, size), (stride, stride), padding, ceil_mode=bool(stride % 2)
    )


def avg_pool(rng, builder):
    data, stride = builder.tensor(1, 3, 9, 8), int(rng.integers(1, 3))
    return op.nn.avg_pool2d(data, (3, 3), (stride, stride), 1, count_include_pad=bool(rng.integers(0, 2)))


def local_response(rng, builder):
    """Normalisation over neighbouring channels."""
    data = builder.tensor(1, 8, 4, 5)
    squares = builder.emit(op.expand_dims(op.multiply(data, data), 1))
    summed = builder.emit(op.nn.avg_pool3d(squares, (3, 1, 1), (1, 1, 1), (1, 0, 0), count_include_pad=True))
    scaled = op.add(op.multiply(op.squeeze(summed, [1]), relax.const(1e-4)), relax.const(1.0))
    return op.divide(data, op.power(scaled, relax.const(0.75)))


def batch_norm(rng, builder):
    params = [builder.tensor(5) for _ in range(4)]
    return relax.TupleGetItem(builder.emit(op.nn.batch_norm(builder.tensor(2, 5, 4, 3), *params, axis=1)), 0)


def layer_norm(rng, builder):
    return op.nn.layer_norm(builder.tensor(2, 6, 8), builder.tensor(8), builder.tensor(8), axes=-1)


def concat(rng, builder):
    axis, shapes = int(rng.integers(1, 4)), [[2, 3, 4, 5] for _ in range(3)]
    for shape in shapes:
        shape[axis] = int(rng.integers(1, 5))
    return op.nn.relu(op.concat([builder.tensor(*shape) for shape in shapes], axis))


def concat_of_one_tensor(rng, builder):
    data = builder.tensor(2, 4, 5)
    return op.concat([data, builder.tensor(2, 2, 5), data], 1)


def shuffle_channels(rng, builder):
    """What reshape, transpose and reshape back do to channels."""
    data = op.reshape(builder.tensor(1, 12, 4, 5), (1, 3, 4, 4, 5))
    return op.reshape(op.permute_dims(data, (0, 2, 1, 3, 4)), (1, 12, 4, 5))


def merged_axes(rng, builder):
    return op.nn.relu(op.reshape(op.permute_dims(builder.tensor(2, 3, 4, 5), (0, 2, 1, 3)), (2, 4, 15)))


def first_rows(builder):
    """Every element plus the sum of the first three rows: the window does not cover the axis it shares."""

    def element(data):
        row = te.reduce_axis((0, 3), name="row")
        total = te.compute((5,), lambda x: te.sum(data[row, x], axis=row), name="total")
        return te.compute((8, 5), lambda y, x: data[y, x] + total[x], name="element")

    return builder.builder.call_te(element, builder.tensor(8, 5))


def truncated(builder):
    """Row y is row ``int(0.5 * y)`` of the input."""

    def element(data):
        return te.compute((6, 4), lambda y, x: data[(y.astype("float32") * 0.5).astype("int32"), x], name="half")

    return builder.builder.call_te(element, builder.tensor(3, 4))


CASES = {
    "conv": conv,
    "conv_nhwc": lambda rng, b: conv(rng, b, layout="NHWC"),
    "conv_grouped": lambda rng, b: conv(rng, b, groups=2),
    "conv_unpadded": lambda rng, b: conv(rng, b, groups=2, is_padded=False),
    "conv_nhwc_unpadded": lambda rng, b: conv(rng, b, layout="NHWC", is_padded=False),
    "depthwise": depthwise,
    "quantised": quantised,
    "with_epilogue": with_epilogue,
    "matmul": matmul,
    "matmul_transposed": lambda rng, b: matmul(rng, b, transposed=True),
    "matmul_batched": lambda rng, b: matmul(rng, b, batch=(2, 3), transposed=True),
    "matmul_shared_weight": lambda rng, b: matmul(rng, b, batch=(4,), shared=True),
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "global_pool": lambda rng, b: op.mean(b.tensor(2, 3, 4, 5), axis=[2, 3]),
    "global_pool_kept": lambda rng, b: op.mean(b.tensor(2, 3, 4, 5), axis=[2, 3], keepdims=True),
    "variance": lambda rng, b: op.variance(b.tensor(3, 4, 5), axis=[1]),
    "local_response": local_response,
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "softmax": lambda rng, b: op.nn.softmax(b.tensor(2, 4, 6), axis=-1),
    "softmax_of_channels": lambda rng, b: op.nn.softmax(b.tensor(2, 4, 6), axis=1),
    "add": lambda rng, b: op.nn.relu(op.add(b.tensor(2, 3, 4, 5), b.tensor(2, 3, 4, 5))),
    "add_broadcast": lambda rng, b: op.add(b.tensor(2, 3, 4, 5), b.tensor(3, 1, 5)),
    "clip": lambda rng, b: op.clip(b.tensor(3, 7), -0.5, 0.5),
    "concat": concat,
    "concat_of_one_tensor": concat_of_one_tensor,
    "transpose": lambda rng, b: op.nn.relu(op.permute_dims(b.tensor(2, 3, 4), (2, 0, 1))),
    "shuffle_channels": shuffle_channels,
    "merged_axes": merged_axes,
    "slice": lambda rng, b: op.strided_slice(b.tensor(2, 9, 8), [1, 2], [1, 2], [9, 8], [3, 2]),
    "pad": lambda rng, b: op.nn.pad(b.tensor(2, 3, 4), [0, 0, 1, 2, 2, 0]),
    "upsample": lambda rng, b: op.image.resize2d(b.tensor(1, 2, 4, 5), (8, 10), method="nearest_neighbor",
                                                 coordinate_transformation_mode="asymmetric"),
    "flip": lambda rng, b: op.flip(b.tensor(3, 4, 5), 1),
    "repeat": lambda rng, b: op.repeat(b.tensor(3, 4), 2, 1),
    "tile": lambda rng, b: op.tile(b.tensor(3, 4), (1, 2)),
    "where": lambda rng, b: op.where(op.greater(b.tensor(3, 4), relax.const(0.0)), b.tensor(3, 4), b.tensor(3, 1)),
    "truncated": lambda rng, b: truncated(b),
    "first_rows": lambda rng, b: first_rows(b),
    "sum_of_rows": lambda rng, b: op.sum(op.multiply(b.tensor(3, 4, 5), b.tensor(5)), axis=[0]),
}  # fmt: skip

WIDENED = ("flip", "upsample", "truncated")
"""An index runs backwards or is rounded: its axis is read in full."""

LOOSE = (
    *WIDENED, "conv", "conv_nhwc", "conv_grouped", "depthwise", "quantised", "with_epilogue", "where",
    "concat_of_one_tensor",
)  # fmt: skip
"""More is read than needed: at the border, taps of a filter lie in the padding; data selects; one box holds two."""


def random_network(rng, builder):
    """Five random steps on an image of 8 channels: chains, residuals, branches, pools, shuffles."""
    data = builder.tensor(1, 8, 11, 10)

    def filtered(value, stride=1, groups=1):
        size = int(rng.integers(0, 2)) * 2 + 1
        weight = builder.tensor(8, 8 // groups, size, size)
        total = op.nn.conv2d(value, weight, padding=size // 2, strides=stride, groups=groups)
        return builder.emit(op.nn.relu(op.add(total, builder.tensor(1, 8, 1, 1))))

    def residual(value):
        total = op.nn.conv2d(filtered(value), builder.tensor(8, 8, 3, 3), padding=1)
        return builder.emit(op.nn.relu(op.add(total, value)))

    def branches(value):
        parts = [
            op.nn.conv2d(value, builder.tensor(3, 8, 1, 1)),
            op.nn.conv2d(filtered(value), builder.tensor(5, 8, 1, 1)),
        ]
        return builder.emit(op.concat([builder.emit(part) for part in parts], 1))

    def pooled(value):
        return builder.emit(op.nn.max_pool2d(value, (3, 3), (2, 2), 1))

    def shuffled(value):
        shape = [int(extent) for extent in value.ty.shape.values]
        split = op.permute_dims(op.reshape(value, (1, 2, 4, *shape[2:])), (0, 2, 1, 3, 4))
        return builder.emit(op.reshape(split, shape))

    steps = (
        filtered, lambda value: filtered(value, stride=2), lambda value: filtered(value, groups=4), residual, branches,
        pooled, shuffled, lambda value: builder.emit(op.nn.softmax(value, axis=1)),
        lambda value: builder.emit(op.nn.avg_pool2d(value, (3, 3), (1, 1), 1)),
    )  # fmt: skip
    for pick in rng.integers(0, len(steps), 5):
        data = steps[pick](data)
    return op.nn.relu(data)
