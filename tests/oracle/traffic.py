"""What a mapping moves, tile by tile: every pass, every step, every PE."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

from tests.oracle.boxes import clipped_box, num_elems, num_parts, run_bits, run_lengths, spanned_elems, whole_bytes
from tests.oracle.levels import Point, array_tile, inside, loops, odometer, shares
from tvm_spm.mapping import Mapping
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Projection, Workload


class Traffic:
    """One mapping, executed tile by tile; what moves is added to ``counts``."""

    def __init__(self, workload: Workload, mapping: Mapping, burst_bytes: int) -> None:
        self.workload, self.mapping, self.burst_bytes = workload, mapping, burst_bytes
        self.counts: Counter[str] = Counter()
        self.loops = loops(workload, mapping)
        self.dram_loops = [loop for loop in self.loops if loop[0] == "DRAM"]
        for first, extent in shares(workload, mapping):
            self.core(first, extent)

    def core(self, first: Point, extent: Point) -> None:
        spm = self.mapping.spm
        counts = {name: num_parts(extent[name], spm[name]) for name in DIM_NAMES}
        for dram in odometer(self.mapping.dram_order, counts):
            at = {name: first[name] + dram[name] * spm[name] for name in DIM_NAMES}
            tile = {name: min(spm[name], extent[name] - dram[name] * spm[name]) for name in DIM_NAMES}
            self.dma(dram, counts, at, tile)
            self.steps(dram, counts, tile)

    def dma(self, dram: Point, counts: Point, at: Point, tile: Point) -> None:
        workload = self.workload
        for name, projection in (("I", workload.I), ("W", workload.W)):
            if all(dram[d] == 0 for _, d in inside(projection, self.dram_loops)):
                self.move(name, projection, at, tile)
        around = [d for _, d in inside(workload.O, self.dram_loops)]
        if all(dram[d] == 0 for d in around) and any(dram[d] for d in REDUCTION_DIMS):
            self.move("O in", workload.O, at, tile)
        if all(dram[d] == counts[d] - 1 for d in around):
            if all(dram[d] == counts[d] - 1 for d in REDUCTION_DIMS):
                self.move("O final", workload.final_projection(), at, tile)
                for extra in workload.epilogue.extras:
                    self.move("extras", extra, at, tile)
            else:
                self.move("O spill", workload.O, at, tile)

    def move(self, name: str, projection: Projection, at: Point, tile: Point) -> None:
        box = clipped_box(projection.axes, at, Dims(**tile))
        self.counts[f"{name} elems"] += num_elems(box)
        runs = run_lengths(tuple(stop - start for start, stop in box), tuple(axis.extent for axis in projection.axes))
        bits = sum(run_bits(elems, projection.elem_bits, self.burst_bytes) for elems in runs)
        self.counts[f"{name} bytes"] += whole_bytes(bits)
        self.counts["unused bits"] += bits - sum(runs) * projection.elem_bits
        self.counts[f"{name} bursts"] += len(runs)
        self.counts[f"{name} transfers"] += 1

    def steps(self, dram: Point, dram_counts: Point, tile: Point) -> None:
        array = array_tile(self.mapping)
        counts = {name: num_parts(tile[name], array[name]) for name in DIM_NAMES}
        for step in odometer(self.mapping.spm_order, counts):
            size = Dims.of([min(array[name], tile[name] - step[name] * array[name]) for name in DIM_NAMES])
            index = {("DRAM", d): dram[d] for d in DIM_NAMES} | {("SPM", d): step[d] for d in DIM_NAMES}
            last = {("DRAM", d): dram_counts[d] - 1 for d in DIM_NAMES}
            last |= {("SPM", d): counts[d] - 1 for d in DIM_NAMES}
            for name, projection in (("I", self.workload.I), ("W", self.workload.W)):
                if all(index[loop] == 0 for loop in inside(projection, self.loops)):
                    self.counts[f"{name} crossed"] += spanned_elems(projection.axes, size)
                    self.counts[f"{name} delivered"] += self.delivered(projection, size)
                    self.counts[f"{name} loads"] += 1
            around = inside(self.workload.O, self.loops)
            elems = spanned_elems(self.workload.O.axes, size)
            if all(index[loop] == 0 for loop in around) and any(dram[d] or step[d] for d in REDUCTION_DIMS):
                self.counts["O read back"] += elems
            if all(index[loop] == last[loop] for loop in around):
                self.counts["O left"] += elems
                red = math.prod(self.mapping.rows[d] * self.mapping.cols[d] for d in REDUCTION_DIMS)
                self.counts["hops"] += elems * (red - 1)

    def delivered(self, projection: Projection, size: Dims) -> int:
        rf, total = self.mapping.rf, 0
        for pe in product(*(range(num_parts(size[name], rf[name])) for name in DIM_NAMES)):
            piece = [min(rf[n], size[n] - p * rf[n]) for n, p in zip(DIM_NAMES, pe, strict=True)]
            total += spanned_elems(projection.axes, Dims.of(piece))
        return total
