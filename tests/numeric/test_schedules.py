"""Schedules compute what the layer computes, stage what they use, and hold what their mapping claims."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import s_tir, te

from schedules.layer import check_timed_is_executed, refuse, schedule
from schedules.layer.footprint import LoadPositions, load_positions
from tests.numeric.buffers import claimed_spm_bytes, spm_bytes
from tests.numeric.fused import NETWORKS, fuse
from tests.numeric.plain import nest, prim_func
from tests.numeric.poison import lower_to_allocations, poisoned
from tests.numeric.sampled import LAYERS, brute_force, draw_operands, num_terms, sample_mapping
from tvm_spm.deploy import database
from tvm_spm.deploy.verify.compare import verify_network
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.lowering.host import fit_to_host
from tvm_spm.lowering.target import PIPELINE
from tvm_spm.lowering.tiles import exact_tiles
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Dims, Epilogue, Operand, Projection, Workload


def run(func: tvm.tirx.PrimFunc, workload: Workload, arrays: list[np.ndarray], *, poison: bool) -> np.ndarray:
    func = func.with_attr("global_symbol", "main")
    if poison:
        func, pipeline = poisoned(lower_to_allocations(fit_to_host(exact_tiles(func)))), "s_tir"
    else:
        pipeline = PIPELINE
    compiled = tvm.compile(tvm.IRModule({"main": func}), target="llvm", tir_pipeline=pipeline)
    result = np.full([axis.extent for axis in workload.O.axes], 77).astype(workload.out_dtype)
    tensors = [tvm.runtime.tensor(array) for array in (*arrays, result)]
    compiled["main"](*tensors)
    return tensors[-1].numpy()


def check(workload: Workload, mapping: Mapping, seed: int, *, poison: bool = True) -> None:
    data, weight = draw_operands(workload, np.random.default_rng(seed))
    scheduled = schedule(prim_func(workload), nest(workload), mapping).mod["main"]
    got = run(scheduled, workload, [data, weight], poison=poison)
    want = brute_force(workload, data, weight)
    if workload.O.dtype.startswith("float"):
        # Each of n additions and n products errs by half an epsilon of at most the sum of absolute products.
        bound = (
            brute_force(workload, np.abs(data), np.abs(weight)) * num_terms(workload) * np.finfo(workload.O.dtype).eps
        )
        assert (np.abs(got - want) <= bound).all(), mapping.line()
    else:
        np.testing.assert_array_equal(got, want, err_msg=mapping.line())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layer", LAYERS)
def test_sampled_mappings_compute_the_layer(layer: str, seed: int):
    workload = LAYERS[layer]
    rng = random.Random(f"{layer} {seed}")
    check(workload, sample_mapping(workload, rng), seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 24))
@pytest.mark.parametrize("layer", LAYERS)
def test_many_sampled_mappings_compute_the_layer(layer: str, seed: int):
    workload = LAYERS[layer]
    rng = random.Random(f"{layer} {seed}")
    check(workload, sample_mapping(workload, rng, spills=seed % 2 == 0), seed)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("layer", LAYERS)
def test_partial_sums_go_to_dram_and_come_back(layer: str, seed: int):
    workload = LAYERS[layer]
    check(workload, sample_mapping(workload, random.Random(f"spills {layer} {seed}"), spills=True), seed)


@pytest.mark.parametrize("layer", ["odd extents, uneven padding", "depthwise, multiplier 2", "batched matmul"])
def test_the_registered_pipeline_computes_the_same(layer: str):
    workload = LAYERS[layer]
    check(workload, sample_mapping(workload, random.Random(layer)), 0, poison=False)


@pytest.mark.parametrize("layer", LAYERS)
def test_spm_holds_what_the_mapping_claims(layer: str):
    workload, rng = LAYERS[layer], random.Random(layer)
    for trial in range(4):
        mapping = sample_mapping(workload, rng, spills=trial % 2 == 0)
        scheduled = schedule(prim_func(workload), nest(workload), mapping).mod["main"]
        held = spm_bytes(lower_to_allocations(fit_to_host(exact_tiles(scheduled))))
        assert 0 < held <= claimed_spm_bytes(workload, mapping), mapping.line()


@pytest.mark.parametrize("note", ["spm.dma", "spm.noc"])
def test_a_copy_left_out_is_seen(note: str):
    workload = LAYERS["1x1"]
    mapping = Mapping(spm=workload.dims, rf=workload.dims.with_dim("K", 4), spm_order=("K",))
    whole = schedule(prim_func(workload), nest(workload), mapping).mod["main"]

    def leave_out(realize: s_tir.SBlockRealize) -> tvm.tirx.Stmt:
        left_out = str(realize.block.annotations.get(note, "")) == "W"
        return tvm.tirx.Evaluate(0) if left_out else realize

    lowered = lower_to_allocations(exact_tiles(whole))
    partial = lowered.with_body(tvm_ffi.structural_map(lowered.body, (s_tir.SBlockRealize, leave_out), order="post"))
    arrays = list(draw_operands(workload, np.random.default_rng(0)))
    want = brute_force(workload, *arrays)
    compiled = tvm.compile(tvm.IRModule({"main": poisoned(partial)}), target="llvm", tir_pipeline="s_tir")
    tensors = [tvm.runtime.tensor(array) for array in (*arrays, np.zeros(want.shape, "int32"))]
    compiled["main"](*tensors)
    assert (tensors[-1].numpy() != want).all()


def test_spm_bytes_of_a_tiny_tile():
    # 3x3 filter, stride 1, padding 1; tile K=2 C=3 OY=4 OX=5 of int8 with int32 sums:
    # I (4+2)*(5+2)*3 = 126, W 2*3*3*3 = 54, O 2*4*5*4 B = 160.
    workload = Workload.conv2d(K=4, C=6, OY=8, OX=10, FY=3, FX=3, padding=1, dtype="int8", out_dtype="int32")
    mapping = Mapping(
        spm=Dims(K=2, C=3, OY=4, OX=5, FY=3, FX=3), rf=Dims(K=2, C=3, OY=4, OX=5, FY=3, FX=3),
        dram_order=("OY", "OX", "K", "C"),
    )  # fmt: skip
    lowered = lower_to_allocations(exact_tiles(schedule(prim_func(workload), nest(workload), mapping).mod["main"]))
    assert spm_bytes(lowered) == claimed_spm_bytes(workload, mapping) == 126 + 54 + 160


def test_a_mapping_without_any_loop_stages_whole_tensors():
    workload = LAYERS["dilation"]
    check(workload, Mapping(spm=workload.dims, rf=workload.dims), 0)


def test_cores_that_share_no_tile_border():
    # 7 rows on 2 cores are 4 + 3; tiles of 3 cut the first core's share into 3 + 1, the second into 3.
    workload = Workload.conv2d(K=3, C=2, OY=7, OX=4, FY=3, FX=3, padding=1, dtype="int8", out_dtype="int32")
    mapping = Mapping(
        cores=Dims(OY=2), spm=Dims(K=3, C=2, OY=3, OX=4, FY=3, FX=3), rf=Dims(OX=4), dram_order=("OY",),
        spm_order=("K", "C", "OY", "FY", "FX"),
    )  # fmt: skip
    for seed in range(3):
        check(workload, mapping, seed)


def enclosing(sch: s_tir.Schedule, note: str, operand: Operand) -> list[tuple[str, str]]:
    """Level and dim of the mapping's loops around the block that copies an operand."""
    found: list[list[tuple[str, str]]] = []

    def visit(stmt: tvm.tirx.Stmt, loops: list[tuple[str, str]]) -> None:
        if isinstance(stmt, tvm.tirx.SeqStmt):
            for inner in stmt.seq:
                visit(inner, loops)
        elif isinstance(stmt, tvm.tirx.For):
            notes = stmt.annotations
            here = [(str(notes["spm.level"]), str(notes["spm.dim"]))] if "spm.level" in notes else []
            visit(stmt.body, loops + here)
        elif isinstance(stmt, s_tir.SBlockRealize):
            if str(stmt.block.annotations.get(note, "")) == operand.name:
                found.append(loops)
            visit(stmt.block.body, loops)

    visit(sch.mod["main"].body, [])
    assert len(found) == 1
    return found[0]


