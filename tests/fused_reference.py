"""Fused groups, walked literally: sets of elements, every stage, every step of the array; slow and obvious."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.boxes import (
    Box,
    bounding,
    box_read,
    elements,
    joined,
    loops_reaching,
    num_elems,
    num_parts,
    run_bits,
    run_lengths,
    whole_bytes,
)
from tests.simulator_reference import Nest, Walk, walk_pass
from tvm_spm.arch import Arch
from tvm_spm.graph import Layer, Read
from tvm_spm.group import Group, GroupMapping
from tvm_spm.workload import DIM_NAMES, Dims, Operand

Index = tuple[int, ...]
Element = tuple[int, ...]
Key = tuple[int, int]
"""Layer and number of the read."""


@dataclass
class Stage:
    """One stage of one core."""

    layer: int
    tile: Index
    chunk: int
    dims: Dims | None
    out: Box
    cycles: int = 0
    compute_cycles: int = 0
    loads: list[tuple[Key, Box]] = field(default_factory=list)
    uses: dict[Key, int] = field(default_factory=dict)
    streams: list[tuple[Key, Box]] = field(default_factory=list)


@dataclass
class Totals:
    """What all cores did."""

    cycles: int = 0
    macs: int = 0
    dram_bytes: Counter[str] = field(default_factory=Counter)
    unused_bits: int = 0
    energy_pj: Counter[str] = field(default_factory=Counter)
    spm_bytes: int = 0


class Core:
    """Tiles and stages of one core."""

    def __init__(self, group: Group, arch: Arch, mapping: GroupMapping, chunk: Box) -> None:
        self.group, self.arch, self.mapping, self.chunk = group, arch, mapping, chunk
        self.layers = [group.graph.layers[index] for index in group.layers]
        self.tensors = group.graph.tensors
        self.producer = {layer.output: local for local, layer in enumerate(self.layers)}
        others = [layer for index, layer in enumerate(group.graph.layers) if index not in group.layers]
        outside = {read.tensor for layer in others for read in layer.reads} | set(group.graph.outputs)
        self.leaving = {local for local, layer in enumerate(self.layers) if layer.output in outside}
        self.leaving.add(len(self.layers) - 1)
        self.counts = [num_parts(stop - first, size) for (first, stop), size in zip(chunk, mapping.tile, strict=True)]
        self.kept = [axis for axis in mapping.kept if self.counts[axis] > 1]
        self.needed: dict[tuple[int, Index], Box | None] = {}
        self.seen: dict[tuple[Key, Index], set[Element]] = {}
        self.stages: list[Stage] = []
        self.used: Counter[Key] = Counter()
        self.wanted: dict[Key, list[Box]] = {}
        self.brought: dict[Key, list[Box]] = {}
        self.padded: dict[Key, list[tuple[int, ...]]] = {}
        latest: dict[Key, Box] = {}
        for tile in itertools.product(*map(range, self.counts)):
            new = self._new_boxes(tile)
            for local, layer in enumerate(self.layers):
                if new[local] is not None:
                    self._add_stages(local, layer, tile, new[local], latest)
                for number in range(len(layer.reads)):
                    if not self.seen.get(((local, number), tile)):
                        self.seen[(local, number), tile] = self._left_behind(self.seen, (local, number), tile) or set()

    def behind(self, tile: Index, axis: int) -> Iterator[Index]:
        """Tiles before this one along an axis."""
        for before in range(tile[axis]):
            yield (*tile[:axis], before, *tile[axis + 1 :])

    def _left_behind(self, there: dict[tuple[Any, Index], Any], key: Any, tile: Index) -> Any:
        """A tile that needs nothing leaves in place what the tile before it left, along the last kept axis that has."""
        found = None
        for axis in self.kept:
            if tile[axis] > 0:
                found = there.get((key, (*tile[:axis], tile[axis] - 1, *tile[axis + 1 :]))) or found
        return found

    def _new_boxes(self, tile: Index) -> list[Box | None]:
        new: list[Box | None] = [None] * len(self.layers)
        needs: list[list[Box]] = [[] for _ in self.layers]
        needs[-1] = [
            tuple(
                (first + i * size, min(stop, first + (i + 1) * size))
                for i, size, (first, stop) in zip(tile, self.mapping.tile, self.chunk, strict=True)
            )
        ]
        for local in reversed(range(len(self.layers))):
            needed = joined(needs[local])
            self.needed[local, tile] = needed or self._left_behind(self.needed, local, tile)
            if needed is None:
                continue
            there: set[Element] = set()
            for axis in self.kept:
                for before in self.behind(tile, axis):
                    box = self.needed[local, before]
                    there |= set() if box is None else elements(box)
            new[local] = bounding(elements(needed) - there)
            if new[local] is None:
                continue
            ranges = loops_reaching(self.layers[local], new[local])
            for read in self.layers[local].reads:
                if read.tensor in self.producer:
                    needs[self.producer[read.tensor]].append(box_read(read, ranges))
        return new

    def _add_stages(self, local: int, layer: Layer, tile: Index, new: Box | None, latest: dict[Key, Box]) -> None:
        assert new is not None
        ranges = loops_reaching(layer, new)
        pieces = [ranges]
        if layer.workload is not None:
            first, stop = ranges["K"]
            size = min(self.mapping.k_tile[local], stop - first)
            pieces = [{**ranges, "K": (k, min(stop, k + size))} for k in range(first, stop, size)]
        for number, piece in enumerate(pieces):
            dims = None
            if layer.workload is not None:
                dims = Dims.of([piece[d][1] - piece[d][0] for d in DIM_NAMES])
            out = tuple(
                (
                    max(0, axis.offset + sum(c * piece[n][0] for n, c in axis.terms)),
                    min(axis.extent, axis.offset + sum(c * (piece[n][1] - 1) for n, c in axis.terms) + 1),
                )
                for axis in layer.out_axes
            )
            stage = Stage(layer=local, tile=tile, chunk=number, dims=dims, out=out)
            order = {"I": 0, "W": 1, "extra": 2, "vector": 3}
            for key, read in sorted(
                (((local, n), read) for n, read in enumerate(layer.reads)), key=lambda pair: order[pair[1].role]
            ):
                self._add_read(stage, key, read, piece, len(pieces) > 1, latest)
            self.stages.append(stage)

    def _add_read(
        self, stage: Stage, key: Key, read: Read, piece: dict[str, tuple[int, int]], chunked: bool,
        latest: dict[Key, Box],
    ) -> None:  # fmt: skip
        layer, box = self.layers[key[0]], box_read(read, piece)
        if not num_elems(box):
            return
        self.used[key] += num_elems(box)
        if read.tensor in self.producer:
            return
        if key[0] == len(self.layers) - 1 and layer.workload is not None and read.role == "extra":
            stage.streams.append((key, box))
            return
        stage.uses[key] = 1
        there: set[Element] = set()
        by_channel = any("K" in dict(axis.terms) for access in read.accesses for axis in access)
        may_stay = not self.tensors[read.tensor].is_constant and read.role != "W" and not (chunked and by_channel)
        for axis in self.kept if may_stay else ():
            for before in self.behind(stage.tile, axis):
                there |= self.seen.get((key, before), set())
        self.seen[key, stage.tile] = elements(box)
        if latest.get(key) == box:
            return
        latest[key] = box
        self.wanted.setdefault(key, []).append(box)
        if layer.workload is not None and read.role in "IW" and len(read.accesses) == 1:
            self.padded.setdefault(key, []).append(
                tuple(1 + sum(c * (piece[n][1] - piece[n][0] - 1) for n, c in axis.terms) for axis in read.accesses[0])
            )
        fresh = bounding(elements(box) - there) if may_stay else box
        if fresh is not None:
            self.brought.setdefault(key, []).append(fresh)
            stage.loads.append((key, fresh))

    def transfer(self, box: Box, tensor: int) -> tuple[int, int]:
        """Cycles and bits."""
        runs = run_lengths(tuple(stop - first for first, stop in box), tuple(self.tensors[tensor].shape))
        least = self.arch.levels.DRAM.burst_bytes
        bits = sum(run_bits(elems, self.tensors[tensor].elem_bits, least) for elems in runs)
        cycles = len(runs) * self.arch.burst_startup_cycles + whole_bytes(bits) / self.arch.dma_bytes_per_cycle
        return math.ceil(cycles), bits


def time_stage(core: Core, stage: Stage, totals: Totals) -> None:
    """Cycles on array and vector unit, and energy of both."""
    arch, layer, last = core.arch, core.layers[stage.layer], len(core.layers) - 1
    elems = num_elems(stage.out)
    vector_cycles = math.ceil(elems * layer.num_ops_per_elem / arch.vector.ops_per_cycle)
    parts, spm_pj, word = totals.energy_pj, arch.levels.SPM.access_pj, arch.word_bits
    parts["vector"] += elems * layer.num_ops_per_elem * arch.vector.op_pj
    out_bits = core.tensors[layer.output].elem_bits
    if layer.workload is None:
        stage.cycles = stage.compute_cycles = vector_cycles
        parts["spm"] += elems * out_bits / word * spm_pj
        return
    mapping = core.mapping.inner[stage.layer]
    assert mapping is not None
    assert stage.dims is not None
    walk = Walk()
    stage.cycles, stage.compute_cycles = walk_pass(
        Nest(layer.workload, arch, mapping), stage.dims, {}, dict.fromkeys(DIM_NAMES, 1), walk
    )
    macs = stage.dims.product()
    totals.macs += macs
    bits = {o.name: layer.workload.projection(o).elem_bits for o in Operand}
    rf, noc = arch.levels.RF, arch.noc
    parts["mac"] += macs * arch.mac.op_pj
    parts["rf"] += macs * rf.access_pj * (bits["I"] + bits["W"] + 2 * bits["O"]) / word
    for name, width in bits.items():
        parts["rf"] += walk.delivered[name] * rf.fill_pj * width / word
        parts["noc"] += (walk.crossed[name] * noc.elem_pj + walk.delivered[name] * noc.delivery_pj) * width / word
        parts["spm"] += walk.crossed[name] * spm_pj * width / word
    parts["noc"] += walk.hopped * noc.reduction_hop_pj * bits["O"] / word
    if stage.layer != last:
        stage.cycles += vector_cycles
        stage.compute_cycles += vector_cycles
        if layer.num_ops_per_elem:
            parts["spm"] += elems * (bits["O"] + out_bits) / word * spm_pj


def charge_reads(core: Core, totals: Totals) -> None:
    """Accesses of the vector unit to the scratchpad."""
    last = len(core.layers) - 1
    for (local, number), elems in core.used.items():
        layer, read = core.layers[local], core.layers[local].reads[number]
        streamed = local == last and layer.workload is not None and read.tensor not in core.producer
        if read.role == "vector" or (read.role == "extra" and not streamed):
            bits = core.tensors[read.tensor].elem_bits
            totals.energy_pj["spm"] += elems * bits / core.arch.word_bits * core.arch.levels.SPM.access_pj


def core_process(core: Core, totals: Totals) -> Generator[tuple[int, int, int], int, int]:
    """Requests of a core's DMA queue; returns when the core has finished."""
    arch, stages, launch = core.arch, core.stages, core.arch.cores.launch_cycles
    double, last = core.mapping.double, len(core.layers) - 1
    dram_pj, spm_pj, word = arch.levels.DRAM.access_pj, arch.levels.SPM.access_pj, arch.word_bits
    loaded = dict.fromkeys(range(len(stages)), 0)
    stored: dict[int, int] = {}
    leaves = {local: [s for s, stage in enumerate(stages) if stage.layer == local] for local in core.leaving}
    users: dict[Key, list[list[int]]] = {}
    load_number: dict[tuple[Key, int], int] = {}
    for s, stage in enumerate(stages):
        for key, _ in stage.loads:
            users.setdefault(key, []).append([])
            load_number[key, s] = len(users[key]) - 1
        for key in stage.uses:
            users[key][-1].append(s)
    ends: dict[int, int] = {}

    def end(s: int) -> int:
        while s not in ends:
            at = len(ends)
            start = max(ends[at - 1] if at else launch, loaded[at])
            if (local := stages[at].layer) in core.leaving:
                # only what the sink writes has two buffers
                before = leaves[local].index(at) - (2 if double and local == last else 1)
                if before >= 0:
                    start = max(start, stored[leaves[local][before]])
            ends[at] = start + stages[at].cycles
        return ends[s]

    def read_of(key: Key) -> Read:
        return core.layers[key[0]].reads[key[1]]

    def charge(key: Key, box: Box, bits: int, *, held: bool) -> None:
        read = read_of(key)
        used_bits = num_elems(box) * core.tensors[read.tensor].elem_bits
        totals.energy_pj["dram"] += bits / word * dram_pj
        totals.energy_pj["spm"] += used_bits / word * spm_pj * held
        totals.dram_bytes[read.role] += whole_bytes(bits)
        totals.unused_bits += bits - used_bits

    dma = launch
    queue: list[tuple[str, int]] = [("load", 0)]
    for s in range(len(stages)):
        queue += [("store", s - 1 if double else s), ("load", s + 1)]
    if double:
        queue.append(("store", len(stages) - 1))
    for what, s in queue:
        if not 0 <= s < len(stages):
            continue
        stage = stages[s]
        if what == "load":
            for key, box in stage.loads:
                number = load_number[key, s] - (2 if double else 1)
                ready = max(dma, end(users[key][number][-1])) if number >= 0 else dma
                cycles, bits = core.transfer(box, read_of(key).tensor)
                charge(key, box, bits, held=True)
                dma = (yield ready, cycles, cycles) + cycles
                loaded[s] = dma
        elif stage.layer in core.leaving:
            layer, is_last = core.layers[stage.layer], stage.layer == last
            cycles, bits = core.transfer(stage.out, layer.output)
            totals.dram_bytes["O"] += whole_bytes(bits)
            elems, out_bits = num_elems(stage.out), core.tensors[layer.output].elem_bits
            sum_bits = layer.workload.O.elem_bits if layer.workload and is_last else out_bits
            totals.energy_pj["dram"] += bits / word * dram_pj
            totals.unused_bits += bits - elems * out_bits
            totals.energy_pj["spm"] += elems * sum_bits / word * spm_pj
            engine = cycles
            if layer.workload is not None and is_last:
                engine = max(cycles, math.ceil(elems * layer.num_ops_per_elem / arch.vector.ops_per_cycle))
            for key, box in stage.streams:
                more, bits = core.transfer(box, read_of(key).tensor)
                charge(key, box, bits, held=False)
                cycles, engine = cycles + more, engine + more
            dma = (yield max(dma, end(s)), cycles, engine) + engine
            stored[s] = dma
    return max(dma, end(len(stages) - 1))


