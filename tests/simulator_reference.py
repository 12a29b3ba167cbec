"""The simulator's rules, walked literally: every pass, every step, every PE; slow and obvious, integers only."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

from tests.oracle import levels
from tests.oracle.boxes import clipped_box, num_parts, run_bits, run_lengths, spanned_elems, whole_bytes
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Projection, Workload


@dataclass(slots=True)
class Walk:
    """What happened on all cores: cycles of the last core, and counts of everything that moved."""

    cycles: int = 0
    compute_cycles: int = 0
    noc_stall_cycles: int = 0
    dma_stall_cycles: int = 0
    dma_busy_cycles: int = 0
    crossed: Counter[str] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)
    hopped: int = 0
    moved: Counter[str] = field(default_factory=Counter)
    dram_bytes: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    unused_bits: int = 0
    blocks: int = 0
    misses: int = 0


@dataclass(slots=True)
class Pass:
    """One iteration of the DRAM nest: where its tile starts, what moves around it, and what it costs on the array."""

    first: dict[str, int]
    tile: Dims
    loads: set[Operand]
    leaves: bool
    complete: bool
    cycles: int = 0
    compute_cycles: int = 0


class Nest:
    """The static part of a mapping: loops, positions, networks."""

    def __init__(self, workload: Workload, arch: Arch, mapping: Mapping) -> None:
        self.workload, self.arch, self.mapping = workload, arch, mapping
        self.loops = levels.loops(workload, mapping)

    def inside(self, operand: Operand, *, whole_nest: bool) -> list[tuple[str, str]]:
        """Loops strictly inside the load position of an operand."""
        loops = self.loops if whole_nest else [loop for loop in self.loops if loop[0] == "DRAM"]
        return levels.inside(self.workload.projection(operand), loops)

    def double(self, level: str, operand: Operand) -> bool:
        """Whether the operand has two buffers."""
        return levels.is_double(self.mapping, level, operand)


def odometer(order: list[str], counts: dict[str, int]) -> list[dict[str, int]]:
    """Every index vector of a nest, outermost loop slowest."""
    ranges = [range(counts[d]) for d in order]
    return [dict(zip(order, index, strict=True)) for index in itertools.product(*ranges)]


def walk_pass(
    nest: Nest, tile: Dims, dram_index: dict[str, int], dram_count: dict[str, int], walk: Walk
) -> tuple[int, int]:
    """Array cycles and compute cycles of one pass."""
    workload, arch, mapping = nest.workload, nest.arch, nest.mapping
    array = levels.array_tile(mapping)
    count = {d: num_parts(tile[d], array[d]) for d in DIM_NAMES}
    order = [d for d in mapping.spm_order if count[d] > 1]
    steps = odometer(order, count)
    p_red_rows = math.prod(mapping.rows[d] for d in REDUCTION_DIMS)
    p_red_cols = math.prod(mapping.cols[d] for d in REDUCTION_DIMS)
    hops = (p_red_rows - 1) + (p_red_cols - 1)

    def size(step: dict[str, int]) -> Dims:
        return Dims.of([min(array[d], tile[d] - step.get(d, 0) * array[d]) for d in DIM_NAMES])

    def at_first(step: dict[str, int], loops: list[tuple[str, str]]) -> bool:
        return all((dram_index if level == "DRAM" else step).get(d, 0) == 0 for level, d in loops)

    def at_last(step: dict[str, int], loops: list[tuple[str, str]]) -> bool:
        return all(
            dram_index.get(d, 0) == dram_count[d] - 1 if level == "DRAM" else step.get(d, 0) == count[d] - 1
            for level, d in loops
        )

    inside = {operand: nest.inside(operand, whole_nest=True) for operand in Operand}
    sizes = [size(step) for step in steps]
    loads = [{o for o in (Operand.I, Operand.W) if at_first(step, inside[o])} for step in steps]
    reads = [
        at_first(step, inside[Operand.O]) and any(dram_index.get(d, 0) or step.get(d, 0) for d in REDUCTION_DIMS)
        for step in steps
    ]
    leaves = [at_last(step, inside[Operand.O]) for step in steps]

    def elems(operand: Operand, i: int) -> int:
        return spanned_elems(workload.projection(operand).axes, sizes[i])

    port = arch.levels.SPM.bytes_per_cycle
    outputs = [d for d in DIM_NAMES if d not in REDUCTION_DIMS]

    def crossing_cycles(operand: Operand, i: int) -> int:
        cycles = math.ceil(elems(operand, i) / arch.noc.elems_per_cycle)
        if port is None:
            return cycles
        return max(cycles, math.ceil(whole_bytes(elems(operand, i) * workload.projection(operand).elem_bits) / port))

    def loaded(i: int, operands: set[Operand]) -> int:
        """When these are there, one after the other if there is one port for all."""
        return (max if port is None else sum)([crossing_cycles(o, i) for o in operands] or [0])

    def stays(i: int) -> bool:
        """Whether the outputs of a step are those of the next."""
        return all(steps[i].get(d, 0) == steps[i + 1].get(d, 0) for d in outputs)

    def is_another_order(i: int, j: int) -> bool:
        """Whether an output tile is longer than another one way, and shorter another way."""
        return any(sizes[i][d] > sizes[j][d] for d in outputs) and any(sizes[i][d] < sizes[j][d] for d in outputs)

    last, empty = len(steps) - 1, arch.pe.mac_stages - 1
    total = loaded(0, loads[0] | ({Operand.O} if reads[0] else set()))
    compute, double_o = 0, nest.double("RF", Operand.O)
    for i, step_size in enumerate(sizes):
        mac_cycles = math.prod(min(mapping.rf[d], step_size[d]) for d in DIM_NAMES)
        compute += mac_cycles
        following = loads[i + 1] if i < last else set()
        beside = loaded(i + 1, {o for o in following if nest.double("RF", o)}) if following else 0
        behind = loaded(i + 1, {o for o in following if not nest.double("RF", o)}) if following else 0
        ends = [mac_cycles, beside]
        # the sums of the step before leave beside this one, those of the next one come
        left = double_o and i > 0 and leaves[i - 1] and not stays(i - 1)
        comes = i < last and reads[i + 1] and double_o and not stays(i)
        gone = 0
        if left:
            starts = empty if port is None else max(empty, beside)
            gone = starts + crossing_cycles(Operand.O, i - 1) + hops
            ends.append(gone)
        if comes:
            starts = 0 if port is None else beside
            if left:
                starts = gone if port is not None or is_another_order(i - 1, i + 1) else empty
            ends.append(starts + crossing_cycles(Operand.O, i + 1))
        total += max(ends)
        # in the turn
        ends = [behind]
        if i < last and leaves[i] and not (double_o and not stays(i)):
            ends.append((empty if port is None else max(empty, behind)) + crossing_cycles(Operand.O, i) + hops)
            if reads[i + 1]:
                ends.append(ends[-1] + crossing_cycles(Operand.O, i + 1))
        total += max(ends)
    total += empty
    if leaves[last]:
        total += crossing_cycles(Operand.O, last) + hops
    for i, step_size in enumerate(sizes):
        for operand in loads[i]:
            walk.crossed[operand.name] += elems(operand, i)
            walk.delivered[operand.name] += deliveries(workload.projection(operand), mapping.rf, step_size)
        for _ in range(reads[i] + leaves[i]):
            walk.crossed["O"] += elems(Operand.O, i)
            walk.delivered["O"] += elems(Operand.O, i)
        if leaves[i]:
            walk.hopped += elems(Operand.O, i) * (p_red_rows * p_red_cols - 1)
    return total, compute


def deliveries(projection: Projection, rf: Dims, size: Dims) -> int:
    """Elements that arrive in all PEs together: each active PE hears the bounding box of its own piece."""
    active = [num_parts(size[d], rf[d]) for d in DIM_NAMES]
    heard = 0
    for position in itertools.product(*(range(n) for n in active)):
        piece = [min(rf[d], size[d] - p * rf[d]) for p, d in zip(position, DIM_NAMES, strict=True)]
        heard += spanned_elems(projection.axes, Dims.of(piece))
    return heard


def transfer(projection: Projection, first: dict[str, int], tile: Dims, arch: Arch) -> tuple[int, int, int]:
    """(cycles, elements, bits) of moving one tile between DRAM and SPM."""
    extents = tuple(stop - start for start, stop in clipped_box(projection.axes, first, tile))
    runs = run_lengths(extents, tuple(axis.extent for axis in projection.axes))
    if not runs:
        return 0, 0, 0
    bits = sum(run_bits(elems, projection.elem_bits, arch.levels.DRAM.burst_bytes) for elems in runs)
    cycles = math.ceil(len(runs) * arch.burst_startup_cycles + whole_bytes(bits) / arch.dma_bytes_per_cycle)
    return cycles, sum(runs), bits


def core_passes(nest: Nest, start: levels.Point, extent: levels.Point, walk: Walk) -> list[Pass]:
    """All passes of one core, with their array cycles."""
    mapping = nest.mapping
    count = {d: num_parts(extent[d], mapping.spm[d]) for d in DIM_NAMES}
    inside = {operand: [d for _, d in nest.inside(operand, whole_nest=False)] for operand in Operand}
    passes = []
    for index in odometer([d for d in mapping.dram_order if count[d] > 1], count):
        offset = {d: index.get(d, 0) * mapping.spm[d] for d in DIM_NAMES}
        tile = Dims.of([min(mapping.spm[d], extent[d] - offset[d]) for d in DIM_NAMES])
        enters = {o: all(index.get(d, 0) == 0 for d in inside[o]) for o in Operand}
        enters[Operand.O] = enters[Operand.O] and any(index.get(d, 0) for d in REDUCTION_DIMS)
        one = Pass(
            first={d: start[d] + offset[d] for d in DIM_NAMES},
            tile=tile,
            loads={o for o in Operand if enters[o]},
            leaves=all(index.get(d, 0) == count[d] - 1 for d in inside[Operand.O]),
            complete=all(index.get(d, 0) == count[d] - 1 for d in REDUCTION_DIMS),
        )
        one.cycles, one.compute_cycles = walk_pass(nest, tile, index, count, walk)
        passes.append(one)
    return passes


@dataclass(frozen=True, slots=True)
class Request:
    """A transfer that asks for a channel: its cycles without waits for rows, and the addresses of its runs.

    Those of extras come first; ``vector`` cycles begin when they are there.
    """

    t: int
    channel: int
    vector: int
    runs: list[tuple[int, int]]
    extras_channel: int = 0
    extras_runs: tuple[tuple[int, int], ...] = ()


Process = Generator[Request, int, int]
"""Is sent when the engine is done with a request; returns when all is over."""


def core_process(nest: Nest, passes: list[Pass], places: dict[str, int], walk: Walk) -> Process:
    """One core's timeline."""
    workload, arch = nest.workload, nest.arch

    def move(operand: Operand, place: str, p: int, t: int) -> Process:
        projection = workload.projection(operand)
        cycles, elems, bits = transfer(projection, passes[p].first, passes[p].tile, arch)
        walk.moved[operand.name] += elems
        walk.dram_bytes[operand.value] += whole_bytes(bits)
        walk.unused_bits += bits - elems * projection.elem_bits
        runs = addresses(projection, places[place], passes[p].first, passes[p].tile)
        return (yield Request(t, cycles, 0, runs)) if cycles else t

    def load(operand: Operand, p: int, t: int) -> Process:
        return (yield from move(operand, "P" if operand is Operand.O else operand.name, p, t))

    def store(p: int, t: int) -> Process:
        if not passes[p].complete:
            return (yield from move(Operand.O, "P", p, t))
        final = workload.final_projection()
        cycles, elems, bits = transfer(final, passes[p].first, passes[p].tile, arch)
        walk.moved["final"] += elems
        walk.dram_bytes[Operand.O.value] += whole_bytes(bits)
        walk.unused_bits += bits - elems * workload.out_bits
        runs, extras_cycles = [], 0
        for number, extra in enumerate(workload.epilogue.extras):
            more, extra_elems, bits = transfer(extra, passes[p].first, passes[p].tile, arch)
            extras_cycles += more
            walk.moved[f"extra{number}"] += extra_elems
            walk.dram_bytes[3] += whole_bytes(bits)
            walk.unused_bits += bits - extra_elems * extra.elem_bits
            runs += addresses(extra, places[f"E{number}"], passes[p].first, passes[p].tile)
        vector = math.ceil(elems * workload.epilogue.num_ops_per_elem / arch.vector.ops_per_cycle)
        final_runs = addresses(final, places["O"], passes[p].first, passes[p].tile)
        return (yield Request(t, cycles, vector, final_runs, extras_cycles, tuple(runs)))

    doubled = [o for o in Operand if nest.double("SPM", o)]
    single = [o for o in Operand if not nest.double("SPM", o)]
    t = arch.cores.launch_cycles
    for operand in Operand:
        if operand in passes[0].loads:
            t = yield from load(operand, 0, t)
    pending = False
    for p, one in enumerate(passes):
        following = passes[p + 1].loads if p + 1 < len(passes) else set()
        dma = t
        if pending:
            dma = yield from store(p - 1, dma)
        for operand in doubled:
            if operand in following:
                dma = yield from load(operand, p + 1, dma)
        t = max(t + one.cycles, dma)
        pending = one.leaves and Operand.O in doubled
        if one.leaves and not pending:
            t = yield from store(p, t)
        for operand in single:
            if operand in following:
                t = yield from load(operand, p + 1, t)
    if pending:
        t = yield from store(len(passes) - 1, t)
    return t