def outside(positions: LoadPositions, position: tuple[str, str] | None) -> list[tuple[str, str]]:
    return list(positions.loops[: positions.loops.index(position) + 1]) if position else []


@pytest.mark.parametrize("layer", ["odd extents, uneven padding", "groups", "NHWC", "matmul"])
def test_copies_stand_at_their_static_load_positions(layer: str):
    workload, rng = LAYERS[layer], random.Random(layer)
    for _ in range(5):
        mapping = sample_mapping(workload, rng)
        sch = schedule(prim_func(workload), nest(workload), mapping)
        positions = load_positions(workload, mapping)
        for operand in Operand:
            around = enclosing(sch, "spm.dma", operand)
            assert [loop for loop in around if loop[0] != "cores"] == outside(positions, positions.spm[operand.value])
        for operand in (Operand.I, Operand.W):
            around = enclosing(sch, "spm.noc", operand)
            assert [loop for loop in around if loop[0] != "cores"] == outside(positions, positions.rf[operand.value])


def test_load_positions_by_hand():
    # DRAM loops K(2) C(3) OY(2), SPM loops FX(3) K(2): I depends on all but K, W on all but OY, O on K and OY.
    workload = Workload.conv2d(K=8, C=3, OY=4, OX=5, FY=3, FX=3, padding=1, dtype="int8", out_dtype="int32")
    mapping = Mapping(
        spm=Dims(K=4, C=1, OY=2, OX=5, FY=3, FX=3), rf=Dims(K=2, C=1, OY=2, OX=5, FY=3, FX=1),
        dram_order=("K", "OY", "C"), spm_order=("FX", "K"),
    )  # fmt: skip
    positions = load_positions(workload, mapping)
    assert positions.loops == (("dram", "K"), ("dram", "OY"), ("dram", "C"), ("spm", "FX"), ("spm", "K"))
    assert positions.spm == (("dram", "C"), ("dram", "C"), ("dram", "OY"))
    assert positions.rf == (("spm", "FX"), ("spm", "K"), ("spm", "K"))
    assert positions.evicts_partial("RF")
    assert not positions.evicts_partial("SPM")


