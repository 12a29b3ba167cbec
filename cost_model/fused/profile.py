"""At least what mappings of a group cost, from tiles along one axis of the sink at a time.

Along every axis of the sink, boxes of all tensors follow from the tile's place on that axis alone, if no two axes of
the sink move the same axis of a tensor. What a tile needs is then a product over axes, and so are sums over all tiles:
walks that cut one axis and leave the others whole give the sums of every combination. ``bound_rows`` multiplies them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.capacity import peak_bytes
from cost_model.fused.flat import EXTRA, INPUT, IS_MAC, LAYER, PRODUCER, RANK, ROLE, WEIGHT, FlatGroup, Ints
from cost_model.fused.probe import ALL_CHUNKS, clear_walk
from cost_model.fused.state import (
    MOVED_ELEMS,
    NUM_STAGES,
    NUM_TRANSFERS,
    STAGE_LAYER,
    USED_ELEMS,
    CorePart,
    Machine,
    Walk,
    WalkRoom,
)
from cost_model.fused.walk import walk_core
from tvm_spm.jit import entry, lean

Floats = NDArray[np.float64]

NO_K, PLAIN_K, OTHER_K = range(3)
"""How an axis of a read moves with the output channels of its layer."""


class Profile(NamedTuple):
    """Sums over the tiles of one core, one row per way to cut; or relative to the group in one tile.

    Attributes:
        written: ``(rows, layers)`` elements.
        stages: ``(rows, layers)`` tiles in which the layer has work.
        moved: ``(rows, reads)`` elements.
        used: ``(rows, reads)`` elements.
        transfers: ``(rows, reads)``.
        extents: ``(rows, slots, axes)`` as ``state.Walk``.
        spans: ``(rows, slots, axes)``, lengths.
        fresh: ``(rows, slots, axes)``, ``Walk.moved``.
    """

    written: Floats
    stages: Floats
    moved: Floats
    used: Floats
    transfers: Floats
    extents: Ints
    spans: Ints
    fresh: Ints


def empty_profile(flat: FlatGroup, num_rows: int) -> Profile:
    """To fill."""
    layers, reads, slots = (num_rows, flat.num_layers), (num_rows, len(flat.read)), (num_rows, *flat.shape.shape)
    return Profile(
        np.zeros(layers), np.zeros(layers), np.zeros(reads), np.zeros(reads), np.zeros(reads),
        np.zeros(slots, np.int64), np.zeros(slots, np.int64), np.zeros(slots, np.int64),
    )  # fmt: skip


@entry
def profile_parts(
    flat: FlatGroup, machine: Machine, parts: CorePart, walk: Walk, room: WalkRoom, found: Profile
) -> None:
    """Walk part by part; every layer computes all of its channels at a time.

    Args:
        flat: The group.
        machine: The accelerator.
        parts: One row each.
        walk: Tables, large enough for each.
        room: Scratch.
        found: Filled.
    """
    for row in range(len(parts.tile)):
        clear_walk(walk)
        part = CorePart(
            parts.chunk[row], parts.tile[row], parts.kept[row], parts.k_tile[row], parts.double[row : row + 1]
        )
        walk_core(flat, machine, part, ALL_CHUNKS, walk, room)
        for layer in range(len(flat.layer)):
            found.written[row, layer] = walk.written[layer]
        for stage in range(walk.counters[NUM_STAGES]):
            found.stages[row, walk.stages[stage, STAGE_LAYER]] += 1.0
        for read in range(len(flat.read)):
            found.moved[row, read] = walk.reads[read, MOVED_ELEMS]
            found.used[row, read] = walk.reads[read, USED_ELEMS]
            found.transfers[row, read] = walk.reads[read, NUM_TRANSFERS]
        for slot in range(len(flat.shape)):
            for axis in range(flat.shape.shape[1]):
                found.extents[row, slot, axis] = walk.extents[slot, axis]
                found.spans[row, slot, axis] = max(0, walk.spans[slot, axis, 1] - walk.spans[slot, axis, 0])
                found.fresh[row, slot, axis] = walk.moved[slot, axis]


class Rates(NamedTuple):
    """What at least each element costs; see ``tvm_spm.fusion.bounds`` for where they come from.

    Attributes:
        compute: ``(layers,)`` cycles of PEs per element of the output.
        vector: ``(layers,)`` cycles of the vector unit per element of the output.
        network: ``(reads + layers,)`` cycles per element used or written, on the network of its own.
        port: Likewise, of the scratchpad's port, which all networks of a layer share.
        transfer: ``(reads + 1,)`` cycles per element moved, the last per element stored.
        startup: Cycles per transfer.
        energy: Prices per entry of ``many.Survey.totals``, with those of the array.
        channels: Of DRAM.
    """

    compute: Floats
    vector: Floats
    network: Floats
    port: Floats
    transfer: Floats
    startup: float
    energy: Floats
    channels: int


class Cuts(NamedTuple):
    """Ways to cut one axis of the sink, over all of its parts and for the part with most to do; relative numbers.

    Attributes:
        total: Sums over the parts, but of ``transfers`` the least; only counts are looked at.
        most: Of one part.
        kept: 1 where overlap stays.
        cut: 1 if there is more than one tile or part.
        parts: Cores along the axis.
    """

    total: Profile
    most: Profile
    kept: Ints
    cut: Ints
    parts: Ints


class Knowledge(NamedTuple):
    """What bounds need of a group beside its arrays.

    Attributes:
        whole: One row: the group in one tile.
        moves_k: Per layer, bits of the sink's axes that move its output channels; -1 if no tile needs all of them.
        k_axis: ``(reads, axes)``, see ``NO_K``.
        sink_k_axis: Of the sink's output, the axis of its channels; -1 if it is not simply that loop.
    """

    whole: Profile
    moves_k: Ints
    k_axis: Ints
    sink_k_axis: int


@entry
def bound_rows(
    flat: FlatGroup, know: Knowledge, cuts: Cuts, rates: Rates, choices: tuple[Ints, Ints, Ints], walk: Walk,
    bank_bytes: int, found: Floats,
) -> None:  # fmt: skip
    """Set what every row costs at least.

    Args:
        flat: The group.
        know: About it.
        cuts: Along all axes.
        rates: See there.
        choices: ``(rows, axes)`` rows of ``cuts``; ``(rows, layers)`` least channels at a time; and, likewise, in at
            least how many chunks a tile's channels are computed.
        walk: Scratch.
        bank_bytes: Of the scratchpad.
        found: ``(rows, 4)``: cycles, pJ, bytes with one buffer and with two.
    """
    cut_of, k_tile, chunks = choices
    num_layers, num_reads, sink = len(flat.layer), len(flat.read), len(flat.layer) - 1
    rank = flat.layer[sink, RANK]
    written, loads = np.zeros((2, num_layers)), np.zeros((2, num_reads))
    used, transfers, dma, compute = np.zeros((2, num_reads)), np.zeros(num_reads), np.zeros(2), np.zeros(2)
    again = np.ones(num_layers)
    networks, ports = np.zeros((2, num_layers)), np.zeros((2, num_layers))
    rounds = np.full(flat.shape.shape[1], 2, np.int64)
    for row in range(len(cut_of)):
        cut, cores = cut_of[row], 1.0
        for axis in range(rank):
            cores *= cuts.parts[cut[axis]]
        for layer in range(num_layers):
            again[layer] = 1.0
            if chunks[row, layer] > 1 and _is_whole(know, cuts, cut, layer):
                again[layer] = chunks[row, layer]
            written[0, layer], written[1, layer] = know.whole.written[0, layer], know.whole.written[0, layer]
            for axis in range(rank):
                written[0, layer] *= cuts.total.written[cut[axis], layer]
                written[1, layer] *= cuts.most.written[cut[axis], layer]
        for read in range(num_reads):
            chunked = again[flat.read[read, LAYER]] > 1
            is_streamed = chunked and flat.read[read, ROLE] == WEIGHT
            transfers[read] = _add_loads(flat, know, cuts, (cut, read, is_streamed), (loads, used))
            if chunked and know.k_axis[read].max() > NO_K:
                transfers[read] = max(2.0, transfers[read])
            if flat.read[read, ROLE] == INPUT:
                used[0, read] *= again[flat.read[read, LAYER]]
                used[1, read] *= again[flat.read[read, LAYER]]
        energy_pj = 0.0
        dma[:], compute[:], networks[:], ports[:] = 0.0, 0.0, 0.0, 0.0
        for side in range(2):
            for read in range(num_reads):
                layer = flat.read[read, LAYER]
                networks[side, layer] = max(networks[side, layer], used[side, read] * rates.network[read])
                ports[side, layer] += used[side, read] * rates.port[read]
                dma[side] += loads[side, read] * rates.transfer[read]
            dma[side] += written[side, sink] * rates.transfer[num_reads]
            for layer in range(num_layers):
                busy = max(written[side, layer] * rates.compute[layer], networks[side, layer])
                busy = max(busy, written[side, layer] * rates.network[num_reads + layer])
                busy = max(busy, ports[side, layer] + written[side, layer] * rates.port[num_reads + layer])
                compute[side] += busy + written[side, layer] * rates.vector[layer]
        for layer in range(num_layers):
            energy_pj += written[0, layer] * rates.energy[layer]
        for read in range(num_reads):
            energy_pj += loads[0, read] * rates.energy[num_layers + read]
            energy_pj += used[0, read] * rates.energy[num_layers + num_reads + read]
            if flat.read[read, PRODUCER] < 0 and loads[1, read] > 0:
                dma[1] += transfers[read] * rates.startup
        energy_pj += written[0, sink] * rates.energy[num_layers + 2 * num_reads]
        found[row, 0] = max(compute[1], dma[1], compute[0] / cores, dma[0] / rates.channels, dma[0] / cores)
        found[row, 1] = energy_pj
        outermost = -1
        for axis in range(rank - 1, -1, -1):
            outermost = axis if cuts.kept[cut[axis]] == 1 else outermost
        _combine(flat, know, cuts, (cut, k_tile[row], written[1]), transfers, walk)
        for is_double in range(2):
            found[row, 2 + is_double] = peak_bytes(flat, walk, outermost, is_double, rounds, bank_bytes)


@lean
def _is_whole(know: Knowledge, cuts: Cuts, cut: Ints, layer: int) -> bool:
    """Whether every tile computes all channels of a layer."""
    if know.moves_k[layer] < 0:
        return False
    for axis in range(len(cut)):
        if know.moves_k[layer] >> axis & 1 and cuts.cut[cut[axis]] == 1:
            return False
    return True


@lean
def _add_loads(
    flat: FlatGroup, know: Knowledge, cuts: Cuts, at: tuple[Ints, int, bool], into: tuple[Floats, Floats]
) -> float:
    """Set what a read moves and uses, over all cores and on one; returns transfers on that one.

    What does not move along an axis is loaded again along it if it moves along an axis inside, or its channels do; but
    not where it stays.
    """
    cut, read, is_streamed = at
    loads, used = into
    slot, layer = len(flat.layer) + read, flat.read[read, LAYER]
    for side in range(2):
        loads[side, read], used[side, read] = know.whole.moved[0, read], know.whole.used[0, read]
    all_inside, is_inside, moves, transfers = is_streamed, is_streamed, 0, 1.0
    for axis in range(flat.shape.shape[1]):
        moves |= flat.moves[slot, axis]
    for axis in range(len(cut) - 1, -1, -1):
        at_total, at_most = cuts.total.moved[cut[axis], read], cuts.most.moved[cut[axis], read]
        times = cuts.most.transfers[cut[axis], read]
        if moves >> axis & 1:
            all_inside = all_inside or cuts.total.transfers[cut[axis], read] > 1
            is_inside = is_inside or times > 1
        elif (is_streamed or cuts.kept[cut[axis]] == 0) and flat.read[read, PRODUCER] < 0:
            if all_inside:
                at_total = max(at_total, cuts.total.stages[cut[axis], layer])
            if is_inside:
                at_most = max(at_most, cuts.most.stages[cut[axis], layer])
                times = max(times, cuts.most.stages[cut[axis], layer])
        loads[0, read] *= at_total
        loads[1, read] *= at_most
        used[0, read] *= cuts.total.used[cut[axis], read]
        used[1, read] *= cuts.most.used[cut[axis], read]
        transfers *= max(1.0, times)
    return transfers


@lean
def _combine(
    flat: FlatGroup, know: Knowledge, cuts: Cuts, at: tuple[Ints, Ints, Floats], transfers: Floats, walk: Walk
) -> None:
    """Fill what ``peak_bytes`` looks at."""
    cut, k_tile, written = at
    num_layers, sink = len(flat.layer), len(flat.layer) - 1
    for slot in range(len(flat.shape)):
        for axis in range(flat.shape.shape[1]):
            extent, span = know.whole.extents[0, slot, axis], know.whole.spans[0, slot, axis]
            fresh = know.whole.fresh[0, slot, axis]
            for place in range(len(cut)):
                extent = min(extent, cuts.most.extents[cut[place], slot, axis])
                span = min(span, cuts.most.spans[cut[place], slot, axis])
                fresh = min(fresh, cuts.most.fresh[cut[place], slot, axis])
            if slot >= num_layers and know.k_axis[slot - num_layers, axis] != NO_K:
                most = k_tile[flat.read[slot - num_layers, LAYER]]
                if know.k_axis[slot - num_layers, axis] == OTHER_K and extent > most:
                    most = 1
                extent, span, fresh = min(extent, most), min(span, most), min(fresh, most)
            if slot == sink and flat.layer[sink, IS_MAC] == 1:
                fresh = min(fresh, k_tile[sink]) if axis == know.sink_k_axis else fresh
                fresh = min(fresh, 1) if know.sink_k_axis < 0 else fresh
            walk.extents[slot, axis], walk.moved[slot, axis] = extent, fresh
            walk.spans[slot, axis, 0], walk.spans[slot, axis, 1] = 0, span
    for layer in range(num_layers):
        walk.written[layer] = 1 if written[layer] > 0 else 0
    for read in range(len(flat.read)):
        is_streamed = flat.read[read, LAYER] == sink and flat.read[read, ROLE] == EXTRA
        loads = 0 if know.whole.transfers[0, read] == 0 and not is_streamed else int(transfers[read])
        walk.reads[read, NUM_TRANSFERS] = loads