def spm_peak(core: Core) -> int:
    """Most bytes live at once."""
    bank, double, last = core.arch.levels.SPM.bank_bytes, core.mapping.double, len(core.layers) - 1

    def banks(elems: int, bits: int) -> int:
        return num_parts(whole_bytes(elems * bits), bank) * bank

    def extents(boxes: list[Box], padded: list[tuple[int, ...]], moved_inside: set[int]) -> list[int]:
        found = []
        for axis in range(len(boxes[0])):
            most = max([b[axis][1] - b[axis][0] for b in boxes] + [p[axis] for p in padded])
            if axis in moved_inside:
                most = max(most, max(b[axis][1] for b in boxes) - min(b[axis][0] for b in boxes))
            found.append(most)
        return found

    always = 0
    for key, boxes in core.brought.items():
        read = core.layers[key[0]].reads[key[1]]
        bits = core.tensors[read.tensor].elem_bits
        inside = moved_axes(core, read, key[0])
        one = banks(math.prod(extents(core.wanted[key], core.padded.get(key, []), inside)), bits)
        if len(boxes) == 1:
            always += one
        elif core.kept and double and any(moved_by(core, read, key[0], axis) for axis in range(len(core.counts))):
            always += one + banks(math.prod(extents(boxes, [], set())), bits)
        else:
            always += (2 if double else 1) * one
    sink = core.layers[last]
    sink_bits = core.tensors[sink.output].elem_bits
    sum_bits = max(sink_bits, sink.workload.O.elem_bits if sink.workload else 0)
    outs = [stage.out for stage in core.stages if stage.layer == last]
    always += (2 if double else 1) * banks(math.prod(extents(outs, [], set())), sum_bits)
    most = 0
    for now in range(last + 1):
        live = always
        for local in range(last):
            boxes = [box for (l, _), box in core.needed.items() if l == local and box is not None]
            if not boxes:
                continue
            readers = [
                n for n, layer in enumerate(core.layers)
                if any(read.tensor == core.layers[local].output for read in layer.reads)
            ]  # fmt: skip
            if core.kept or local in core.leaving or local <= now <= max(readers):
                bits = core.tensors[core.layers[local].output].elem_bits
                if local == now and core.layers[local].workload is not None:
                    bits = max(bits, core.layers[local].workload.O.elem_bits)
                inside = {
                    axis for axis in range(len(boxes[0]))
                    if any(axis in tensor_moves(core, local, a) for a in inner_axes(core))
                }  # fmt: skip
                live += banks(math.prod(extents(boxes, [], inside)), bits)
        most = max(most, live)
    return most


