"""What a layer is said to read of its inputs is all that a box of its output depends on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax
from tvm.relax import op

from tests.layer_cases import CASES, LOOSE, WIDENED, module, random_network
from tvm_spm.frontend import extract, load_model
from tvm_spm.frontend.layers.graph import NetworkLayers, layer_graph
from tvm_spm.graph import box_elems
from tvm_spm.group import Group, refuse_group
from tvm_spm.reproduce.dlfusion.recompute import balanced_parts, hull, needed_boxes, recompute_factor

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx"))


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
    assert refuse_group(Group.interval(graph, 0, 6)) is None
    assert refuse_group(Group.interval(graph, 1, 3)) is None
    assert refuse_group(Group.interval(graph, 3, 5)) is None
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
    assert graph.behind == ((0, 1),)
    names = graph.layers[1].name, graph.layers[0].name
    refusal = f"layer {names[0]}: reads what {names[1]} writes by way of a call that is no layer"
    assert refuse_group(Group.interval(graph, 0, 2)) == refusal


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


AFFINE = ("alexnet", "bert_base", "efficientnet_b0", "gpt2", "mobilenet_v2", "resnet18", "resnet50", "vgg19")
"""Built-in networks without upsampling, slices and parts of sequences, whose reads are wider than what is used."""


@pytest.mark.parametrize("model", [*AFFINE, *LIGHT], ids=lambda model: getattr(model, "stem", model))
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


@pytest.mark.parametrize("seed", range(12))
def test_boxes_through_a_whole_network(seed):
    """Every layer gets only what ``needed_boxes`` says, and the box of the last one is right all the same."""
    rng = np.random.default_rng(seed)
    extraction = extract(module(lambda builder: random_network(rng, builder)))
    layers = layer_graph(extraction)
    graph, stop = layers.graph, len(layers.graph.layers)
    assert refuse_group(Group.interval(graph, 0, stop)) is None
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
