"""Fused groups against a literal walk over sets of elements, and single layers against the simulator of layers."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cost_model.fused import group_cost
from cost_model.simulator import SimulatorModel
from tests.fused_cases import GROUPS, Builder, random_group_mapping
from tests.fused_reference import run
from tests.simulator_cases import random_arch, random_mapping, random_workload
from tvm_spm.graph import Layer, Read
from tvm_spm.group import Group, GroupMapping
from tvm_spm.mapping import Mapping
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Workload

PARTS = ("mac", "rf", "noc", "spm", "dram", "vector")


@pytest.mark.parametrize("name", list(GROUPS))
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_number_equals_the_literal_walk(name: str, seed: int):
    rng = random.Random(seed)
    group = GROUPS[name]()
    num_cores = rng.choice([1, 2, 3, 4])
    arch = random_arch(rng, num_cores=num_cores, num_channels=rng.choice([1, 2, 4]))
    mapping = random_group_mapping(rng, group, max_cores=num_cores)
    chunk = mapping.chunk(group.sink_shape)
    assume(math.prod(ceil_div(c, t) for c, t in zip(chunk, mapping.tile, strict=True)) <= 24)
    expected, found = run(group, arch, mapping), group_cost(group, arch, mapping)
    assert found.cost.cycles == expected.cycles
    assert found.macs_executed == expected.macs
    assert found.dram_bytes == sum(expected.dram_bytes.values())
    assert found.weight_bytes == expected.dram_bytes["W"]
    assert found.cost.dram_unused_bytes == expected.unused_bits // 8
    assert found.spm_bytes == expected.spm_bytes
    for part in PARTS:
        assert getattr(found.cost.energy, f"{part}_pj") == pytest.approx(expected.energy_pj[part], rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_single_layer_on_one_core_equals_the_simulator_of_layers(seed: int):
    """Mappings that keep nothing in the RFs from pass to pass, and tiles of which no two in a row need the same box."""
    rng = random.Random(seed)
    workload, arch = random_workload(rng), random_arch(rng)
    is_double = rng.random() < 0.5
    mapping, tile = single_mapping(rng, workload, is_double=is_double)
    assume(not keeps_across_passes(workload, mapping))
    assume(not repeats_a_box(workload, mapping))
    group = single_layer(workload)
    fused = GroupMapping(
        cores=(1,) * len(tile), tile=tile, k_tile=(mapping.spm.K,), double=is_double,
        inner=(replace(mapping, dram_order=(), spm_double=()),),
    )  # fmt: skip
    found, expected = group_cost(group, arch, fused).cost, SimulatorModel().cost(workload, arch, mapping)
    for field in (
        "cycles", "macs", "compute_cycles", "noc_stall_cycles", "dma_stall_cycles", "dram_bytes", "dram_unused_bytes",
        "dma_busy_cycles",
        "utilization",
    ):  # fmt: skip
        assert getattr(found, field) == getattr(expected, field), field
    for part in PARTS:
        name = f"{part}_pj"
        assert getattr(found.energy, name) == pytest.approx(getattr(expected.energy, name), rel=1e-9), part


def single_layer(workload: Workload) -> Group:
    """A graph of one layer."""
    b = Builder(dtype=workload.I.dtype)

    def tensor(name: str, projection: object, *, const: bool = False) -> int:
        return b.tensor(name, tuple(a.extent for a in projection.axes), const=const, dtype=projection.dtype)

    reads = [
        Read(tensor=tensor("x", workload.I), role="I", accesses=(workload.I.axes,)),
        Read(tensor=tensor("w", workload.W, const=True), role="W", accesses=(workload.W.axes,)),
    ]
    for number, extra in enumerate(workload.epilogue.extras):
        reads.append(Read(tensor=tensor(f"e{number}", extra), role="extra", accesses=(extra.axes,)))
    b.layers.append(
        Layer(
            name="layer",
            output=tensor("out", workload.final_projection()),
            out_axes=workload.O.axes,
            loops=tuple(zip(DIM_NAMES, workload.dims, strict=True)),
            reads=tuple(reads),
            workload=workload,
            num_ops_per_elem=workload.epilogue.num_ops_per_elem,
        )  # fmt: skip
    )
    return b.group()


def single_mapping(rng: random.Random, workload: Workload, *, is_double: bool) -> tuple[Mapping, tuple[int, ...]]:
    """Tiles of the output in storage order, channels innermost if an axis also holds groups; and the sink's tile."""
    extents = workload.dims
    spm = {d: extents[d] if d in REDUCTION_DIMS else rng.randint(1, extents[d]) for d in DIM_NAMES}
    order: list[str] = []
    tile: list[int] = []
    for axis in workload.O.axes:
        names = [name for name, _ in axis.terms]
        if names == ["K"] and rng.random() < 0.5:
            tile.append(extents.K)
        elif len(names) == 1:
            order.append(names[0])
            tile.append(spm[names[0]])
        else:
            spm["G"] = 1
            order.append("G")
            tile.append(extents.K)
    if "K" not in order:
        order.append("K")
    tiles = Dims(**spm)
    inner = random_mapping(rng, workload, random_arch(rng))
    rows, cols, rf = inner.rows, inner.cols, inner.rf.combine(tiles, min)
    if any(r * c > ceil_div(s, f) for r, c, s, f in zip(rows, cols, tiles, rf, strict=True)):
        rows = cols = Dims()
    mapping = Mapping(
        spm=tiles, rows=rows, cols=cols, rf=rf, dram_order=tuple(order), spm_order=inner.spm_order,
        spm_double=tuple(Operand) if is_double else (), rf_double=inner.rf_double,
    )  # fmt: skip
    return mapping, tuple(tile)


def keeps_across_passes(workload: Workload, mapping: Mapping) -> bool:
    """Whether an RF position lies in the DRAM loops, outside the innermost of them."""
    spm, dram = mapping.spm_factors(), mapping.dram_factors(workload.dims)
    loops = [name for name in mapping.dram_order if dram[name] > 1]
    for operand in Operand:
        relevant = workload.projection(operand).relevant_dims
        if all(spm[name] == 1 for name in relevant) and loops and loops[-1] not in relevant:
            return True
    return False


def repeats_a_box(workload: Workload, mapping: Mapping) -> bool:
    """Whether two neighbouring tiles along a dim that indexes the input need the same of it, because of padding."""
    for axis in workload.I.axes:
        for name, _ in axis.terms:
            size, extent = mapping.spm[name], workload.dims[name]
            boxes = []
            for first in range(0, extent, size):
                tile = mapping.spm.with_dim(name, min(size, extent - first))
                start = axis.offset + dict(axis.terms)[name] * first
                boxes.append((max(0, start), min(axis.extent, start + axis.tile_elems(tile))))
            if any(a == b for a, b in zip(boxes, boxes[1:], strict=False)):
                return True
    return False
