"""Boxes that layers need of each other, and what is computed twice when they are cut."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest

from tvm_spm.graph import GraphTensor, Layer, LayerGraph, Read, box_elems
from tvm_spm.reproduce.dlfusion.networks import retype
from tvm_spm.reproduce.dlfusion.recompute import balanced_parts, needed_boxes, recompute_factor
from tvm_spm.workload import DIM_NAMES, Axis, Epilogue, Workload


def mac_layer(name, workload, tensors, *reads):
    dims = workload.dims.as_dict() | {"G": workload.dims.G}
    return Layer(
        name=name, output=tensors[name], loops=tuple((dim, dims[dim]) for dim in DIM_NAMES), out_axes=workload.O.axes,
        reads=tuple(Read(tensor=tensors[t], role=role, accesses=(axes,)) for t, role, axes in reads),
        workload=workload,
    )  # fmt: skip


def image_chain(*steps, extent, channels, dtype="float32"):
    """Layers on square images: ``("conv", channels)`` is 3x3 with padding 1, ``("pool",)`` is 2x2 with stride 2."""
    tensors = [GraphTensor(name="data", shape=(1, channels, extent, extent), dtype=dtype)]
    layers = []
    for index, step in enumerate(steps):
        source = len(tensors) - 1 if index == 0 else layers[-1].output
        if step[0] == "conv":
            work = Workload.conv2d(
                K=step[1], C=channels, OY=extent, OX=extent, FY=3, FX=3, padding=1, IY=extent, IX=extent, dtype=dtype
            )
            tensors.append(
                GraphTensor(name=f"w{index}", shape=(step[1], channels, 3, 3), dtype=dtype, is_constant=True)
            )
            channels, names = step[1], {f"w{index}": len(tensors) - 1, "in": source, f"l{index}": len(tensors)}
            reads = (("in", "I", work.I.axes), (f"w{index}", "W", work.W.axes))
            layers.append(mac_layer(f"l{index}", work, names, *reads))
        else:
            shape = (1, channels, extent, extent)
            window = tuple(Axis(terms=((f"d{a}", 2), (f"r{a}", 1)), extent=extent) for a in (2, 3))
            plain = tuple(Axis(terms=((f"d{a}", 1),), extent=shape[a]) for a in (0, 1))
            extent //= 2
            loops = (("d0", 1), ("d1", channels), ("d2", extent), ("d3", extent), ("r2", 2), ("r3", 2))
            out = tuple(Axis(terms=((name, 1),), extent=size) for name, size in loops[:4])
            read = Read(tensor=source, role="vector", accesses=((*plain, *window),))
            layers.append(Layer(name=f"l{index}", output=len(tensors), loops=loops, out_axes=out, reads=(read,)))
        tensors.append(GraphTensor(name=f"t{index}", shape=(1, channels, extent, extent), dtype=dtype, producer=index))
    return LayerGraph(tensors=tuple(tensors), layers=tuple(layers), outputs=(len(tensors) - 1,))


def vgg19():
    stages = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
    steps = [step for width, count in stages for step in (*(("conv", width),) * count, ("pool",))]
    return image_chain(*steps, extent=224, channels=3)


def test_a_box_of_a_convolution_needs_its_window():
    # Rows 2..4 of a 3x3 convolution with padding 1 need rows 1..5; columns 0..7 of 8 need 0..7 (-1 and 8 are padding).
    graph = image_chain(("conv", 6), extent=8, channels=4)
    layer = graph.layers[0]
    loops = layer.loop_ranges(((0, 1), (1, 3), (2, 5), (0, 8)))
    assert loops["K"] == (1, 3)
    assert layer.reads[0].box(loops) == ((0, 1), (0, 4), (1, 6), (0, 8))
    assert layer.reads[1].box(loops) == ((1, 3), (0, 4), (0, 3), (0, 3))


def test_a_box_through_a_pool_and_a_convolution():
    # Row 1 of the pool needs rows 2 and 3 of the convolution, those need rows 1..4 of the image.
    graph = image_chain(("conv", 6), ("pool",), extent=8, channels=4)
    boxes = needed_boxes(graph, 0, 2, ((0, 1), (0, 6), (1, 2), (0, 4)))
    assert boxes == {1: ((0, 1), (0, 6), (1, 2), (0, 4)), 0: ((0, 1), (0, 6), (2, 4), (0, 8))}
    conv = graph.layers[0]
    assert conv.reads[0].box(conv.loop_ranges(boxes[0]))[2] == (1, 5)


def test_groups_and_channels_in_a_group():
    work = Workload.conv2d(K=6, C=4, OY=3, OX=3, FY=1, FX=1, groups=2)
    names = {"l": 2, "i": 0, "w": 1}
    layer = mac_layer("l", work, names, ("i", "I", work.I.axes), ("w", "W", work.W.axes))

    def channels(first, stop):
        loops = layer.loop_ranges(((0, 1), (first, stop), (0, 3), (0, 3)))
        return [read.box(loops)[axis] for read, axis in zip(layer.reads, (1, 0), strict=True)]

    # Output channels 3..5 are group 1 of 2: it reads input channels 2 and 3.
    assert channels(3, 5) == [(2, 4), (3, 5)]
    # 2..4 lie in both groups: all of both.
    assert channels(2, 4) == [(0, 4), (0, 6)]


def test_a_box_of_several_accesses_is_around_those_that_touch_the_tensor():
    # Channel d of the output is channel d - 2 or d - 6 of a tensor of 4; channels 4 and 5 read only the first.
    axes = [Axis(terms=(("d0", 1),), extent=4, offset=offset) for offset in (-2, -6)]
    read = Read(tensor=0, role="vector", accesses=tuple((axis,) for axis in axes))
    assert read.box({"d0": (4, 6)}) == ((2, 4),)
    assert read.box({"d0": (5, 8)}) == ((0, 4),)
    assert box_elems(read.box({"d0": (0, 2)})) == 0


def test_nothing_needs_nothing():
    # The window of no row at all is no row, although a window has three.
    graph = image_chain(("conv", 6), extent=8, channels=4)
    loops = graph.layers[0].loop_ranges(((0, 1), (0, 6), (4, 4), (0, 8)))
    assert box_elems(graph.layers[0].reads[0].box(loops)) == 0


def test_parts_are_as_equal_as_whole_rows_allow():
    # 7 rows in 4 parts: bounds 0, 7//4, 14//4, 21//4, 7.
    assert balanced_parts(7, 4) == ((0, 1), (1, 3), (3, 5), (5, 7))
    assert balanced_parts(2, 4) == ((0, 1), (1, 2))


def test_two_parts_of_two_convolutions():
    # Each half, rows 0..3 and 4..7, needs 5 rows of the first layer: 4 * 3 * 9 and 6 * 4 * 9 MACs per position.
    graph = image_chain(("conv", 4), ("conv", 6), extent=8, channels=3)
    first, second = 4 * 3 * 9, 6 * 4 * 9
    factor = recompute_factor(graph, 0, 2, axis=2, parts=balanced_parts(8, 2))
    assert factor == Fraction(10 * first + 8 * second, 8 * (first + second))


VGG19 = {
    ("conv1_1", "conv1_2"): "1.00 1.00 1.00 1.01 1.01",
    ("conv1_1", "conv2_2"): "1.02 1.06 1.13 1.28 1.57",
    ("conv3_1", "conv3_4"): "1.05 1.14 1.32 1.69 2.41",
    ("conv5_1", "conv5_4"): "1.21 1.64 2.43 3.64 3.64",
    ("conv1_1", "conv5_4"): "1.78 3.04 5.51 9.24 9.24",
}
"""Multipliers of compute for 2, 4, 8, 16 and 32 cores, from the published layer shapes."""


@pytest.mark.parametrize("block", VGG19, ids="-".join)
def test_rows_of_vgg19_over_cores(block):
    graph = vgg19()
    names = [
        f"conv{stage}_{i}" for stage, count in ((1, 2), (2, 2), (3, 4), (4, 4), (5, 4)) for i in range(1, count + 1)
    ]
    places = [index for index, layer in enumerate(graph.layers) if layer.workload is not None]
    first, last = (places[names.index(name)] for name in block)
    rows = graph.tensors[graph.layers[last].output].shape[2]
    factors = [
        recompute_factor(graph, first, last + 1, axis=2, parts=balanced_parts(rows, cores))
        for cores in (2, 4, 8, 16, 32)
    ]
    assert " ".join(f"{float(factor):.2f}" for factor in factors) == VGG19[block]


def test_parts_without_a_halo_compute_nothing_twice():
    graph = image_chain(("conv", 4), ("conv", 6), extent=6, channels=3)
    for parts in ((1,), (1, 2, 3)):
        channels = [
            recompute_factor(graph, 1, 2, axis=a, parts=balanced_parts(6, n))
            for a, n in itertools.product((1, 2), parts)
        ]
        assert set(channels) == {1}


def test_another_dtype():
    graph = image_chain(("conv", 4), ("pool",), extent=6, channels=3)
    half = retype(graph, "float16")
    assert {tensor.dtype for tensor in half.tensors} == {"float16"}
    work = half.layers[0].workload
    assert {work.I.dtype, work.W.dtype, work.O.dtype, work.out_dtype} == {"float16"}
    assert retype(half, "float32") == graph


def test_another_dtype_reaches_what_an_epilogue_reads_and_leaves_integers():
    work = Workload.conv2d(K=4, C=3, OY=6, OX=6, FY=3, FX=3, padding=1, IY=6, IX=6, dtype="int8", out_dtype="int32")
    extra = work.O.__class__(axes=(Axis(terms=(("K", 1),), extent=4),), dtype="float32")
    work = Workload(**{name: getattr(work, name) for name in ("kind", "dims", "I", "W", "O")}, out_dtype="float32",
                    epilogue=Epilogue(num_ops_per_elem=2, extras=(extra,)))  # fmt: skip
    layer = mac_layer("l", work, {"l": 2, "i": 0, "w": 1}, ("i", "I", work.I.axes), ("w", "W", work.W.axes))
    tensors = tuple(
        GraphTensor(name=n, shape=(1,), dtype=d) for n, d in (("i", "int8"), ("w", "int8"), ("o", "float32"))
    )
    half = retype(LayerGraph(tensors=tensors, layers=(layer,), outputs=(2,)), "float16")
    assert [tensor.dtype for tensor in half.tensors] == ["int8", "int8", "float16"]
    kept = half.layers[0].workload
    assert (kept.I.dtype, kept.O.dtype, kept.out_dtype) == ("int8", "int32", "float16")
    assert [extra.dtype for extra in kept.epilogue.extras] == ["float16"]
