"""What a layer is said to read of its inputs is all that a box of its output depends on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax, te
from tvm.relax import op

from tvm_spm.frontend import extract, load_model
from tvm_spm.frontend.layers import NetworkLayers, layer_graph
from tvm_spm.group import refuse_group
from tvm_spm.halo import balanced_parts, hull, needed_boxes, recompute_factor
from tvm_spm.layer_graph import box_elems
from tvm_spm.models import models

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx"))


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


CASES = {
    "conv": conv,
    "conv_nhwc": lambda rng, b: conv(rng, b, layout="NHWC"),
    "conv_grouped": lambda rng, b: conv(rng, b, groups=2),
    "conv_unpadded": lambda rng, b: conv(rng, b, groups=2, is_padded=False),
    "conv_nhwc_unpadded": lambda rng, b: conv(rng, b, layout="NHWC", is_padded=False),
    "depthwise": depthwise,
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
    "first_rows": lambda rng, b: first_rows(b),
    "sum_of_rows": lambda rng, b: op.sum(op.multiply(b.tensor(3, 4, 5), b.tensor(5)), axis=[0]),
}  # fmt: skip

WIDENED = ("flip", "upsample")
"""An index runs backwards or is rounded: its axis is read in full."""

LOOSE = (
    *WIDENED, "conv", "conv_nhwc", "conv_grouped", "depthwise", "with_epilogue", "where", "concat_of_one_tensor",
)  # fmt: skip
"""More is read than needed: at the border, taps of a filter lie in the padding; data selects; one box holds two."""


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


def boxes_of_params(layers: NetworkLayers, index: int, box):
    """Per parameter of the function, the box that the layer reads of it; None if it reads none."""
    layer = layers.graph.layers[index]
    loops = layer.loop_ranges(box)
    found = []
    for tensor in layers.arguments[index]:
        parts = [read.box(loops) for read in layer.reads if read.tensor == tensor]
        parts = [part for part in parts if box_elems(part)]
        total = parts[0] if parts else None
        for part in parts[1:]:
            total = hull(total, part)
        found.append(total)
    return found


def random_box(rng, shape):
    ranges = [sorted(int(v) for v in rng.choice(extent + 1, 2, replace=False)) for extent in shape]
    return tuple((first, stop) for first, stop in ranges)


def region(box):
    return tuple(slice(first, stop) for first, stop in box)


class Function:
    """A layer's function, compiled."""

    def __init__(self, extraction, layers, index, rng):
        graph = layers.graph
        name = extraction.graph.nodes[layers.node_of_layer[index]].name
        self.run_compiled = tvm.compile(extraction.mod[name].with_attr("global_symbol", name), target="llvm")
        self.out = graph.tensors[graph.layers[index].output]
        self.inputs = [
            rng.standard_normal(graph.tensors[tensor].shape).astype(graph.tensors[tensor].dtype)
            if graph.tensors[tensor].dtype.startswith("float")
            else rng.integers(-5, 5, graph.tensors[tensor].shape).astype(graph.tensors[tensor].dtype)
            for tensor in layers.arguments[index]
        ]

    def run(self, inputs):
        out = tvm.runtime.tensor(np.zeros(self.out.shape, self.out.dtype))
        self.run_compiled(*[tvm.runtime.tensor(array) for array in inputs], out)
        return out.numpy()


def poisoned(array, box, marker):
    other = np.full_like(array, marker)
    if box is not None:
        other[region(box)] = array[region(box)]
    return other


@pytest.mark.parametrize("case", CASES)
def test_nothing_outside_of_the_boxes_reaches_the_output(case):
    for seed in range(3):
        rng = np.random.default_rng([seed, len(case)])
        extraction = extract(module(lambda builder, rng=rng: CASES[case](rng, builder)))
        layers = layer_graph(extraction)
        assert layers.graph.layers
        assert not extraction.graph.host_calls
        for index in range(len(layers.graph.layers)):
            function = Function(extraction, layers, index, rng)
            wanted = function.run(function.inputs)
            for _ in range(6):
                box = random_box(rng, function.out.shape)
                parts = boxes_of_params(layers, index, box)
                # A maximum hides NaN or what is small, a minimum what is large.
                for marker in (np.nan, 1e30, -1e30) if function.out.dtype.startswith("float") else (101, -99):
                    inputs = [poisoned(a, part, marker) for a, part in zip(function.inputs, parts, strict=True)]
                    np.testing.assert_array_equal(function.run(inputs)[region(box)], wanted[region(box)])


@pytest.mark.parametrize("case", CASES)
def test_only_odd_indices_read_a_whole_axis(case):
    rng = np.random.default_rng(len(case))
    layers = layer_graph(extract(module(lambda builder: CASES[case](rng, builder))))
    assert [layer.refusal for layer in layers.graph.layers] == [None] * len(layers.graph.layers)
    assert any(layers.widened) == (case in WIDENED)