def test_spilling_order_is_refused_by_name_unless_the_mapping_spills():
    workload = LAYERS["1x1"]
    mapping = Mapping(spm=Dims(K=4, C=2, OY=5, OX=3), rf=Dims(OX=3), dram_order=("C", "K"), spm_order=("K", "C", "OY"))
    rejection = refuse(workload, mapping)
    assert rejection is not None
    # C = 7 in tiles of 2 are 4 iterations outside K.
    assert (rejection.reason, rejection.needed, rejection.available) == ("spill", 4, 1)
    with pytest.raises(ScheduleError, match="evicts unfinished outputs"):
        schedule(prim_func(workload), nest(workload), mapping)
    assert refuse(workload, replace(mapping, spill=True)) is None
    check(workload, replace(mapping, spill=True), 0)


def test_epilogue_adds_extras_and_casts():
    base = LAYERS["odd extents, uneven padding"]
    bias = Projection(axes=(base.O.axes[1],), dtype="int32")
    workload = replace(base, out_dtype="int16", epilogue=Epilogue(num_ops_per_elem=2, extras=(bias, base.O)))
    rng = np.random.default_rng(0)
    data, weight = draw_operands(workload, rng)
    shape = [axis.extent for axis in base.O.axes]
    extras = [rng.integers(-50, 50, shape[1:2]).astype("int32"), rng.integers(-50, 50, shape).astype("int32")]
    want = brute_force(base, data, weight) + extras[0].reshape(1, -1, 1, 1) + extras[1]
    for seed in range(6):
        mapping = sample_mapping(workload, random.Random(seed), spills=seed % 2 == 0)
        scheduled = schedule(prim_func(workload), nest(workload), mapping).mod["main"]
        got = run(scheduled, workload, [data, weight, *extras], poison=True)
        np.testing.assert_array_equal(got, want.astype("int16"), err_msg=mapping.line())


@pytest.mark.parametrize("order", ["K OY C", "C K OY"])
def test_large_layers_use_all_threads_and_stay_right(order: str):
    # 16 * 5 * 24 * 25 * 9 = 432,000 multiply-accumulates: enough for threads; 25 rows in tiles of 7 leave 4 over.
    workload = Workload.conv2d(K=16, C=5, OY=25, OX=24, FY=3, FX=3, padding=1, dtype="int8", out_dtype="int32")
    mapping = Mapping(
        spm=Dims(K=6, C=2, OY=7, OX=24, FY=3, FX=3), rows=Dims(K=4), cols=Dims(OX=5), rf=Dims(OX=3, FX=3),
        dram_order=tuple(order.split()), spm_order=("OY", "C", "K", "OX", "FY"), spill=order == "C K OY",
    )  # fmt: skip
    func = exact_tiles(schedule(prim_func(workload), nest(workload), mapping).mod["main"])
    assert "T.parallel" in fit_to_host(func).script()
    assert "T.parallel" not in func.script()
    for seed in range(3):
        check(workload, mapping, seed)