def tensor_places(workload: Workload, *, spills: bool) -> dict[str, int]:
    """Address of every tensor: one behind the other, each on the next multiple of 64 B."""
    tensors = {"I": workload.I, "W": workload.W, "O": workload.final_projection()}
    tensors |= {"P": workload.O} if spills else {}
    tensors |= {f"E{number}": extra for number, extra in enumerate(workload.epilogue.extras)}
    places, end = {}, 0
    for name, projection in tensors.items():
        places[name] = next(address for address in range(end, end + 64) if address % 64 == 0)
        end = places[name] + whole_bytes(math.prod(axis.extent for axis in projection.axes) * projection.elem_bits)
    return places


def addresses(projection: Projection, place: int, first: dict[str, int], tile: Dims) -> list[tuple[int, int]]:
    """First byte and the one behind the last of every run of a tile, from the bits of all its elements in order."""
    shape = [axis.extent for axis in projection.axes]
    runs: list[list[int]] = []
    for index in itertools.product(*(range(*one) for one in clipped_box(projection.axes, first, tile))):
        at = 0
        for i, extent in zip(index, shape, strict=True):
            at = at * extent + i
        if runs and runs[-1][1] == at * projection.elem_bits:
            runs[-1][1] += projection.elem_bits
        else:
            runs.append([at * projection.elem_bits, (at + 1) * projection.elem_bits])
    return [(place + start // 8, place + whole_bytes(stop)) for start, stop in runs]


def wait_for_rows(arch: Arch, rows: dict[int, int], runs: Iterable[tuple[int, int]], walk: Walk) -> int:
    """Cycles beyond a hit per run, which is part of its start; byte by byte, with the row of each bank in ``rows``."""
    pages = arch.levels.DRAM.pages
    if pages is None:
        return 0
    waited = 0
    for start, stop in runs:
        hit, last = 0, None
        for address in range(start, stop):
            place = divmod(address, pages.interleave_bytes or pages.row_bytes)[0]
            if place == last:
                continue
            last, bank, row = place, place % pages.banks, address // (pages.banks * pages.row_bytes)
            walk.blocks += 1
            if rows.get(bank) != row:
                walk.misses += 1
                waited += pages.miss_cycles - pages.hit_cycles
            rows[bank] = row
            waited += hit
            hit = pages.hit_cycles
    return waited


def simulate(workload: Workload, arch: Arch, mapping: Mapping) -> Walk:
    """Run every core against the shared channels."""
    walk = Walk()
    nest = Nest(workload, arch, mapping)
    cores = [core_passes(nest, *share, walk) for share in levels.shares(workload, mapping)]
    spills = any(one.leaves and not one.complete for passes in cores for one in passes)
    places = tensor_places(workload, spills=spills)
    processes = [core_process(nest, passes, places, walk) for passes in cores]
    waiting: list[tuple[int, int, Request]] = []
    ends = [0] * len(processes)

    def advance(core: int, done: int | None) -> None:
        try:
            request = next(processes[core]) if done is None else processes[core].send(done)
            heapq.heappush(waiting, (request.t, core, request))
        except StopIteration as stop:
            ends[core] = stop.value

    free = [0] * arch.levels.DRAM.channels
    rows: list[dict[int, int]] = [{} for _ in free]
    for core in range(len(processes)):
        advance(core, None)
    while waiting:
        t, core, request = heapq.heappop(waiting)
        channel = free.index(min(free))
        grant = max(t, free[channel])
        extras = request.extras_channel + wait_for_rows(arch, rows[channel], request.extras_runs, walk)
        held = request.channel + wait_for_rows(arch, rows[channel], request.runs, walk)
        engine = extras + max(request.vector, held)
        free[channel] = grant + extras + held
        walk.dma_busy_cycles += engine
        advance(core, grant + engine)
    walk.cycles = max(ends)
    slowest = cores[ends.index(walk.cycles)]
    walk.compute_cycles = sum(one.compute_cycles for one in slowest)
    walk.noc_stall_cycles = sum(one.cycles for one in slowest) - walk.compute_cycles
    walk.dma_stall_cycles = walk.cycles - arch.cores.launch_cycles - sum(one.cycles for one in slowest)
    return walk


def energy_pj(workload: Workload, arch: Arch, walk: Walk) -> dict[str, float]:
    """Energy by part, from the counts."""
    scale = {o.name: workload.projection(o).elem_bits / arch.word_bits for o in Operand}
    final_scale = workload.out_bits / arch.word_bits
    levels, noc = arch.levels, arch.noc
    rf = workload.macs * levels.RF.access_pj * (scale["I"] + scale["W"] + 2 * scale["O"])
    rf += sum(walk.delivered[x] * levels.RF.fill_pj * scale[x] for x in scale)
    wires = sum((walk.crossed[x] * noc.elem_pj + walk.delivered[x] * noc.delivery_pj) * scale[x] for x in scale)
    wires += walk.hopped * noc.reduction_hop_pj * scale["O"]
    spm = sum((walk.crossed[x] + walk.moved[x]) * scale[x] for x in scale) + walk.moved["final"] * scale["O"]
    dram = sum(walk.moved[x] * scale[x] for x in scale) + walk.moved["final"] * final_scale
    dram += walk.unused_bits / arch.word_bits
    for number, extra in enumerate(workload.epilogue.extras):
        dram += walk.moved[f"extra{number}"] * extra.elem_bits / arch.word_bits
    return {
        "mac_pj": workload.macs * arch.mac.op_pj,
        "rf_pj": rf,
        "noc_pj": wires,
        "spm_pj": spm * levels.SPM.access_pj,
        "dram_pj": dram * levels.DRAM.access_pj,
        "vector_pj": workload.O.tensor_elems() * workload.epilogue.num_ops_per_elem * arch.vector.op_pj,
    }