def inner_axes(core: Core) -> list[int]:
    return list(range(core.kept[0] + 1, len(core.counts))) if core.kept else []


def tensor_moves(core: Core, local: int, sink_axis: int) -> set[int]:
    """Axes of a layer's output that an axis of the sink moves, by moving its loops one by one."""
    if local == len(core.layers) - 1:
        return {sink_axis}
    found: set[int] = set()
    for reader, layer in enumerate(core.layers):
        for read in layer.reads:
            if read.tensor == core.layers[local].output:
                found |= read_moves(core, read, reader, sink_axis)
    return found


def read_moves(core: Core, read: Read, reader: int, sink_axis: int) -> set[int]:
    axes = tensor_moves(core, reader, sink_axis)
    loops = {name for axis in axes for name, _ in core.layers[reader].out_axes[axis].terms}
    return {
        number
        for access in read.accesses
        for number, axis in enumerate(access)
        if {name for name, _ in axis.terms} & loops
    }


def moved_axes(core: Core, read: Read, reader: int) -> set[int]:
    return {axis for a in inner_axes(core) for axis in read_moves(core, read, reader, a)}


def moved_by(core: Core, read: Read, reader: int, sink_axis: int) -> bool:
    return bool(read_moves(core, read, reader, sink_axis))


def run(group: Group, arch: Arch, mapping: GroupMapping) -> Totals:
    """All cores against the channels."""
    totals = Totals()
    chunk = [num_parts(extent, parts) for extent, parts in zip(group.sink_shape, mapping.cores, strict=True)]
    cores = []
    for index in itertools.product(*map(range, mapping.cores)):
        box = tuple(
            (k * c, min(e, (k + 1) * c)) for k, c, e in zip(index, chunk, group.sink_shape, strict=True)
        )  # fmt: skip
        cores.append(Core(group, arch, mapping, box))
    for core in cores:
        for stage in core.stages:
            time_stage(core, stage, totals)
        charge_reads(core, totals)
        totals.spm_bytes = max(totals.spm_bytes, spm_peak(core))
    processes = [core_process(core, totals) for core in cores]
    waiting: list[tuple[int, int, int, int]] = []
    ends = [0] * len(cores)

    def advance(number: int, grant: int | None) -> None:
        try:
            time, channel, engine = next(processes[number]) if grant is None else processes[number].send(grant)
            heapq.heappush(waiting, (time, number, channel, engine))
        except StopIteration as stop:
            ends[number] = stop.value

    free = [0] * arch.levels.DRAM.channels
    for number in range(len(cores)):
        advance(number, None)
    while waiting:
        time, number, channel, _ = heapq.heappop(waiting)
        first = free.index(min(free))
        grant = max(time, free[first])
        free[first] = grant + channel
        advance(number, grant)
    totals.cycles = max(ends)
    return totals
