"""A bias or a residual is read from DRAM once for every output tile, as it is charged."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import s_tir, te, tirx, topi

from cost_model.analytical.model import AnalyticalModel
from cost_model.simulator.program import Loop, program_of
from schedules.layer import check_timed_is_executed, schedule
from schedules.layer.program import program_from_tir
from tests.numeric.interpret import elements_read
from tests.numeric.plain import nest, prim_func
from tests.numeric.sampled import LAYERS, sample_mapping
from tvm_spm.arch import load_arch
from tvm_spm.deploy.verify.compare import verify_task
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.lowering.target import target_of
from tvm_spm.lowering.tiles import exact_tiles
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Axis, Dims, Epilogue, Projection, Workload


def with_extras(layer: str) -> Workload:
    """A layer with a residual, a bias, something per row and a number."""
    base = LAYERS[layer]
    parts = [base.O.axes, base.O.axes[1:2], base.O.axes[-1:], (), (base.O.axes[0], *base.O.axes[-1:])]
    extras = tuple(Projection(axes=axes, dtype=base.O.dtype) for axes in parts)
    return replace(base, epilogue=Epilogue(num_ops_per_elem=len(extras), extras=extras))


@pytest.mark.parametrize("layer", ["odd extents, uneven padding", "groups", "NHWC", "matmul", "one column"])
def test_every_tensor_is_read_as_often_as_it_is_charged(layer: str):
    workload, rng, arch = with_extras(layer), random.Random(layer), load_arch("edge-256")
    dram = replace(arch.levels.DRAM, burst_bytes=1)
    arch = replace(arch, levels=replace(arch.levels, DRAM=dram))
    for trial in range(4):
        mapping = sample_mapping(workload, rng, spills=trial % 2 == 1)
        func = schedule(prim_func(workload), nest(workload), mapping).mod["main"]
        assert check_timed_is_executed(func, nest(workload), mapping) is None, mapping.line()
        read = elements_read(exact_tiles(func))
        charged = AnalyticalModel().cost(workload, arch, mapping).dram_bytes
        width = {param.name: tvm.runtime.DataType(str(param.dtype)).bits // 8 for param in func.params}
        extras = [name for name in read if name.startswith("E")]
        assert len(extras) == 5
        assert sum(read[name] * width[name] for name in extras) == charged[3], mapping.line()
        assert read["W"] * width["W"] == charged[1]
        inputs = next(name for name in read if name.startswith("I"))
        assert read[inputs] * width[inputs] == charged[0]


def test_a_bias_of_48_bytes_is_48_bytes():
    data, weight = te.placeholder((1, 4, 10, 10), name="A"), te.placeholder((12, 4, 1, 1), name="W")
    bias = te.placeholder((1, 12, 1, 1), name="B")
    func = te.create_prim_func(
        [data, weight, bias, topi.nn.relu(topi.add(topi.nn.conv2d_nchw(data, weight, 1, 0, 1), bias))]
    )
    found = read_nest(func)
    assert isinstance(found, TirNest)
    dims = found.workload.dims
    # 12 channels, each of 100 outputs: 4,800 B if every output read its own.
    assert dims.product() == 4 * 12 * 100
    whole = schedule(func, found, Mapping(spm=dims, rf=dims)).mod["main"]
    assert elements_read(exact_tiles(whole))["B"] * 4 == 48
    # Two tiles of rows read it twice.
    halves = Mapping(spm=dims.with_dim("OY", 5), rf=Dims(), dram_order=("OY",), spm_order=("K", "C", "OY", "OX"))
    assert elements_read(exact_tiles(schedule(func, found, halves).mod["main"]))["B"] * 4 == 96


def test_code_that_reads_an_extra_per_output_is_noticed():
    workload = with_extras("1x1")
    mapping = Mapping(spm=workload.dims.with_dim("K", 4), rf=Dims(K=4), dram_order=("K",), spm_order=("C", "OY", "OX"))
    code = exact_tiles(schedule(prim_func(workload), nest(workload), mapping).mod["main"])
    assert program_from_tir(code, nest(workload)) == program_of(workload, mapping)

    def unstaged(realize: s_tir.SBlockRealize) -> tirx.Stmt:
        if str(realize.block.annotations.get("spm.dma", "")) != "O":
            return realize
        block = realize.block
        region = [tvm.ir.Range.from_min_extent(axis.min, 1) for axis in block.writes[0].region]
        bias = tirx.BufferRegion(code.params[3], region[1:2])
        inner = s_tir.SBlock(
            block.iter_vars, [*block.reads, bias], block.writes, block.name_hint, block.body, None, [], [],
            block.annotations,
        )  # fmt: skip
        return s_tir.SBlockRealize(realize.iter_values, realize.predicate, inner)

    body = tvm_ffi.structural_map(code.body, (s_tir.SBlockRealize, unstaged), order="post")
    with pytest.raises(ScheduleError, match="block epilogue: E1 in DRAM is accessed outside of copies"):
        program_from_tir(code.with_body(body), nest(workload))


def test_operations_that_are_not_counted_are_noticed():
    workload = with_extras("1x1")
    mapping = Mapping(spm=workload.dims, rf=workload.dims)
    func = schedule(prim_func(workload), nest(workload), mapping).mod["main"]
    assert check_timed_is_executed(func, nest(workload), mapping) is None
    fewer = replace(workload, epilogue=replace(workload.epilogue, num_ops_per_elem=4))
    found = check_timed_is_executed(func, replace(nest(workload), workload=fewer), mapping)
    assert found == "block epilogue: takes 5 operations for an element, 4 are counted"


def test_the_program_names_what_the_vector_unit_does():
    base = Workload.matmul(m=8, k=12, n=10, dtype="int8", out_dtype="int32")
    bias = Projection(axes=(Axis(terms=(("K", 1),), extent=10),), dtype="int32")
    workload = replace(base, epilogue=Epilogue(num_ops_per_elem=1, extras=(bias,)))
    mapping = Mapping(spm=Dims(OX=8, C=12, K=5), rf=Dims(OX=8, C=12, K=5), dram_order=("K",))
    loop = next(node for node in program_of(workload, mapping).body if isinstance(node, Loop))
    steps = [str(node) for node in loop.body]
    assert steps[-3:] == ["NoC O out: 8x5", "vector: 1 operations, reads 5", "DMA O out: 8x5"]
    assert "vector" not in str(program_of(base, mapping))


def residual_of_the_input():
    """The input is added to the product, and a row of it too."""
    data, weight = te.placeholder((8, 8), name="A"), te.placeholder((8, 8), name="W")
    return [data, weight, topi.add(topi.nn.dense(data, weight), data)]


def scaled_by_a_number():
    data, weight, scale = (te.placeholder(s, name=n) for s, n in (((6, 8), "A"), ((8, 8), "W"), ((), "S")))
    return [data, weight, scale, topi.multiply(topi.nn.dense(data, weight), scale)]


def added_turned_round():
    """One tensor at two places."""
    data, weight, other = (te.placeholder(s, name=n) for s, n in (((8, 6), "A"), ((8, 6), "W"), ((8, 8), "R")))
    total = topi.add(topi.add(topi.nn.dense(data, weight), other), topi.transpose(other))
    return [data, weight, other, total]


@pytest.mark.parametrize("made", [residual_of_the_input, scaled_by_a_number, added_turned_round])
def test_odd_extras_compute_the_same(made):
    func = te.create_prim_func(made())
    found = read_nest(func)
    assert isinstance(found, TirNest)
    for seed in range(4):
        mapping = sample_mapping(found.workload, random.Random(seed), spills=seed % 2 == 1)
        scheduled = schedule(func, found, mapping).mod["main"]
        assert check_timed_is_executed(scheduled, found, mapping) is None, mapping.line()
        result = verify_task(func, scheduled, rng=np.random.default_rng(0), target=target_of("edge-256"))
        assert result.passed, (mapping.line(), str(result))


def test_an_extra_read_once_for_every_output_is_noticed():
    """One tensor along rows and along columns: what a tile reads of it twice is no box that streams by."""
    data, weight, other = (te.placeholder(s, name=n) for s, n in (((8, 6), "A"), ((8, 6), "W"), ((8,), "R")))
    total = topi.nn.dense(data, weight)
    out = te.compute((8, 8), lambda i, j: total[i, j] + other[i] + other[j], name="out")
    func = te.create_prim_func([data, weight, other, out])
    found = read_nest(func)
    mapping = Mapping(spm=found.workload.dims, rf=found.workload.dims)
    scheduled = schedule(func, found, mapping).mod["main"]
    assert check_timed_is_executed(scheduled, found, mapping) == "block out: reads extra 0 once for every output"
