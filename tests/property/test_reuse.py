"""Every count of ``reuse`` against a walk of the whole nest that moves the tiles one by one."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analytical_cases import draw_case
from tests.oracle.reuse import count_reuse
from tests.simulator_reference import run_bits, run_lengths
from tvm_spm.mapping import Mapping
from tvm_spm.units import bits_to_bytes, ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Projection, Workload

Point = dict[str, int]


def odometer(order: tuple[str, ...], counts: Point) -> list[Point]:
    """Index vectors of a nest in execution order; a dim not named stays at 0."""
    vectors = product(*(range(counts[name]) for name in order))
    return [dict.fromkeys(DIM_NAMES, 0) | dict(zip(order, vector, strict=True)) for vector in vectors]


def clipped_box(projection: Projection, first: Point, tile: Point) -> tuple[int, ...]:
    """Elements per axis of a tile that exist in the tensor, by looking at every index it spans."""
    sizes = []
    for axis in projection.axes:
        start = axis.offset + sum(c * first[name] for name, c in axis.terms)
        span = 1 + sum(c * (tile[name] - 1) for name, c in axis.terms)
        sizes.append(sum(1 for index in range(start, start + span) if 0 <= index < axis.extent))
    return tuple(sizes)


class Walk:
    """One mapping, executed tile by tile; what moves is added to ``counts``."""

    def __init__(self, workload: Workload, mapping: Mapping, burst_bytes: int) -> None:
        self.workload, self.mapping, self.burst_bytes = workload, mapping, burst_bytes
        self.counts: Counter[str] = Counter()
        dram, spm = mapping.dram_factors(workload.dims), mapping.spm_factors()
        self.dram_loops = [("DRAM", d) for d in mapping.dram_order if dram[d] > 1]
        self.loops = self.dram_loops + [("SPM", d) for d in mapping.spm_order if spm[d] > 1]
        core_tile = mapping.core_tile(workload.dims)
        for core in product(*(range(mapping.cores[name]) for name in DIM_NAMES)):
            first = {name: k * core_tile[name] for name, k in zip(DIM_NAMES, core, strict=True)}
            self.core(first, {n: min(core_tile[n], workload.dims[n] - first[n]) for n in DIM_NAMES})

    def inside(self, projection: Projection, loops: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Loops strictly inside the innermost one that changes the tile."""
        changing = [i for i, (_, name) in enumerate(loops) if name in projection.relevant_dims]
        return loops[max(changing, default=-1) + 1 :]

    def core(self, first: Point, extent: Point) -> None:
        spm = self.mapping.spm
        counts = {name: ceil_div(extent[name], spm[name]) for name in DIM_NAMES}
        for dram in odometer(self.mapping.dram_order, counts):
            at = {name: first[name] + dram[name] * spm[name] for name in DIM_NAMES}
            tile = {name: min(spm[name], extent[name] - dram[name] * spm[name]) for name in DIM_NAMES}
            self.dma(dram, counts, at, tile)
            self.steps(dram, counts, tile)

    def dma(self, dram: Point, counts: Point, at: Point, tile: Point) -> None:
        workload = self.workload
        for name, projection in (("I", workload.I), ("W", workload.W)):
            if all(dram[d] == 0 for _, d in self.inside(projection, self.dram_loops)):
                self.move(name, projection, at, tile)
        inside = [d for _, d in self.inside(workload.O, self.dram_loops)]
        if all(dram[d] == 0 for d in inside) and any(dram[d] for d in REDUCTION_DIMS):
            self.move("O in", workload.O, at, tile)
        if all(dram[d] == counts[d] - 1 for d in inside):
            if all(dram[d] == counts[d] - 1 for d in REDUCTION_DIMS):
                self.move("O final", workload.final_projection(), at, tile)
                for extra in workload.epilogue.extras:
                    self.move("extras", extra, at, tile)
            else:
                self.move("O spill", workload.O, at, tile)

    def move(self, name: str, projection: Projection, at: Point, tile: Point) -> None:
        box = clipped_box(projection, at, tile)
        self.counts[f"{name} elems"] += math.prod(box)
        runs = run_lengths(tuple(box), tuple(axis.extent for axis in projection.axes))
        bits = sum(run_bits(elems, projection.elem_bits, self.burst_bytes) for elems in runs)
        self.counts[f"{name} bytes"] += bits_to_bytes(bits)
        self.counts["unused bits"] += bits - sum(runs) * projection.elem_bits
        self.counts[f"{name} bursts"] += len(runs)
        self.counts[f"{name} transfers"] += 1

    def steps(self, dram: Point, dram_counts: Point, tile: Point) -> None:
        array = self.mapping.array
        counts = {name: ceil_div(tile[name], array[name]) for name in DIM_NAMES}
        for step in odometer(self.mapping.spm_order, counts):
            size = Dims.of([min(array[name], tile[name] - step[name] * array[name]) for name in DIM_NAMES])
            index = {("DRAM", d): dram[d] for d in DIM_NAMES} | {("SPM", d): step[d] for d in DIM_NAMES}
            last = {("DRAM", d): dram_counts[d] - 1 for d in DIM_NAMES}
            last |= {("SPM", d): counts[d] - 1 for d in DIM_NAMES}
            for name, projection in (("I", self.workload.I), ("W", self.workload.W)):
                if all(index[loop] == 0 for loop in self.inside(projection, self.loops)):
                    self.counts[f"{name} crossed"] += projection.tile_elems(size)
                    self.counts[f"{name} delivered"] += self.delivered(projection, size)
                    self.counts[f"{name} loads"] += 1
            inside = self.inside(self.workload.O, self.loops)
            elems = self.workload.O.tile_elems(size)
            if all(index[loop] == 0 for loop in inside) and any(dram[d] or step[d] for d in REDUCTION_DIMS):
                self.counts["O read back"] += elems
            if all(index[loop] == last[loop] for loop in inside):
                self.counts["O left"] += elems
                red = math.prod(self.mapping.rows[d] * self.mapping.cols[d] for d in REDUCTION_DIMS)
                self.counts["hops"] += elems * (red - 1)

    def delivered(self, projection: Projection, size: Dims) -> int:
        rf, total = self.mapping.rf, 0
        for pe in product(*(range(ceil_div(size[name], rf[name])) for name in DIM_NAMES)):
            piece = [min(rf[n], size[n] - p * rf[n]) for n, p in zip(DIM_NAMES, pe, strict=True)]
            total += projection.tile_elems(Dims.of(piece))
        return total


