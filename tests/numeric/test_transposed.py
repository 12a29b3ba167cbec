"""Transposed convolutions run as dense ones: no product with an inserted zero, and every number as it was."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tvm
from tvm import relax

from schedules.layer import check_timed_is_executed, schedule
from tests.numeric.fused import network
from tests.numeric.sampled import sample_mapping
from tvm_spm.deploy.runtime import build, run
from tvm_spm.deploy.verify.compare import verify_task
from tvm_spm.frontend import Extraction, extract
from tvm_spm.frontend.transposed import runs_of
from tvm_spm.lowering.target import target_of
from tvm_spm.workload import VectorWork, Workload

# Input, filter (C, K / groups, taps), and attributes as TVM names them.
LAYERS = {
    "2x2, stride 2": ((1, 6, 5, 4), (6, 5, 2, 2), {"strides": (2, 2)}),
    "3x3, stride 2, output padding": (
        (2, 4, 5, 6), (4, 3, 3, 3), {"strides": (2, 2), "padding": (1, 1, 1, 1), "output_padding": (1, 1)},
    ),
    "uneven padding": ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": (2, 2), "padding": (1, 0, 0, 1)}),
    "groups": ((1, 6, 5, 4), (6, 2, 3, 3), {"strides": (2, 2), "groups": 3}),
    "depthwise, two strides": ((1, 4, 5, 6), (4, 1, 3, 4), {"strides": (3, 2), "groups": 4, "padding": (1, 1, 1, 1)}),
    "one axis": ((1, 4, 9), (4, 3, 4), {"strides": 2, "padding": (1, 1)}),
    "one axis, groups, output padding": (
        (2, 4, 7), (4, 2, 5), {"strides": 3, "groups": 2, "padding": (2, 1), "output_padding": 2},
    ),
    "fewer taps than strides": ((1, 4, 5, 6), (4, 3, 1, 2), {"strides": (3, 3)}),
    "dilation beside the stride": ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": (2, 3), "dilation": (2, 2)}),
    "dilation shares a factor": (
        (1, 4, 5, 6), (4, 3, 3, 3), {"strides": (4, 3), "dilation": (2, 3), "padding": (1, 2, 0, 1)},
    ),
    "stride 1": ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": (1, 1), "padding": (1, 1, 1, 1)}),
    "many residues": ((1, 3, 4, 3), (3, 2, 8, 8), {"strides": (4, 4), "padding": (2, 2, 2, 2)}),
    "cut deeply": ((1, 2, 5, 5), (2, 2, 4, 4), {"strides": (2, 2), "padding": (3, 3, 2, 4)}),
}  # fmt: skip


def layer_of(name: str, *, constant: bool) -> tuple[tvm.IRModule, list[np.ndarray]]:
    data_shape, filter_shape, attrs = LAYERS[name]
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-3, 4, shape).astype("float32") for shape in (data_shape, filter_shape)]
    op = relax.op.nn.conv1d_transpose if len(data_shape) == 3 else relax.op.nn.conv2d_transpose

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        return builder.emit(op(p[0], relax.const(arrays[1]) if constant else p[1], **attrs))

    return network([(array.shape, "float32") for array in arrays], body), arrays


def scattered(name: str, data: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, int]:
    """The definition: every input adds to the outputs its taps reach; also the products of one input with the rest."""
    attrs = LAYERS[name][2]
    spatial = data.ndim - 2

    def listed(key: str, default: int) -> list[int]:
        value = attrs.get(key, default)
        return [value] * spatial if isinstance(value, int) else list(value)

    strides, dilation, extra = listed("strides", 1), listed("dilation", 1), listed("output_padding", 0)
    pads = attrs.get("padding", (0,) * 2 * spatial)
    groups, per_group = attrs.get("groups", 1), weight.shape[1]
    full = [
        (n - 1) * s + (k - 1) * d + 1 + e
        for n, s, k, d, e in zip(data.shape[2:], strides, weight.shape[2:], dilation, extra, strict=True)
    ]
    out = np.zeros((data.shape[0], groups * per_group, *full), "float64")
    reached = np.zeros(full, "int64")
    channels = data.shape[1] // groups
    for taps in np.ndindex(*weight.shape[2:]):
        where = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(taps, dilation, data.shape[2:], strides, strict=True)
        )
        for group in range(groups):
            inputs, outputs = (
                slice(group * size, (group + 1) * size) for size in (channels, per_group)
            )  # fmt: skip
            added = np.einsum("nc...,ck->nk...", data[:, inputs], weight[(inputs, slice(None), *taps)])
            out[(slice(None), outputs, *where)] += added
        reached[tuple(slice(t * d % s, None, s) for t, d, s in zip(taps, dilation, strides, strict=True))] += 1
    kept = tuple(slice(pads[axis], full[axis] - pads[spatial + axis]) for axis in range(spatial))
    return out[(slice(None), slice(None), *kept)], int(reached[kept].sum()) * data.shape[0] * channels * out.shape[1]


def macs_of(extraction: Extraction) -> int:
    return sum(task.count * task.work.macs for task in extraction.graph.tasks if isinstance(task.work, Workload))


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "parameter"])
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_products_are_those_of_the_definition(name: str, constant: bool):
    mod, arrays = layer_of(name, constant=constant)
    extraction = extract(mod)
    assert extraction.graph.host_calls == ()
    want, products = scattered(name, *arrays)
    (got,) = run(build(extraction.mod, target_of("edge-256")), arrays)
    np.testing.assert_array_equal(got, want)
    # Every output counts the taps of its residue, those that meet padding included; no zero is inserted.
    assert macs_of(extraction) == products


@pytest.mark.parametrize("name", LAYERS)
def test_their_convolutions_follow_mappings(name: str):
    extraction, rng = extract(layer_of(name, constant=True)[0]), random.Random(name)
    first = {index: function for function, index in reversed(extraction.functions)}
    nests = [(first[index], nest) for index, nest in enumerate(extraction.nests) if nest is not None]
    assert nests
    for number, (function, nest) in enumerate(nests):
        func, mapping = extraction.mod[function], sample_mapping(nest.workload, rng, spills=number % 2 == 1)
        assert nest.prologue == ()
        scheduled = schedule(func, nest, mapping).mod["main"]
        assert check_timed_is_executed(scheduled, nest, mapping) is None, mapping.line()
        if number < 2:
            result = verify_task(func, scheduled, rng=np.random.default_rng(0), target=target_of("edge-256"))
            assert result.max_abs_error == 0.0, (mapping.line(), result)


def test_residues_that_meet_the_same_inputs_share_one_convolution():
    # Taps 1 and 0 of every residue meet inputs 0 and 1; with a padding of 1, the last residue begins one input later.
    assert [(run.first, run.taps, run.start) for run in runs_of(16, 4, 2, 1, 0)] == [(0, ((2, 0), (3, 1)), -1)]
    assert [(run.first, run.taps, run.start) for run in runs_of(14, 4, 2, 1, 1)] == [
        (0, ((3, 1),), -1), (1, ((2, 0),), 0),
    ]  # fmt: skip
    # 2 x 2 filters of stride 2 do not overlap: one 1x1 convolution with 4 times the channels, then one interleaving.
    extraction = extract(layer_of("2x2, stride 2", constant=True)[0])
    nest, interleave = (task.work for task in extraction.graph.tasks)
    assert isinstance(nest, Workload)
    assert isinstance(interleave, VectorWork)
    assert [axis.extent for axis in nest.I.axes] == [1, 6, 5, 4]
    # 5 channels of 10 x 8 floats, read once and written once.
    assert (interleave.read_bytes, interleave.write_bytes, interleave.num_ops) == (1600, 1600, 0)
    assert nest.macs == 6 * 5 * 2 * 2 * 5 * 4


def test_what_follows_runs_while_the_outputs_are_put_in_place():
    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        total = builder.emit(relax.op.nn.conv2d_transpose(p[0], p[1], strides=(2, 2)))
        return builder.emit(relax.op.nn.relu(builder.emit(relax.op.add(total, p[2]))))

    shapes = [((1, 4, 5, 5), "float32"), ((4, 3, 2, 2), "float32"), ((1, 3, 1, 1), "float32")]
    tasks = extract(network(shapes, body)).graph.tasks
    # The filters are no constants here, so they are put in order while the network runs.
    assert [task.kind for task in tasks] == ["vector", "conv2d", "vector"]
    # An addition and a maximum for each of 3 x 10 x 10 outputs.
    assert tasks[-1].work.num_ops == 2 * 300
