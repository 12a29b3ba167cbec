"""Fused groups compute what their layers compute, from tiles that start as NaN, and do what their mapping says."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import tirx

from schedules.group.code import schedule_group
from schedules.group.program import check_group
from schedules.group.walk import group_events
from schedules.host import schedule_for_host
from tests.numeric.buffers import spm_bytes
from tests.numeric.fused_groups import NETWORKS, Case, case, sample_group_mapping
from tvm_spm.deploy.grouping import group_calls
from tvm_spm.deploy.verify.compare import verify_network
from tvm_spm.errors import ModelError, ScheduleError
from tvm_spm.group import GroupMapping
from tvm_spm.lowering.target import PIPELINE
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Dims


@functools.cache
def known(name: str) -> tuple[Case, list[np.ndarray], list[np.ndarray]]:
    """A network, inputs whose sums are exact, and its results."""
    made = case(name)
    func = made.fused.func
    rng = np.random.default_rng(len(name))
    shapes = [tuple(int(extent) for extent in param.shape) for param in func.params]
    inputs = [
        rng.integers(-2, 3, size=shape).astype(str(param.dtype))
        for shape, param in list(zip(shapes, func.params, strict=True))[: -len(made.grouped.groups[0].results)]
    ]
    return made, inputs, run(schedule_for_host(func), inputs, "s_tir")


def run(func: tirx.PrimFunc, inputs: list[np.ndarray], pipeline: str) -> list[np.ndarray]:
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    compiled = tvm.compile(module, target="llvm", tir_pipeline=pipeline)
    outs = [
        np.full([int(extent) for extent in out.shape], 77).astype(str(out.dtype)) for out in func.params[len(inputs) :]
    ]
    tensors = [tvm.runtime.tensor(array) for array in (*inputs, *outs)]
    compiled["main"](*tensors)
    return [tensor.numpy() for tensor in tensors[len(inputs) :]]


def poisoned(stmt: tirx.Stmt) -> tirx.Stmt:
    """Fill every buffer with NaN, or 113, where it is allocated."""
    if isinstance(stmt, tirx.For):
        return tirx.For(stmt.loop_var, stmt.min, stmt.extent, stmt.kind, poisoned(stmt.body), None, stmt.annotations)
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([part for inner in stmt.seq for part in _with_fill(inner)])
    return stmt


def _with_fill(stmt: tirx.Stmt) -> list[tirx.Stmt]:
    if not isinstance(stmt, tirx.AllocBuffer):
        return [stmt]
    buffer = stmt.buffer
    at = [tirx.Var(f"fill{axis}", "int32") for axis in range(len(buffer.shape))]
    marker = np.nan if str(buffer.dtype).startswith("float") else 113
    fill: tirx.Stmt = tirx.BufferStore(buffer, tirx.const(marker, str(buffer.dtype)), at)
    for var, extent in reversed(list(zip(at, buffer.shape, strict=True))):
        fill = tirx.For(var, 0, int(extent), tirx.ForKind.SERIAL, fill)
    return [stmt, fill]


def check(name: str, mapping: GroupMapping) -> tirx.PrimFunc:
    made, inputs, want = known(name)
    func = schedule_group(made.fused, made.group, mapping)
    assert check_group(func, made.group, mapping) is None, str(mapping)
    got = run(func.with_body(poisoned(func.body)), inputs, PIPELINE)
    for one, other in zip(got, want, strict=True):
        if name.startswith("attention"):
            np.testing.assert_allclose(
                one, other, rtol=0, atol=1e-5 if one.dtype == np.float32 else 2.0**-9, err_msg=str(mapping)
            )
        else:
            np.testing.assert_array_equal(one, other, err_msg=str(mapping))
    return func


@pytest.mark.parametrize("streamed", [False, True], ids=["resident", "streamed"])
@pytest.mark.parametrize("kept", [(), (2,), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_groups_compute_what_their_layers_do(name: str, kept: tuple[int, ...], streamed: bool):
    if name.startswith("attention"):
        kept = tuple(axis - 2 for axis in kept)
    rng = random.Random(f"{name} {kept} {streamed}")
    check(name, sample_group_mapping(known(name)[0].group, rng, kept=kept, streamed=streamed))


@pytest.mark.parametrize("name", NETWORKS)
def test_code_does_what_is_timed(name: str):
    made = known(name)[0]
    for seed in range(6):
        rng = random.Random(f"{name} {seed}")
        rank = len(made.group.sink_shape)
        kept = tuple(axis for axis in range(rank - 2, rank) if rng.random() < 0.6)
        mapping = sample_group_mapping(made.group, rng, kept=kept, streamed=rng.random() < 0.5)
        func = schedule_group(made.fused, made.group, mapping)
        assert check_group(func, made.group, mapping) is None, str(mapping)


def whole(name: str, **choices: object) -> GroupMapping:
    """One core, one tile, one step per stage, weights resident; with choices."""
    group = known(name)[0].group
    works = [group.graph.layers[index].workload for index in group.layers]
    inner = [None if work is None else Mapping(spm=work.dims, rf=work.dims) for work in works]
    plain = GroupMapping(
        cores=(1,) * len(group.sink_shape), tile=group.sink_shape, inner=tuple(inner),
        k_tile=tuple(1 if work is None else work.dims.K for work in works),
    )  # fmt: skip
    return replace(plain, **choices)


def test_kept_rows_lie_in_a_ring():
    # A tile of 2 rows needs 4 rows of the first convolution, of which 2 are new (3 at the top, with no row before);
    # these need 4 rows of x. SPM, in floats: x 6*4*11, tiles 6*4*11 and 6*2*11, weights 2 * 6*6*9.
    func = check("identity shortcut", whole("identity shortcut", tile=(1, 6, 2, 11), kept=(2,)))
    assert spm_bytes(func) == 4 * (6 * 4 * 11 + 6 * 4 * 11 + 6 * 2 * 11 + 2 * 6 * 6 * 9)


def test_a_difference_is_named():
    made = known("identity shortcut")[0]
    mapping = whole("identity shortcut", tile=(1, 6, 2, 11))
    func = schedule_group(made.fused, made.group, replace(mapping, kept=(2,)))
    # Recomputed, the second tile loads rows 0 to 6 of x for rows 2 and 3; kept, rows 4 and 5 are new.
    outcome = check_group(func, made.group, mapping)
    assert outcome is not None
    assert "the code does load layer 0 read 0 [0:1 0:6 4:6 0:11]" in outcome
    assert "the mapping says load layer 0 read 0 [0:1 0:6 0:6 0:11]" in outcome


def with_stores(func: tirx.PrimFunc, change: Callable[[tirx.AttrStmt], tirx.Stmt]) -> tirx.PrimFunc:
    """A function whose copies to DRAM are others."""

    def changed(node: tirx.AttrStmt) -> tirx.Stmt:
        return change(node) if str(node.attr_key) == "spm.store" else node

    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.AttrStmt, changed), order="post"))


@pytest.mark.parametrize("name", ["identity shortcut", "grouped"])
def test_a_store_at_another_place_is_noticed(name: str):
    made, mapping = known(name)[0], whole(name)
    func = schedule_group(made.fused, made.group, mapping)

    def moved(node: tirx.BufferStore) -> tirx.BufferStore:
        first, channel, row, column = node.indices
        return tirx.BufferStore(node.buffer, node.value, [first, channel, row + 1, column])

    wrong = with_stores(func, lambda node: tvm_ffi.structural_map(node, (tirx.BufferStore, moved), order="post"))
    assert check_group(func, made.group, mapping) is None
    assert "the code does store" in check_group(wrong, made.group, mapping)


def test_a_store_that_is_missing_is_noticed():
    made, mapping = known("identity shortcut")[0], whole("identity shortcut")
    func = schedule_group(made.fused, made.group, mapping)
    never = tirx.IntImm("bool", 0)
    wrong = with_stores(func, lambda node: tirx.IfThenElse(never, node, None))
    events = len(group_events(made.group, mapping)[0])
    assert check_group(wrong, made.group, mapping) == (
        f"core 0: the code does {events - 1} things, the mapping says {events}"
    )


@pytest.mark.parametrize("name", ["inner shortcut", "next block", "skip", "several", "first branch"])
def test_a_network_with_groups_runs_as_before(name: str):
    made = known(name)[0]
    shape = made.group.sink_shape
    mapping = whole(name, cores=(1, 1, 2, 1), tile=(*shape[:2], min(3, -(-shape[2] // 2)), shape[3]), kept=(2,))
    module = made.grouped.mod.clone()
    module[made.grouped.groups[0].name] = schedule_group(made.fused, made.group, mapping)
    main = made.mod["main"]
    inputs = [
        np.random.default_rng(index).integers(-3, 4, size=[int(e) for e in param.ty.shape.values]).astype("float32")
        for index, param in enumerate(main.params)
    ]
    outcome = verify_network(made.mod, module, inputs, target="edge-256")
    assert outcome.passed, str(outcome)
    assert outcome.max_abs_error == 0


def test_bad_groups_and_mappings_are_named():
    made = known("identity shortcut")[0]
    small = Mapping(spm=Dims(K=6, C=6, OY=13, OX=11, FY=3, FX=3), rf=Dims(OY=13, OX=11, FY=3, FX=3, C=6))
    with pytest.raises(ScheduleError, match="K = 6 > 1 of the array, but the SPM order - does not name it"):
        schedule_group(made.fused, made.group, whole("identity shortcut", inner=(small, small)))
    with pytest.raises(ScheduleError, match="leaves a core idle"):
        schedule_group(made.fused, made.group, whole("identity shortcut", cores=(1, 4, 1, 1)))
    variables = [binding.var for block in made.mod["main"].body.blocks for binding in block.bindings]
    with pytest.raises(ModelError, match="is not bound"):
        group_calls(made.mod, [["nothing"]])
    inner = known("inner shortcut")[0].mod
    names = [binding.var.name for block in inner["main"].body.blocks for binding in block.bindings]
    with pytest.raises(ModelError, match=f"{names[1]} stands between calls of one group: it uses one, and another"):
        group_calls(inner, [[names[0], names[2]]])
    assert len(variables) >= 2