@given(seed=st.integers(0, 2**32 - 1), cores=st.sampled_from([1, 1, 3, 4]), perfect=st.booleans())
@settings(max_examples=150, deadline=None)
def test_counts_equal_a_walk_of_the_nest(seed: int, cores: int, perfect: bool) -> None:
    workload, arch, mapping = draw_case(seed, cores=cores, perfect=perfect, most=5, max_steps=250)
    walk, reuse = Walk(workload, mapping, arch.levels.DRAM.burst_bytes).counts, count_reuse(workload, mapping)
    tensors = dict(zip(("I", "W", "O in"), reuse.dram_in, strict=True))
    tensors |= {"O spill": reuse.dram_spill, "O final": reuse.dram_final}
    for name, traffic in tensors.items():
        assert traffic.num_elems == walk[f"{name} elems"], name
        assert traffic.num_bytes(arch) == walk[f"{name} bytes"], name
        assert traffic.num_bursts == walk[f"{name} bursts"], name
        assert traffic.num_transfers == walk[f"{name} transfers"], name
    assert sum(extra.num_elems for extra in reuse.dram_extras) == walk["extras elems"]
    assert sum(extra.num_bursts for extra in reuse.dram_extras) == walk["extras bursts"]
    assert reuse.dram_bytes(arch)[3] == walk["extras bytes"]
    assert reuse.unused_bits(arch) == walk["unused bits"]
    for name, traffic in zip(("I", "W"), reuse.rf_in, strict=False):
        assert traffic.num_elems == walk[f"{name} crossed"], name
        assert traffic.num_deliveries == walk[f"{name} delivered"], name
        assert traffic.num_transfers == walk[f"{name} loads"], name
    assert reuse.rf_in[2].num_elems == walk["O read back"]
    assert reuse.rf_out.num_elems == walk["O left"]
    assert reuse.num_reduction_hops == walk["hops"]


@given(seed=st.integers(0, 2**32 - 1), cores=st.sampled_from([1, 4]))
@settings(max_examples=100, deadline=None)
def test_traffic_is_never_below_what_must_move(seed: int, cores: int) -> None:
    workload, _, mapping = draw_case(seed, cores=cores, max_steps=10**9)
    reuse = count_reuse(workload, mapping)
    # every weight and output lies inside its tensor, and each is needed
    assert reuse.dram_in[1].num_elems >= workload.W.tensor_elems()
    assert reuse.dram_final.num_elems >= workload.O.tensor_elems()
    if workload.dims.G == 1:
        # only the box around several groups with part of their channels each has holes
        assert reuse.dram_final.num_elems == workload.O.tensor_elems()
    assert reuse.dram_in[2].num_elems == reuse.dram_spill.num_elems
    assert (reuse.dram_spill.num_elems > 0) == mapping.spill