def test_the_function_given_stays_as_it_is():
    workload = LAYERS["groups"]
    func = prim_func(workload)
    before = func.script()
    schedule(func, nest(workload), sample_mapping(workload, random.Random(0)))
    assert func.script() == before


def test_epilogue_runs_once_per_output_although_sums_spill():
    # A product of the sum with itself tells whether it was taken before the last addition.
    data, weight = te.placeholder((6, 12), "int8", "data"), te.placeholder((12, 10), "int8", "weight")
    k = te.reduce_axis((0, 12), "k")
    total = te.compute((6, 10), lambda i, j: te.sum(data[i, k].astype("int32") * weight[k, j].astype("int32"), k))
    squared = te.compute((6, 10), lambda i, j: total[i, j] * total[i, j] + 1)
    func = te.create_prim_func([data, weight, squared])
    found = read_nest(func)
    assert isinstance(found, TirNest)
    mapping = Mapping(
        cores=Dims(K=2), spm=Dims(OX=4, C=5, K=3), rf=Dims(OX=2, C=2), rows=Dims(K=2), dram_order=("C", "K", "OX"),
        spm_order=("K", "C", "OX"), spill=True,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-9, 10, shape).astype("int8") for shape in ((6, 12), (12, 10))]
    got = run(schedule(func, found, mapping).mod["main"], found.workload, arrays, poison=True)
    np.testing.assert_array_equal(got, (arrays[0].astype("int32") @ arrays[1].astype("int32")) ** 2 + 1)


@pytest.mark.parametrize("spills", [False, True])
def test_the_copy_to_spm_transposes(spills: bool):
    stored, weight = te.placeholder((12, 6), "int8", "stored"), te.placeholder((12, 10), "int8", "weight")
    data = te.compute((6, 12), lambda i, j: stored[j, i], name="transpose")
    k = te.reduce_axis((0, 12), "k")
    total = te.compute((6, 10), lambda i, j: te.sum(data[i, k].astype("int32") * weight[k, j].astype("int32"), k))
    func = te.create_prim_func([stored, weight, total])
    found = read_nest(func)
    assert isinstance(found, TirNest)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-9, 10, shape).astype("int8") for shape in ((12, 6), (12, 10))]
    for seed in range(3):
        mapping = sample_mapping(found.workload, random.Random(seed), spills=spills)
        scheduled = schedule(func, found, mapping).mod["main"]
        assert check_timed_is_executed(scheduled, found, mapping) is None
        got = run(scheduled, found.workload, arrays, poison=True)
        np.testing.assert_array_equal(got, arrays[0].T.astype("int32") @ arrays[1].astype("int32"))


@pytest.mark.parametrize("spills", [False, True])
def test_the_trace_replays_to_the_same_function(spills: bool):
    workload = LAYERS["depthwise, multiplier 2"]
    func = prim_func(workload)
    made = schedule(func, nest(workload), sample_mapping(workload, random.Random(1), spills=spills))
    again = s_tir.Schedule(func)
    made.trace.apply_to_schedule(again, remove_postproc=False)
    tvm.ir.assert_structural_equal(again.mod, made.mod)
    assert re.search(r"scope=\"global.spm\"", again.mod.script())


@pytest.mark.parametrize("network", ["conv, residual, swish", "grouped int8 conv, requantised"])
def test_spilling_schedules_come_back_from_the_database(network: str, tmp_path: Path):
    mod = fuse(NETWORKS[network])
    ((var, func),) = [item for item in mod.functions.items() if isinstance(item[1], tvm.tirx.PrimFunc)]
    found = read_nest(func)
    assert isinstance(found, TirNest)
    mapping = sample_mapping(found.workload, random.Random(2), spills=True)
    database.commit(tmp_path, [(func, schedule(func, found, mapping), 1000)], "edge-256")
    applied = database.apply(mod, tmp_path, "edge-256")
    assert check_timed_is_executed(applied[var], found, mapping) is None
    rng = np.random.default_rng(0)
    inputs = [
        rng.integers(-3, 4, [int(extent) for extent in param.ty.shape]).astype(str(param.ty.dtype.dtype))
        for param in mod["main"].params
    ]
    outcome = verify_network(NETWORKS[network], applied, inputs, target="spm/edge-256")
    assert outcome.passed, str(outcome)
