"""The price of attention, walked literally: every tile, every transfer, every word, every step of the array."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tests.oracle.boxes import num_parts, run_bits, run_lengths, whole_bytes
from tests.simulator_reference import Nest, walk_pass
from tests.simulator_reference import Walk as Counts
from tvm_spm.arch import Arch
from tvm_spm.attention import Attention, AttentionMapping
from tvm_spm.mapping import Mapping
from tvm_spm.workload import DIM_NAMES, Dims, Operand, Workload


@dataclass
class Stage:
    """A step of one core: what it waits for, what it uses, what leaves after it (channel and engine cycles)."""

    cycles: int
    loads: list[tuple[str, int]] = field(default_factory=list)
    uses: tuple[str, ...] = ()
    store: tuple[int, int] | None = None
    correction: int | None = None
    """Of a softmax beside the array: what comes after both."""


@dataclass
class AttentionWalk:
    """Everything that happens, in order, on every core."""

    work: Attention
    arch: Arch
    mapping: AttentionMapping
    energy_pj: float = 0.0
    num_bytes: dict[str, int] = field(default_factory=dict)
    used_bytes: int = 0

    def moved(self, name: str, shape: tuple[int, ...], box: tuple[int, ...], bits: int) -> int:
        """Cycles of one transfer, run by run of neighbours in memory."""
        runs, least = run_lengths(box, shape), self.arch.levels.DRAM.burst_bytes
        assert bits % 8 == 0
        self.used_bytes += math.prod(box) * bits // 8
        num_bytes = whole_bytes(sum(run_bits(elems, bits, least) for elems in runs))
        self.num_bytes[name] = self.num_bytes.get(name, 0) + num_bytes
        self.energy_pj += math.prod(box) * bits / self.arch.word_bits * self.arch.levels.SPM.access_pj
        self.energy_pj += num_bytes * 8 / self.arch.word_bits * self.arch.levels.DRAM.access_pj
        return math.ceil(len(runs) * self.arch.burst_startup_cycles + num_bytes / self.arch.dma_bytes_per_cycle)

    def spm(self, elems: int, bits: int) -> None:
        self.energy_pj += elems * bits / self.arch.word_bits * self.arch.levels.SPM.access_pj

    def vector(self, num_ops: int) -> int:
        self.energy_pj += num_ops * self.arch.vector.op_pj
        return math.ceil(num_ops / self.arch.vector.ops_per_cycle)

    def array(self, workload: Workload, inner: Mapping, tile: Dims, *, accumulates: bool) -> int:
        """One pass from SPM and back; where sums go on, the loops outside have been at one reduction step before."""
        counts, arch = Counts(), self.arch
        outside = {"C": 1} if accumulates else {}
        nest = Nest(workload, arch, replace(inner, dram_order=()))
        cycles, _ = walk_pass(nest, tile, outside, {name: 1 + outside.get(name, 0) for name in DIM_NAMES}, counts)
        rf, noc, macs = arch.levels.RF, arch.noc, math.prod(tile)
        words = {operand.name: workload.projection(operand).elem_bits / arch.word_bits for operand in Operand}
        self.energy_pj += macs * (arch.mac.op_pj + rf.access_pj * (words["I"] + words["W"] + 2 * words["O"]))
        for name, scale in words.items():
            self.energy_pj += counts.delivered[name] * scale * (rf.fill_pj + noc.delivery_pj)
            self.energy_pj += counts.crossed[name] * scale * (noc.elem_pj + arch.levels.SPM.access_pj)
        self.energy_pj += counts.hopped * words["O"] * noc.reduction_hop_pj
        return cycles

    def cores(self) -> Iterator[list[Stage]]:
        work, mapping = self.work, self.mapping
        heads, queries = num_parts(work.heads, mapping.cores[0]), num_parts(work.queries, mapping.cores[1])
        for i in range(mapping.cores[0]):
            for j in range(mapping.cores[1]):
                head_range = range(i * heads, min(work.heads, (i + 1) * heads))
                stages = list(self.core(head_range, range(j * queries, min(work.queries, (j + 1) * queries))))
                yield self.beside(stages) if mapping.beside else stages

    def beside(self, stages: list[Stage]) -> list[Stage]:
        """The same with softmax and products of neighbouring chunks at a time; outputs are corrected in between."""
        steps = []
        for step in range(len(stages) // 3 + 2):
            done = [stages[3 * (step - late) + late] for late in range(3) if 0 <= step - late < len(stages) // 3]
            softmax = [stage for stage in done if stage.correction is not None]
            array = sum(stage.cycles for stage in done if stage.correction is None)
            total = max([array, *(stage.cycles for stage in softmax)]) + sum(stage.correction for stage in softmax)
            loads = [
                load for name in ("Q", "K", "V", "mask") for stage in done for load in stage.loads if name in load[0]
            ]
            (store,) = [stage.store for stage in done if stage.store] or [None]
            steps.append(Stage(total, loads, tuple(name for stage in done for name in stage.uses), store))
        return steps

    def core(self, heads: range, queries: range) -> Iterator[Stage]:
        work, held = self.work, {}
        depth, out_depth, keys = work.scores.dims.C, work.context.dims.K, work.keys
        scores_bits, out_bits = work.scores.O.elem_bits, work.context.O.elem_bits

        def load(name: str, part: object, shape: tuple[int, ...], box: tuple[int, ...], bits: int) -> list:
            if held.get(name) == part:
                return []
            held[name] = part
            return [(name, self.moved(name, shape, box, bits))]

        for head in heads:
            for query in range(queries.start, queries.stop, self.mapping.query_tile):
                rows = min(self.mapping.query_tile, queries.stop - query)
                for key in range(0, keys, self.mapping.key_tile):
                    columns = min(self.mapping.key_tile, keys - key)
                    at = (head, query, key)
                    scores_tile, context_tile = self.mapping.stage_dims(rows, columns, work)
                    loads = load("Q", at[:2], (work.heads, work.queries, depth), (1, rows, depth), 16)
                    loads += load("K", at[::2], (work.heads, keys, depth), (1, columns, depth), 16)
                    inner = self.mapping.inner
                    cycles = self.array(work.scores, inner[0], scores_tile, accumulates=False)
                    yield Stage(cycles, loads, ("Q", "K"))

                    loads, names = [], []
                    for number, mask in enumerate(work.scores.epilogue.extras):
                        dims = {axis.terms[0][0]: axis.extent for axis in mask.axes}
                        part = (head, *(at[1] for d in dims if d == "OX"), *(("k", at[2]) for d in dims if d == "K"))
                        box = tuple(rows if d == "OX" else columns for d in dims)
                        names.append(f"mask {number}")
                        loads += load(names[-1], part, tuple(dims.values()), box, 32)
                        self.spm(rows * columns, 32)
                    self.spm(rows * columns * 4, scores_bits)  # read, change, read, replace by its power
                    self.spm(rows * 4, scores_bits)  # maximum and sum, read and written
                    ops = rows * columns * (work.scores.epilogue.num_ops_per_elem + 4)
                    late = 0
                    if key > 0:
                        ops += rows * 3
                        late = rows * out_depth
                        self.spm(2 * rows * out_depth, out_bits)
                    if self.mapping.beside:
                        yield Stage(self.vector(ops), loads, tuple(names), correction=self.vector(late))
                    else:
                        yield Stage(self.vector(ops + late), loads, tuple(names))

                    loads = load("V", at[::2], (work.heads, keys, out_depth), (1, columns, out_depth), 16)
                    cycles = self.array(work.context, inner[1], context_tile, accumulates=key > 0)
                    stage = Stage(cycles, loads, ("V",))
                    if key + columns == keys:
                        self.spm(rows, scores_bits)
                        channel = self.moved("O", (work.heads, work.queries, out_depth), (1, rows, out_depth), 16)
                        stage.store = channel, max(channel, self.vector(rows * out_depth))
                    yield stage

    def cycles(self) -> int:
        """All cores, one transfer after the other on each, first come first served on the channels."""
        cores = [Queue(list(stages), self.mapping.double, self.arch.cores.launch_cycles) for stages in self.cores()]
        free = [0] * self.arch.levels.DRAM.channels
        while True:
            waiting = [(core.request(), number) for number, core in enumerate(cores) if core.items]
            if not waiting:
                return max(core.finish() for core in cores)
            time, number = min(waiting)
            channel = min(range(len(free)), key=lambda i: free[i])
            start = max(time, free[channel])
            free[channel] = start + cores[number].serve(start)


class Queue:
    """One core: transfers in order, stages in order."""

    def __init__(self, stages: list[Stage], double: bool, launch_cycles: int) -> None:
        self.stages, self.double, self.launch = stages, double, launch_cycles
        self.clock = launch_cycles
        self.loaded = [0] * len(stages)
        self.ends: list[int] = []
        self.stores: list[int] = []
        self.load_stages: dict[str, list[int]] = {}
        self.items: list[tuple[int, str | None]] = []
        behind = 1 if double else 0
        for step in range(len(stages) + behind):
            if step < len(stages):
                self.items += [(step, name) for name, _ in stages[step].loads]
            if step >= behind and stages[step - behind].store is not None:
                self.items.append((step - behind, None))

    def end_of(self, stage: int) -> int:
        while len(self.ends) <= stage:
            number = len(self.ends)
            start = max(self.ends[-1] if self.ends else self.launch, self.loaded[number])
            if self.stages[number].store is not None:
                earlier = sum(s.store is not None for s in self.stages[:number]) - (2 if self.double else 1)
                start = max(start, self.stores[earlier] if earlier >= 0 else 0)
            self.ends.append(start + self.stages[number].cycles)
        return self.ends[stage]

    def request(self) -> int:
        stage, name = self.items[0]
        if name is None:
            return max(self.clock, self.end_of(stage))
        # The load that this one replaces in the buffer, and the last stage that used it.
        earlier = self.load_stages.get(name, [])
        behind = 2 if self.double else 1
        if len(earlier) < behind:
            return self.clock
        until = [*earlier, stage][len(earlier) - behind + 1]
        users = [s for s in range(earlier[-behind], until) if name in self.stages[s].uses]
        return max(self.clock, self.end_of(users[-1]))

    def serve(self, start: int) -> int:
        stage, name = self.items.pop(0)
        if name is None:
            channel, engine = self.stages[stage].store
            self.clock = start + engine
            self.stores.append(self.clock)
            return channel
        self.load_stages.setdefault(name, []).append(stage)
        channel = dict(self.stages[stage].loads)[name]
        self.clock = self.loaded[stage] = start + channel
        return channel

    def finish(self) -> int:
        return max(self.clock, self.end_of(len(self.stages) - 1))