@pytest.mark.parametrize("case", [case for case in CASES if case not in LOOSE])
def test_the_outermost_elements_of_the_boxes_are_needed(case):
    rng = np.random.default_rng(len(case))
    extraction = extract(module(lambda builder: CASES[case](rng, builder)))
    layers = layer_graph(extraction)
    for index in range(len(layers.graph.layers)):
        function = Function(extraction, layers, index, rng)
        for _ in range(4):
            at = [int(rng.integers(0, extent)) for extent in function.out.shape]
            box = tuple((i, i + 1) for i in at)
            for number, part in enumerate(boxes_of_params(layers, index, box)):
                for axis, (first, stop) in enumerate(part or ()):
                    for edge in (first, stop - 1):
                        assert _matters(function, number, part, axis, edge, box), (number, part, axis, edge, box)


def _matters(function, number, part, axis, edge, box):
    plane = region((*part[:axis], (edge, edge + 1), *part[axis + 1 :]))
    results = []
    for marker in (np.nan, 1e30, -1e30):
        inputs = [array.copy() for array in function.inputs]
        inputs[number][plane] = marker
        results.append(function.run(inputs)[region(box)])
    wanted = function.run(function.inputs)[region(box)]
    return any(not np.array_equal(result, wanted) for result in results)


def graph_of(make):
    extraction = extract(module(make))
    layers = layer_graph(extraction)
    return layers.graph, layers, extraction


def small_conv(data, builder, channels=4, out=4):
    return builder.emit(op.nn.conv2d(data, builder.tensor(out, channels, 3, 3), padding=1))


def test_branches_are_contiguous_however_they_are_written():
    def make(builder):
        """Two branches, bound step by step side by side."""
        start = small_conv(builder.tensor(1, 4, 8, 8), builder)
        left, right = small_conv(start, builder), small_conv(start, builder)
        left, right = small_conv(left, builder), small_conv(right, builder)
        return op.concat([left, right], 1)

    graph, layers, extraction = graph_of(make)
    # start, left, right, left, right, join as bound; start, left, left, right, right, join as layers.
    assert layers.node_of_layer == (0, 1, 3, 2, 4, 5)
    assert refuse_group(graph, 0, 6) is None
    assert refuse_group(graph, 1, 3) is None
    assert refuse_group(graph, 3, 5) is None
    names = [extraction.graph.nodes[node].name for node in layers.node_of_layer]
    for var, name in zip(layers.bindings, names, strict=True):
        bound = next(b for b in extraction.mod["main"].body.blocks[0].bindings if b.var.same_as(var))
        assert bound.value.args[0].name_hint == name


def test_a_residual_is_an_extra_of_the_layer_that_adds_it():
    def make(builder):
        start = small_conv(builder.tensor(1, 4, 8, 8), builder)
        return op.nn.relu(op.add(small_conv(small_conv(start, builder), builder), start))

    graph, _, _ = graph_of(make)
    assert [[read.role for read in layer.reads] for layer in graph.layers] == [
        ["I", "W"],
        ["I", "W"],
        ["I", "W", "extra"],
    ]
    extra = graph.layers[2].reads[2]
    assert graph.tensors[extra.tensor].producer == 0
    # Element by element: a box of the sum needs the same box of the residual.
    box = ((0, 1), (1, 3), (2, 5), (0, 7))
    assert extra.box(graph.layers[2].loop_ranges(box)) == box


def test_a_product_of_two_activations():
    def make(builder):
        data, keys, queries = builder.tensor(6, 8), builder.tensor(8, 5), builder.tensor(8, 5)
        left, right = builder.emit(op.matmul(data, keys)), builder.emit(op.matmul(data, queries))
        return op.matmul(left, op.permute_dims(right, [1, 0]))

    graph, _, _ = graph_of(make)
    roles = {read.role: graph.tensors[read.tensor].producer for read in graph.layers[2].reads}
    assert roles == {"I": 0, "W": 1}
    loops = graph.layers[2].loop_ranges(((1, 3), (4, 6)))
    assert [read.box(loops) for read in graph.layers[2].reads] == [((1, 3), (0, 5)), ((4, 6), (0, 5))]


def test_views_cut_the_graph():
    def make(builder):
        flat = builder.emit(op.reshape(small_conv(builder.tensor(1, 4, 8, 8), builder), (1, 256)))
        return op.matmul(flat, builder.tensor(256, 3))

    graph, layers, extraction = graph_of(make)
    assert [call.name for call in extraction.graph.host_calls] == ["reshape"]
    assert graph.outputs == (graph.layers[0].output, graph.layers[1].output)
    assert graph.tensors[graph.layers[1].reads[0].tensor].producer is None
    assert refuse_group(graph, 0, 2) == f"layer {graph.layers[0].name}: its output is needed outside the network"


def test_weights_are_constants_and_inputs_are_not():
    bound = np.ones((4, 4, 3, 3), "float32")

    def make(builder):
        data = small_conv(builder.tensor(1, 4, 8, 8), builder)
        return op.nn.conv2d(data, relax.const(bound), padding=1)

    mod = module(make)
    mod["main"] = mod["main"].with_attr("num_input", 1)
    graph = layer_graph(extract(mod)).graph
    constants = [[graph.tensors[read.tensor].is_constant for read in layer.reads] for layer in graph.layers]
    assert constants == [[False, True], [False, True]]


