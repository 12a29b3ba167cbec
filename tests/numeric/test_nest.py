"""``read_nest`` finds the workload that a TIR function computes, whatever its operators are called."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tvm
from tvm import te, tirx, topi

from tests.numeric import plain
from tvm_spm.frontend.tir.nest import TirNest, Unsupported, read_nest
from tvm_spm.workload import Dims, Projection, Workload


def tensor(name, *shape, dtype="float32"):
    return te.placeholder(shape, name=name, dtype=dtype)


def nest_of(*tensors) -> TirNest:
    nest = read_nest(te.create_prim_func(list(tensors)))
    assert isinstance(nest, TirNest), nest
    return nest


def reason_of(*tensors) -> str:
    nest = read_nest(te.create_prim_func(list(tensors)))
    assert isinstance(nest, Unsupported), nest
    return nest.reason


def element(array, projection: Projection, at: dict[str, int]):
    index = [axis.offset + sum(factor * at[name] for name, factor in axis.terms) for axis in projection.axes]
    inside = all(0 <= i < axis.extent for i, axis in zip(index, projection.axes, strict=True))
    return array[tuple(index)] if inside else 0


def interpret(workload: Workload, data, weight):
    """Walk the nest one multiply-accumulate at a time; what lies outside of I is zero."""
    out = np.zeros([axis.extent for axis in workload.O.axes], workload.O.dtype)
    names = list(workload.dims.as_dict() | {"G": workload.dims.G})
    for values in itertools.product(*(range(workload.dims[name]) for name in names)):
        at = dict(zip(names, values, strict=True))
        index = tuple(sum(f * at[name] for name, f in axis.terms) for axis in workload.O.axes)
        left, right = element(data, workload.I, at), element(weight, workload.W, at)
        out[index] += np.asarray(left).astype(out.dtype) * np.asarray(right).astype(out.dtype)
    return out


CONVS = {
    "same": {"K": 4, "C": 3, "OY": 5, "OX": 5, "FY": 3, "FX": 3, "padding": 1, "IY": 5, "IX": 5},
    "stride_dilation": {"N": 2, "K": 2, "C": 3, "OY": 3, "OX": 4, "FY": 3, "FX": 1, "stride": (2, 1), "dilation": 2},
    "asymmetric": {"K": 2, "C": 2, "OY": 4, "OX": 3, "FY": 2, "FX": 3, "padding": (1, 0, 0, 2)},
    "grouped": {"K": 6, "C": 4, "OY": 3, "OX": 3, "FY": 3, "FX": 3, "groups": 2, "padding": 1},
    "depthwise": {"K": 4, "C": 4, "OY": 4, "OX": 4, "FY": 3, "FX": 3, "groups": 4, "stride": 2, "padding": 1},
    "pointwise": {"K": 8, "C": 8, "OY": 4, "OX": 3, "FY": 1, "FX": 1},
    "nhwc": {"K": 4, "C": 3, "OY": 5, "OX": 4, "FY": 3, "FX": 3, "padding": 1, "layout": "NHWC"},
}


@pytest.mark.parametrize("name", CONVS)
def test_reads_back_the_workload_a_function_was_made_from(name):
    workload = Workload.conv2d(dtype="int8", out_dtype="int32", **CONVS[name])
    assert read_nest(plain.prim_func(workload)) == plain.nest(workload)


@pytest.mark.parametrize("name", ["int8", "int16", "float16", "float32"])
def test_element_widths_are_those_of_the_buffers(name):
    accumulate = {"int8": "int32", "int16": "int32", "float16": "float32", "float32": "float32"}[name]
    workload = Workload.matmul(m=3, k=4, n=5, batch=2, transposed_weight=True, dtype=name, out_dtype=accumulate)
    assert read_nest(plain.prim_func(workload)) == plain.nest(workload)


def topi_cases():
    image = tensor("A", 1, 4, 7, 6, dtype="int32")
    depthwise = tensor("W", 4, 2, 3, 3, dtype="int32")
    yield "depthwise_multiplier", image, depthwise, topi.nn.depthwise_conv2d_nchw(image, depthwise, 2, 1, 1)
    grouped = tensor("W", 6, 2, 3, 2, dtype="int32")
    yield "group_conv2d", image, grouped, topi.nn.conv(image, grouped, (1, 2), (1, 0, 0, 1), 1, 2, "NCHW", "OIHW")
    single = tensor("W", 4, 1, 3, 3, dtype="int32")
    yield "depthwise", image, single, topi.nn.conv(image, single, 1, 1, 2, 4, "NCHW", "OIHW")
    rows = tensor("A", 2, 7, 6, 3, dtype="int32")
    filters = tensor("W", 3, 1, 3, 4, dtype="int32")
    yield "nhwc", rows, filters, topi.nn.conv(rows, filters, (2, 1), (1, 0, 0, 1), 1, 1, "NHWC", "HWIO")
    batch, other = tensor("A", 2, 3, 4, dtype="int32"), tensor("W", 2, 5, 4, dtype="int32")
    yield "batch_matmul", batch, other, topi.nn.batch_matmul(batch, other)
    line, taps = tensor("A", 2, 3, 9, dtype="int32"), tensor("W", 4, 3, 3, dtype="int32")
    yield "conv1d", line, taps, topi.nn.conv(line, taps, 2, 1, 1, 1, "NCW", "OIW")


@pytest.mark.parametrize("case", list(topi_cases()), ids=lambda case: case[0])
def test_the_workload_computes_what_the_function_computes(case):
    _, data, weight, result = case
    func = te.create_prim_func([data, weight, result])
    nest = read_nest(func)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-9, 10, [int(e) for e in t.shape]).astype("int32") for t in (data, weight)]
    out = tvm.runtime.tensor(np.zeros([int(e) for e in result.shape], "int32"))
    tvm.compile(func, target="llvm")(*[tvm.runtime.tensor(a) for a in arrays], out)
    np.testing.assert_array_equal(interpret(nest.workload, *arrays), out.numpy())
    # Every iteration variable of extent > 1 stands for dims whose extents multiply to its own.
    sch = tvm.s_tir.Schedule(func)
    block = sch.get(sch.get_sblock(nest.block))
    for var, dims in zip(block.iter_vars, nest.iter_dims, strict=True):
        product = 1
        for dim in dims:
            product *= nest.workload.dims[dim]
        assert product == int(var.dom.extent)


def test_group_channels_are_group_outside_and_filter_inside():
    image, filters = tensor("A", 1, 4, 5, 5), tensor("W", 6, 2, 3, 3)
    nest = nest_of(image, filters, topi.nn.conv(image, filters, 1, 0, 1, 2, "NCHW", "OIHW"))
    assert nest.workload.dims == Dims(G=2, K=3, C=2, OY=3, OX=3, FY=3, FX=3)
    assert nest.iter_dims[1] == ("G", "K")


def test_padding_guarded_inside_the_sum_is_an_offset():
    image, filters = tensor("A", 1, 2, 5), tensor("W", 3, 2, 3)
    c, f = te.reduce_axis((0, 2), name="c"), te.reduce_axis((0, 3), name="f")

    def sum_up(n, k, x):
        inside = tirx.all(x + f >= 1, x + f < 6)
        return te.sum(tirx.if_then_else(inside, image[n, c, x + f - 1], 0.0) * filters[k, c, f], axis=[c, f])

    nest = nest_of(image, filters, te.compute((1, 3, 5), sum_up))
    # One element of padding in front; the last tap of the last output reads index 4 + 2 - 1 = 5, one behind the end.
    assert (nest.workload.I.axes[2].offset, nest.workload.I.axes[2].extent) == (-1, 5)
    assert nest.pad_block is None


def test_a_broadcast_weight_leaves_the_batch_to_the_rows():
    data, weight = tensor("A", 2, 3, 4), tensor("W", 4, 5)
    k = te.reduce_axis((0, 4))
    nest = nest_of(data, weight, te.compute((2, 3, 5), lambda b, m, n: te.sum(data[b, m, k] * weight[k, n], axis=k)))
    assert nest.workload.dims == Dims(N=2, OX=3, C=4, K=5)
    assert nest.workload.W.relevant_dims == ("K", "C")


def test_two_batch_axes_get_a_dim_each():
    data, weight = tensor("A", 2, 3, 4, 5), tensor("W", 2, 3, 5, 6)
    k = te.reduce_axis((0, 5))
    nest = nest_of(
        data, weight, te.compute((2, 3, 4, 6), lambda a, b, m, n: te.sum(data[a, b, m, k] * weight[a, b, k, n], axis=k))
    )
    assert nest.workload.W.relevant_dims == ("N", "G", "K", "C")
    assert nest.workload.macs == 2 * 3 * 4 * 5 * 6


def test_a_weight_in_front_of_the_image_is_still_the_weight():
    image, filters = tensor("A", 1, 2, 5), tensor("W", 3, 2, 3)
    c, f = te.reduce_axis((0, 2)), te.reduce_axis((0, 3))
    nest = nest_of(
        filters, image,
        te.compute((1, 3, 3), lambda n, k, x: te.sum(filters[k, c, f] * image[n, c, x + f], axis=[c, f])),
    )  # fmt: skip
    assert (nest.input_read, nest.weight_read) == (1, 0)
    assert nest.workload.dims == Dims(K=3, C=2, OX=3, FX=3)


def test_epilogue_reads_a_bias_and_a_residual():
    data, weight = tensor("A", 3, 4, dtype="int8"), tensor("W", 5, 4, dtype="int8")
    bias, rest = tensor("B", 5, dtype="int32"), tensor("R", 3, 5, dtype="int32")
    total = topi.nn.dense(data, weight, out_dtype="int32")
    result = topi.cast(topi.nn.relu(topi.add(topi.add(total, bias), rest)), "int8")
    nest = nest_of(data, weight, bias, rest, result)
    work = nest.workload
    # add, add, max with 0, cast
    assert work.epilogue.num_ops_per_elem == 4
    assert [extra.relevant_dims for extra in work.epilogue.extras] == [("K",), ("K", "OX")]
    assert (work.I.dtype, work.O.dtype, work.out_dtype) == ("int8", "int32", "int8")
    assert len(nest.epilogue) == 4


def test_two_residuals_of_one_shape_are_two_extras_and_one_read_twice_is_one():
    data, weight = tensor("A", 3, 4), tensor("W", 5, 4)
    first, second = tensor("R", 3, 5), tensor("S", 3, 5)
    total = topi.add(topi.add(topi.nn.dense(data, weight), first), second)
    assert len(nest_of(data, weight, first, second, total).workload.epilogue.extras) == 2
    twice = topi.multiply(topi.add(topi.nn.dense(data, weight), first), first)
    assert len(nest_of(data, weight, first, twice).workload.epilogue.extras) == 1


def test_blocks_in_front_are_the_prologue():
    data, weight = tensor("A", 3, 4), tensor("W", 5, 4)
    nest = nest_of(data, weight, topi.nn.dense(topi.nn.relu(data), weight))
    assert (len(nest.prologue), nest.pad_block) == (1, None)


def test_unsupported_functions_say_why():
    data, weight = tensor("A", 4, 4), tensor("W", 4, 4)
    k = te.reduce_axis((0, 4))
    assert reason_of(data, topi.nn.relu(data)) == "no block multiplies two tensors and accumulates"
    square = te.compute((4, 4), lambda m, n: te.sum(data[m, k] * data[n, k], axis=k))
    assert reason_of(data, square) == "both operands are the same tensor"
    chain = topi.nn.dense(topi.nn.dense(data, weight), weight)
    assert reason_of(data, weight, chain) == "2 blocks multiply and accumulate, one is expected"
    backwards = te.compute((4, 4), lambda m, n: te.sum(data[m, 3 - k] * weight[n, k], axis=k))
    assert reason_of(data, weight, backwards) == "an index runs backwards"
    volume, filters = tensor("A", 1, 2, 5, 5, 5), tensor("W", 3, 2, 3, 3, 3)
    conv3d = topi.nn.conv(volume, filters, 1, 0, 1, 1, "NCDHW", "OIDHW")
    assert reason_of(volume, filters, conv3d) == "a window slides along 3 axes, two are supported"
    halves = te.compute((5, 4), lambda m, n: te.sum(data[m // 2, k] * weight[n, k], axis=k))
    assert "leaves a remainder" in reason_of(data, weight, halves)


def test_a_symbolic_shape_is_refused():
    rows = tirx.Var("rows", "int64")
    data, weight = te.placeholder((rows, 4), name="A"), tensor("W", 5, 4)
    nest = read_nest(te.create_prim_func([data, weight, topi.nn.dense(data, weight)]))
    assert nest == Unsupported(reason="tensor A has a symbolic shape", has_macs=False)


@pytest.mark.parametrize(("value", "pad_block", "prologue"), [(0.0, "pad", ()), (1.0, None, ("pad",))])
def test_only_zeros_are_padding(value: float, pad_block: str | None, prologue: tuple[str, ...]):
    data, weight = tensor("A", 2, 6), tensor("W", 3, 2, 3)
    c, f = te.reduce_axis((0, 2)), te.reduce_axis((0, 3))
    padded = topi.nn.pad(data, (0, 1), pad_value=value, name="pad")
    total = te.compute((3, 6), lambda k, x: te.sum(padded[c, x + f] * weight[k, c, f], axis=[c, f]), name="total")
    nest = nest_of(data, weight, total)
    assert (nest.pad_block, nest.prologue) == (pad_block, prologue)


def test_what_follows_a_sum_follows_it_element_by_element():
    data, weight = tensor("A", 4, 4), tensor("W", 4, 4)
    total, j = topi.nn.dense(data, weight), te.reduce_axis((0, 4))
    turned = te.compute((4, 4), lambda m, n: total[m, n] + total[n, m], name="turned")
    assert reason_of(data, weight, turned) == "block turned reads the sum of another element"
    row = te.compute((4,), lambda m: te.sum(total[m, j], axis=j), name="row")
    centred = te.compute((4, 4), lambda m, n: total[m, n] - row[m], name="centred")
    assert reason_of(data, weight, centred) == "block row behind the sum reduces"
    flat = te.compute((16,), lambda i: total[i // 4, i % 4], name="flat")
    assert reason_of(data, weight, flat) == "block flat changes the shape (4, 4) to (16,)"
