"""What a function does before its nest is a task of its own: counted, and run as before."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, te, topi
from tvm.script import relax as R

from schedules.layer import check_timed_is_executed, schedule
from tvm_spm.deploy.runtime import build, run
from tvm_spm.frontend import extract, layer_graph
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.lowering.target import target_of
from tvm_spm.mapping import Mapping
from tvm_spm.workload import VectorWork, Workload


def relu_dense():
    data, weight = te.placeholder((8, 12), name="A"), te.placeholder((10, 12), name="W")
    return [data, weight], topi.nn.dense(topi.nn.relu(data), weight), lambda a, w: np.maximum(a, 0) @ w.T


def both_operands():
    data, weight = te.placeholder((8, 12), name="A"), te.placeholder((10, 12), name="W")
    dense = topi.nn.dense(topi.nn.relu(data), topi.abs(weight))
    return [data, weight], dense, lambda a, w: np.maximum(a, 0) @ np.abs(w).T


def chain_of_two():
    data, weight = te.placeholder((8, 12), name="A"), te.placeholder((10, 12), name="W")
    scaled = topi.multiply(topi.nn.relu(data), 2.0)
    return [data, weight], topi.nn.dense(scaled, weight), lambda a, w: 2 * np.maximum(a, 0) @ w.T


def operand_also_added():
    data, weight = te.placeholder((8, 12), name="A"), te.placeholder((12, 12), name="W")
    positive = topi.nn.relu(data)
    total = topi.add(topi.nn.dense(positive, weight), positive)
    return [data, weight], total, lambda a, w: np.maximum(a, 0) @ w.T + np.maximum(a, 0)


def padded_convolution():
    data, weight = te.placeholder((1, 3, 6, 6), name="A"), te.placeholder((4, 3, 3, 3), name="W")
    conv = topi.nn.conv2d_nchw(topi.nn.relu(data), weight, 1, 1, 1)

    def want(a, w):
        padded = np.pad(np.maximum(a, 0), ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return np.einsum("ncyxuv,kcuv->nkyx", windows, w)

    return [data, weight], conv, want


FUNCTIONS = [relu_dense, both_operands, chain_of_two, operand_also_added, padded_convolution]


def module_of(inputs, output) -> tvm.IRModule:
    """A user's function, called as it is."""
    builder = relax.BlockBuilder()
    func = te.create_prim_func([*inputs, output]).with_attr("global_symbol", "custom")
    name = builder.add_func(func, "custom")
    params = [relax.Var(t.op.name, R.Tensor([int(e) for e in t.shape], str(t.dtype))) for t in inputs]
    with builder.function("main", params):
        with builder.dataflow():
            out_ty = R.Tensor([int(e) for e in output.shape], str(output.dtype))
            result = builder.emit_output(relax.call_tir(name, params, out_ty))
        builder.emit_func_output(result)
    return builder.get()


@pytest.mark.parametrize("made", FUNCTIONS)
def test_it_is_a_task_and_computes_the_same(made):
    inputs, output, want = made()
    extraction = extract(module_of(inputs, output))
    assert extraction.graph.host_calls == ()
    assert all(nest is None or nest.prologue == () for nest in extraction.nests)
    kinds = [extraction.graph.tasks[node.task].kind for node in extraction.graph.nodes]
    assert set(kinds[:-1]) == {"vector"}
    assert kinds[-1] != "vector"
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-3, 4, [int(e) for e in t.shape]).astype("float32") for t in inputs]
    (got,) = run(build(extraction.mod, target_of("edge-256")), arrays)
    np.testing.assert_array_equal(got, want(*arrays))
    layers = layer_graph(extraction).graph
    assert len(layers.layers) == len(kinds)


def test_its_bytes_and_operations_are_counted():
    inputs, output, _ = both_operands()
    tasks = [task.work for task in extract(module_of(inputs, output)).graph.tasks]
    # 8 x 12 and 10 x 12 floats are read and written again, one operation each; the nest then reads what was written.
    counted = [(w.read_bytes, w.write_bytes, w.num_ops) for w in tasks if isinstance(w, VectorWork)]
    assert sorted(counted) == [(384, 384, 96), (480, 480, 120)]
    (nest,) = [work for work in tasks if isinstance(work, Workload)]
    assert nest.macs == 8 * 12 * 10


def test_what_both_need_is_read_by_the_nest_as_operand_and_extra():
    inputs, output, _ = operand_also_added()
    vector, nest = (task.work for task in extract(module_of(inputs, output)).graph.tasks)
    assert isinstance(vector, VectorWork)
    assert isinstance(nest, Workload)
    assert nest.epilogue.num_ops_per_elem == 1
    assert [extra.tensor_elems() for extra in nest.epilogue.extras] == [96]


def test_a_schedule_that_contains_it_is_not_what_was_timed():
    inputs, output, _ = relu_dense()
    func = te.create_prim_func([*inputs, output])
    nest = read_nest(func)
    assert isinstance(nest, TirNest)
    mapping = Mapping(spm=nest.workload.dims, rf=nest.workload.dims)
    scheduled = schedule(func, nest, mapping).mod["main"]
    found = check_timed_is_executed(scheduled, nest, mapping)
    assert found == "block compute: A in DRAM is accessed outside of copies"


def test_a_scale_per_channel_counts_for_every_output():
    data, weight, scale = (te.placeholder(s, name=n) for s, n in (((8, 12), "A"), ((10, 12), "W"), ((10,), "S")))
    func = te.create_prim_func([data, weight, scale, topi.multiply(topi.nn.dense(data, weight), topi.sqrt(scale))])
    nest = read_nest(func)
    assert isinstance(nest, TirNest)
    # The root is merged into the product, and taken for each of its elements.
    assert nest.workload.epilogue.num_ops_per_elem == 2