def test_what_cannot_be_fused_says_why():
    def gathered(builder):
        return op.take(builder.tensor(5, 3), builder.tensor(4, dtype="int32"), axis=0)

    graph, layers, _ = graph_of(gathered)
    assert "where data says" in graph.layers[0].refusal
    read = next(read for read in graph.layers[0].reads if graph.tensors[read.tensor].shape == (5, 3))
    # Which rows is not known; the columns are.
    assert read.box(graph.layers[0].loop_ranges(((1, 2), (1, 3)))) == ((0, 5), (1, 3))

    def split(builder):
        return op.split(builder.tensor(6, 4), 2, 0)

    graph, _, _ = graph_of(split)
    assert [layer.refusal for layer in graph.layers] == ["it writes 2 tensors"]
    assert {graph.tensors[tensor].producer for tensor in graph.outputs} == {0}


def test_a_box_may_be_empty_only_where_nothing_is_read():
    graph, layers, _ = graph_of(lambda builder: op.concat([builder.tensor(2, 3), builder.tensor(4, 3)], 0))
    parts = boxes_of_params(layers, 0, ((0, 2), (0, 3)))
    assert parts == [((0, 2), (0, 3)), None]


@pytest.mark.parametrize("model", [*models(), *LIGHT], ids=lambda model: getattr(model, "stem", model))
def test_every_task_of_a_network_is_a_layer_with_affine_reads(model):
    extraction = extract(load_model(model))
    layers = layer_graph(extraction)
    graph = layers.graph
    assert sorted(layers.node_of_layer) == list(range(len(extraction.graph.nodes)))
    assert not any(layers.widened)
    assert not any(layer.refusal for layer in graph.layers)
    for index, (layer, node) in enumerate(zip(graph.layers, layers.node_of_layer, strict=True)):
        writers = {graph.tensors[read.tensor].producer for read in layer.reads} - {None}
        assert all(writer < index for writer in writers)
        assert {layers.node_of_layer[writer] for writer in writers} <= set(extraction.graph.nodes[node].inputs)
        for read in layer.reads:
            assert {tuple(axis.extent for axis in access) for access in read.accesses} == {
                graph.tensors[read.tensor].shape
            }
        if layer.workload is not None:
            _check_roles(layer)


def _check_roles(layer):
    """The operands of the nest, found there by another way."""
    by_role = {role: [read.accesses for read in layer.reads if read.role == role] for role in ("I", "W", "extra")}
    work = layer.workload
    assert (by_role["I"], by_role["W"]) == ([(work.I.axes,)], [(work.W.axes,)])
    assert by_role["extra"] == [(extra.axes,) for extra in work.epilogue.extras]


def test_rows_of_the_built_in_vgg19_over_cores():
    graph = layer_graph(extract(load_model("vgg19"))).graph
    last = max(index for index, layer in enumerate(graph.layers) if layer.workload and layer.workload.kind == "conv2d")
    # The published multiplier for all 16 convolutions on 16 cores, of which two have no row.
    factor = recompute_factor(graph, 0, last + 1, axis=2, parts=balanced_parts(14, 16))
    assert f"{float(factor):.2f}" == "9.24"


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


@pytest.mark.parametrize("seed", range(12))
def test_boxes_through_a_whole_network(seed):
    """Every layer gets only what ``needed_boxes`` says, and the box of the last one is right all the same."""
    rng = np.random.default_rng(seed)
    extraction = extract(module(lambda builder: random_network(rng, builder)))
    layers = layer_graph(extraction)
    graph, stop = layers.graph, len(layers.graph.layers)
    assert refuse_group(graph, 0, stop) is None
    functions = [Function(extraction, layers, index, rng) for index in range(stop)]
    values = {
        tensor: rng.standard_normal(graph.tensors[tensor].shape).astype("float32") * 0.3
        for tensor in range(len(graph.tensors))
        if graph.tensors[tensor].producer is None
    }

    def run(boxes, marker):
        found = dict(values)
        for index, function in enumerate(functions):
            if boxes is not None and index not in boxes:
                found[graph.layers[index].output] = np.full(function.out.shape, marker, "float32")
                continue
            inputs = [found[tensor] for tensor in layers.arguments[index]]
            if boxes is not None:
                parts = boxes_of_params(layers, index, boxes[index])
                inputs = [poisoned(array, part, marker) for array, part in zip(inputs, parts, strict=True)]
            out = function.run(inputs)
            found[graph.layers[index].output] = out if boxes is None else poisoned(out, boxes[index], marker)
        return found[graph.layers[-1].output]

    wanted = run(None, 0)
    for _ in range(3):
        box = random_box(rng, wanted.shape)
        boxes = needed_boxes(graph, 0, stop, box)
        for marker in (np.nan, 1e30, -1e30):
            np.testing.assert_array_equal(run(boxes, marker)[region(box)], wanted[region(box)])
