"""What is timed is what is executed: a program read back from scheduled code equals the program of its mapping."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import tvm_ffi
from tvm import s_tir, tirx

from cost_model.simulator import SimulatorModel
from cost_model.simulator.program import program_of
from schedules.layer import check_timed_is_executed, schedule
from schedules.layer.program import program_from_tir
from tests.numeric.fused import NETWORKS, functions, fuse
from tests.numeric.plain import nest, prim_func
from tests.numeric.sampled import LAYERS, sample_mapping
from tests.program_mapping import simulate_program
from tvm_spm.arch import load_arch
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.lowering.blocks import placed_blocks
from tvm_spm.lowering.tiles import exact_tiles
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Dims, Epilogue, Operand, Projection, Workload


@pytest.mark.parametrize("layer", LAYERS)
def test_programs_are_equal(layer: str):
    workload, rng = LAYERS[layer], random.Random(f"program {layer}")
    for trial in range(8):
        mapping = sample_mapping(workload, rng, spills=trial % 2 == 1)
        scheduled = schedule(prim_func(workload), nest(workload), mapping).mod["main"]
        assert check_timed_is_executed(scheduled, nest(workload), mapping) is None, mapping.line()


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_many_programs_are_equal(layer: str):
    workload, rng = LAYERS[layer], random.Random(f"many programs {layer}")
    for trial in range(100):
        mapping = sample_mapping(workload, rng, spills=trial % 2 == 1)
        scheduled = schedule(prim_func(workload), nest(workload), mapping).mod["main"]
        assert check_timed_is_executed(scheduled, nest(workload), mapping) is None, mapping.line()


@pytest.mark.parametrize("network", NETWORKS)
def test_programs_of_fused_functions_are_equal(network: str):
    rng = random.Random(network)
    for func in functions(fuse(NETWORKS[network])):
        found = read_nest(func)
        assert isinstance(found, TirNest)
        for trial in range(6):
            mapping = sample_mapping(found.workload, rng, spills=trial % 2 == 1)
            scheduled = schedule(func, found, mapping).mod["main"]
            assert check_timed_is_executed(scheduled, found, mapping) is None, mapping.line()


def test_executed_programs_take_the_cycles_of_their_mappings():
    arch, rng = load_arch("edge-256"), random.Random(0)
    for layer in ("odd extents, uneven padding", "depthwise", "NHWC", "batched matmul"):
        workload = LAYERS[layer]
        for trial in range(4):
            mapping = sample_mapping(workload, rng, spills=trial % 2 == 1)
            scheduled = schedule(prim_func(workload), nest(workload), mapping).mod["main"]
            executed = program_from_tir(exact_tiles(scheduled), nest(workload))
            assert simulate_program(workload, arch, executed) == SimulatorModel().cost(workload, arch, mapping)


# 7 rows on 2 cores are 4 + 3, in tiles of 3: 2 iterations on one core, 1 on the other.
WORKLOAD = Workload.conv2d(K=6, C=5, OY=7, OX=4, FY=3, FX=3, padding=1, dtype="int8", out_dtype="int32")
MAPPING = Mapping(
    cores=Dims(OY=2), spm=Dims(K=4, C=3, OY=3, OX=4, FY=3, FX=3), rows=Dims(K=3), cols=Dims(OX=2), rf=Dims(FX=3),
    dram_order=("K", "OY", "C"), spm_order=("OY", "C", "K", "OX", "FY"), spm_double=(Operand.W,),
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"spm_double": ()}, "the code runs 'SPM holds 2 x W 4x3x3x3 of 8 bits', the simulator times 'SPM holds 1 x W"),
        (
            {"rf_double": (Operand.I,)},
            "the code runs 'NoC I in: 1x1x1x4', the simulator times 'NoC I in: 1x1x1x4, double'",
        ),
        ({"dram_order": ("OY", "K", "C")}, "the code runs 'for K in dram by 4: 2 iterations', the simulator times"),
        ({"rows": Dims(K=2)}, "the code runs 'for K in spm by 3: 2 or 1 iterations', the simulator times"),
    ],
)
def test_another_mapping_is_noticed(change: dict[str, object], difference: str):
    scheduled = schedule(prim_func(WORKLOAD), nest(WORKLOAD), MAPPING).mod["main"]
    assert check_timed_is_executed(scheduled, nest(WORKLOAD), MAPPING) is None
    found = check_timed_is_executed(scheduled, nest(WORKLOAD), replace(MAPPING, **change))
    assert found is not None
    assert found.startswith(difference)


def changed(func: tirx.PrimFunc, name: str, change) -> tirx.PrimFunc:
    """The function with one of its blocks changed."""

    def visit(realize: s_tir.SBlockRealize) -> tirx.Stmt:
        return change(realize) if realize.block.name_hint == name else realize

    return func.with_body(tvm_ffi.structural_map(func.body, (s_tir.SBlockRealize, visit), order="post"))


def unguarded(realize: s_tir.SBlockRealize) -> s_tir.SBlockRealize:
    return s_tir.SBlockRealize(realize.iter_values, tirx.const(True, "bool"), realize.block)


@pytest.mark.parametrize(
    ("block", "difference"),
    [
        ("mac", "its guards do not cut K into tiles"),
        ("W_global.spm", "does not copy exactly the tile along axis"),
        ("pad_global.spm", "does not copy exactly the tile along axis"),
        ("pad_global.spm_global.rf", "does not copy exactly the tile along axis"),
        ("mac_global.spm", "does not copy exactly the tile along axis"),
    ],
)
def test_code_without_its_guards_is_noticed(block: str, difference: str):
    scheduled = exact_tiles(schedule(prim_func(WORKLOAD), nest(WORKLOAD), MAPPING).mod["main"])
    with pytest.raises(ScheduleError, match=f"block {block}: {difference}"):
        program_from_tir(changed(scheduled, block, unguarded), nest(WORKLOAD))


def test_elements_copied_twice_are_noticed():
    code = exact_tiles(schedule(prim_func(WORKLOAD), nest(WORKLOAD), MAPPING).mod["main"])

    def in_pairs(realize: s_tir.SBlockRealize) -> s_tir.SBlockRealize:
        *outer, last = realize.iter_values
        return s_tir.SBlockRealize([*outer, tirx.floordiv(last, 2) * 2], realize.predicate, realize.block)

    # Of three taps the first is copied twice and the second not at all.
    with pytest.raises(ScheduleError, match="block W_global.spm: does not copy exactly the tile along axis"):
        program_from_tir(changed(code, "W_global.spm", in_pairs), nest(WORKLOAD))


def test_loops_that_end_too_early_are_noticed():
    code = exact_tiles(schedule(prim_func(WORKLOAD), nest(WORKLOAD), MAPPING).mod["main"])

    def shorter(loop: tirx.For) -> tirx.For:
        notes = {key: str(loop.annotations[key]) for key in ("spm.level", "spm.dim") if key in loop.annotations}
        if notes != {"spm.level": "rf", "spm.dim": "FX"}:
            return loop
        return tirx.For(loop.loop_var, loop.min, 2, loop.kind, loop.body, None, loop.annotations)

    body = tvm_ffi.structural_map(code.body, (tirx.For, shorter), order="post")
    with pytest.raises(ScheduleError, match="block mac: its loops do not cover FX once"):
        program_from_tir(code.with_body(body), nest(WORKLOAD))


def test_an_extra_read_for_sums_that_are_not_complete_is_noticed():
    product = Workload.matmul(m=8, k=12, n=10, dtype="int8", out_dtype="int32")
    bias = Projection(axes=(product.O.axes[1],), dtype="int32")
    workload = replace(product, epilogue=Epilogue(num_ops_per_elem=1, extras=(bias,)))
    mapping = Mapping(spm=Dims(OX=8, C=4, K=5), rf=Dims(OX=8, C=4, K=5), dram_order=("C", "K"), spill=True)
    code = exact_tiles(schedule(prim_func(workload), nest(workload), mapping).mod["main"])
    assert program_from_tir(code, nest(workload)) == program_of(workload, mapping)
    (name,) = [placed.block.name_hint for placed in placed_blocks(code.body) if placed.copied_operand == "E0"]
    with pytest.raises(ScheduleError, match="extra 0 of the epilogue is not read once for every tile that leaves"):
        program_from_tir(changed(code, name, unguarded), nest(workload))


def test_copies_in_idle_iterations_are_noticed():
    # 5 rows on 2 cores are 3 + 2: one row per tile leaves the second core idle in the third iteration.
    workload = Workload.conv2d(K=4, C=2, OY=5, OX=4, FY=1, FX=1, dtype="int8", out_dtype="int32")
    mapping = Mapping(
        cores=Dims(OY=2), spm=Dims(K=2, C=2, OY=1, OX=4), rf=Dims(K=2, C=2, OY=1, OX=4), dram_order=("OY", "K")
    )
    code = exact_tiles(schedule(prim_func(workload), nest(workload), mapping).mod["main"])
    assert program_from_tir(code, nest(workload)) == program_of(workload, mapping)
    with pytest.raises(ScheduleError, match="block W_global.spm: copies in iterations over OY that have no work"):
        program_from_tir(changed(code, "W_global.spm", unguarded), nest(workload))


@pytest.mark.parametrize("block", ["mac_dma", "mac_global.spm", "mac_global.spm_dma", "mac_global.spm_rf_noc"])
def test_partial_sums_copied_at_the_wrong_moment_are_noticed(block: str):
    workload = Workload.matmul(m=8, k=12, n=10, dtype="int8", out_dtype="int32")
    mapping = Mapping(spm=Dims(OX=8, C=4, K=5), rf=Dims(OX=8, C=4, K=5), dram_order=("C", "K"), spill=True)
    code = exact_tiles(schedule(prim_func(workload), nest(workload), mapping).mod["main"])
    assert program_from_tir(code, nest(workload)) == program_of(workload, mapping)
    try:
        found = program_from_tir(changed(code, block, unguarded), nest(workload))
    except ScheduleError:
        return
    assert found != program_of(workload, mapping)


def test_sums_in_place_are_noticed():
    # Schedules made before partial sums were copied start their sums apart and add in SPM.
    workload = Workload.matmul(m=8, k=12, n=10, dtype="int8", out_dtype="int32")
    mapping = Mapping(
        spm=Dims(OX=8, C=12, K=5), rf=Dims(OX=4, C=4), dram_order=("K",), spm_order=("C", "OX", "K")
    )  # fmt: skip
    made = schedule(prim_func(workload), nest(workload), mapping)
    assert check_timed_is_executed(made.mod["main"], nest(workload), mapping) is None
    block = made.get_sblock("mac")
    made.decompose_reduction(block, made.get_loops(block)[1])
    found = check_timed_is_executed(made.mod["main"], nest(workload), mapping)
    assert found == "the code runs 'step of rows 1 | cols 1 | RF C=4 OX=4', the simulator times 'NoC O in revisit: 4x1'"
