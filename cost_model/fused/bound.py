"""At least what mappings of a group cost: products of what ways to cut single axes need, see ``profile``.

A core is told by its part along each axis; parts that do the same are one *class*. ``bound_rows`` goes over the classes
of core of each mapping. What the array takes for the stages of a layer is known once its channels are decided, see
``stage_costs``; before that, each operand crosses its network once per stage and every PE does one MAC a cycle.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.capacity import peak_bytes
from cost_model.fused.flat import EXTRA, INPUT, IS_MAC, K_LOOP, LAYER, PRODUCER, RANK, ROLE, WEIGHT, FlatGroup, Ints
from cost_model.fused.profile import Profile
from cost_model.fused.state import NUM_TRANSFERS, Walk
from tvm_spm.jit import entry, lean

Floats = NDArray[np.float64]

NO_K, PLAIN_K, OTHER_K = range(3)
"""How an axis of a read moves with the output channels of its layer."""


class Rates(NamedTuple):
    """What at least each element costs; see ``tvm_spm.fusion.bounds`` for where they come from.

    Attributes:
        compute: ``(layers,)`` cycles of PEs per element of the output.
        vector: ``(layers,)`` cycles of the vector unit per element of the output.
        network: ``(reads + layers,)`` cycles per element used or written, on the network of its own.
        port: Likewise, of the scratchpad's port, which all networks of a layer share.
        transfer: ``(reads + layers,)`` cycles per element moved; 0 for outputs that do not leave.
        store: Cycles per element that leaves the sink, while the vector unit works beside it.
        startup: Cycles per transfer.
        energy: Prices per entry of ``many.Survey.totals``, without the array.
        array: ``(reads + layers,)`` pJ of the array per element used or written.
        channels: Of DRAM.
        bank_bytes: Of the scratchpad.
    """

    compute: Floats
    vector: Floats
    network: Floats
    port: Floats
    transfer: Floats
    store: float
    startup: float
    energy: Floats
    array: Floats
    channels: int
    bank_bytes: int


class Cuts(NamedTuple):
    """Ways to cut one axis of the sink: their classes of parts, numbers relative to the group in one tile.

    Attributes:
        first: First class of every way to cut; and how many there are. The one with most to do comes first.
        times: Parts of the class.
        part: Of one of them, a row per class.
        head: ``(classes, reads)`` elements of the first tile.
        last: ``(classes,)`` extent of the last tile.
        largest: ``(classes,)`` extent of the largest tile.
        kept: Per way to cut, 1 where overlap stays.
        cut: 1 if there is more than one tile or part.
        parts: Cores along the axis.
        exact: 1 where boxes are products over axes; else a single class stands for the mean of all parts.
    """

    first: Ints
    times: Floats
    part: Profile
    head: Floats
    last: Floats
    largest: Floats
    kept: Ints
    cut: Ints
    parts: Ints
    exact: Ints


class Knowledge(NamedTuple):
    """What bounds need of a group beside its arrays.

    Attributes:
        whole: One row: the group in one tile.
        moves: ``(slots, 2)`` bits of the sink's axes that move boxes: cut exactly, see ``Cuts.exact``, and anyhow.
        moves_k: ``(layers, 2)``, likewise, of output channels; -1 if no tile needs all of them.
        k_axis: ``(reads, axes)``, see ``NO_K``.
        sink_k_axis: Of the sink's output, the axis of its channels; -1 if it is not simply that loop.
    """

    whole: Profile
    moves: Ints
    moves_k: Ints
    k_axis: Ints
    sink_k_axis: int


class StageTable(NamedTuple):
    """What the stages of layers take on the array, by *key*; see ``stage_costs``.

    Attributes:
        key: ``(rows, layers)``; -1 for layers whose channels are not decided, and for vector work.
        first: Per key, its first row of ``cycles``; one row per class of core, the last axis fastest.
        cycles: ``(classes of cores, mappers)``.
        energy: ``(keys, mappers)`` pJ of all cores.
    """

    key: Ints
    first: Ints
    cycles: Floats
    energy: Floats


class ClassSums(NamedTuple):
    """Scratch: what a core of one class does, and sums over all classes.

    Attributes:
        cls: Its class per axis.
        again: Per layer, how often its inputs cross for all channels.
        written: ``(layers,)`` elements.
        loads: ``(reads,)`` elements.
        used: ``(reads,)`` elements.
        transfers: ``(reads,)``.
        busy: ``(layers,)`` cycles of the array where nothing is known.
        sums: See ``HEAD`` and the following.
    """

    cls: Ints
    again: Floats
    written: Floats
    loads: Floats
    used: Floats
    transfers: Floats
    busy: Floats
    sums: Floats


HEAD, TAIL, TAIL_CHANNEL, LOADS, STORES, STORES_CHANNEL, SERIAL, VECTOR, PJ, ARRAY_PJ, SUMS = range(11)
"""Cycles of the loads before the first stage, of the store after the last and of its channel, of all loads and stores,
of transfers between which nothing runs if there is one buffer, of the vector unit; pJ without the array, and of it."""


def empty_core(flat: FlatGroup) -> ClassSums:
    """To fill."""
    layers, reads = flat.num_layers, len(flat.read)
    return ClassSums(
        np.zeros(flat.shape.shape[1], np.int64), np.ones(layers), np.zeros(layers), np.zeros(reads), np.zeros(reads),
        np.zeros(reads), np.zeros(layers), np.zeros(SUMS),
    )  # fmt: skip


@entry
def bound_rows(
    flat: FlatGroup, know: Knowledge, cuts: Cuts, rates: Rates, choices: tuple[Ints, Ints, Ints], known: StageTable,
    scratch: tuple[ClassSums, Walk], found: Floats,
) -> None:  # fmt: skip
    """Set what every row costs at least.

    Args:
        flat: The group.
        know: About it.
        cuts: Along all axes.
        rates: See there.
        choices: ``(rows, axes)`` ways of ``cuts``; ``(rows, layers)`` least channels at a time; and, likewise, in at
            least how many chunks a tile's channels are computed.
        known: About the layers whose channels are decided.
        scratch: Written on.
        found: ``(rows, 3 * mappers + 2)``: per mapper cycles with one buffer, then with two, then pJ; then bytes with
            one buffer and with two.
    """
    (cut_of, k_tile, chunks), (core, walk) = choices, scratch
    num_layers, num_mappers, rank = len(flat.layer), known.energy.shape[1], flat.layer[-1, RANK]
    longest, begun, ended = np.zeros((2, num_mappers)), np.zeros(num_mappers), np.zeros(num_mappers)
    rounds = np.full(flat.shape.shape[1], 2, np.int64)
    for row in range(len(cut_of)):
        cut, cores, places, is_exact = cut_of[row], 1.0, 1, _is_exact(cuts, cut_of[row])
        for way in cut[:rank]:
            cores *= cuts.parts[way]
            places *= cuts.first[way + 1] - cuts.first[way]
        for layer in range(num_layers):
            is_whole = chunks[row, layer] > 1 and _is_whole(know, cuts, cut, layer)
            core.again[layer] = chunks[row, layer] if is_whole else 1.0
        longest[:], begun[:], ended[:] = 0.0, np.inf, np.inf
        head, tail, channel, energy_pj = np.inf, np.inf, 0.0, 0.0
        for place in range(places):
            left, times = place, 1.0
            for axis in range(rank - 1, -1, -1):
                num = cuts.first[cut[axis] + 1] - cuts.first[cut[axis]]
                core.cls[axis] = cuts.first[cut[axis]] + left % num
                left //= num
                times *= cuts.times[core.cls[axis]]
            _fill_core(flat, know, cuts, rates, (cut, k_tile[row], chunks[row], known.key[row]), core)
            sums = core.sums
            if place == 0:
                _combine(flat, know, cuts, (core.cls, k_tile[row], core.written), core.transfers, walk)
            channel += times * (sums[LOADS] + sums[STORES_CHANNEL])
            energy_pj += times * (sums[PJ] + sums[ARRAY_PJ])
            head, tail = min(head, sums[HEAD]), min(tail, sums[TAIL_CHANNEL])
            for m in range(num_mappers):
                compute = sums[VECTOR]
                for layer in range(num_layers):
                    key = known.key[row, layer]
                    compute += known.cycles[known.first[key] + place, m] if key >= 0 else core.busy[layer]
                double = max(sums[HEAD] + compute + sums[TAIL], sums[LOADS] + sums[STORES])
                longest[0, m] = max(longest[0, m], double, compute + sums[SERIAL])
                longest[1, m] = max(longest[1, m], double)
                begun[m], ended[m] = min(begun[m], compute + sums[TAIL]), min(ended[m], sums[HEAD] + compute)
        share = cores / rates.channels
        for m in range(num_mappers):
            least = channel / rates.channels
            if is_exact:
                # the last core to load waits for the loads of all others, and so for their stores
                least = max(least, share * head + begun[m], ended[m] + share * tail)
            found[row, m], found[row, num_mappers + m] = max(longest[0, m], least), max(longest[1, m], least)
            found[row, 2 * num_mappers + m] = energy_pj
            for layer in range(num_layers):
                if known.key[row, layer] >= 0:
                    found[row, 2 * num_mappers + m] += known.energy[known.key[row, layer], m]
        outermost = -1
        for axis in range(rank - 1, -1, -1):
            outermost = axis if cuts.kept[cut[axis]] == 1 else outermost
        for is_double in range(2):
            last = 3 * num_mappers + is_double
            found[row, last] = peak_bytes(flat, walk, outermost, is_double, rounds, rates.bank_bytes)


@lean
def _fill_core(
    flat: FlatGroup, know: Knowledge, cuts: Cuts, rates: Rates, at: tuple[Ints, Ints, Ints, Ints], core: ClassSums
) -> None:
    """Set what a core of the classes ``core.cls`` does at least."""
    cut, k_tile, chunks, key = at
    num_layers, num_reads, sink, sums = len(flat.layer), len(flat.read), len(flat.layer) - 1, core.sums
    sums[:] = 0.0
    last, largest, tiles = know.whole.written[0, sink], know.whole.written[0, sink], 1.0
    for axis in range(flat.layer[sink, RANK]):
        last *= cuts.last[core.cls[axis]]
        largest *= cuts.largest[core.cls[axis]]
        tiles *= cuts.part.stages[core.cls[axis], sink]
    for layer in range(num_layers):
        core.written[layer] = know.whole.written[0, layer]
        for axis in range(flat.layer[sink, RANK]):
            core.written[layer] *= cuts.part.written[core.cls[axis], layer]
        sums[VECTOR] += core.written[layer] * rates.vector[layer]
        sums[PJ] += core.written[layer] * rates.energy[layer]
    first_loads = 0.0
    for read in range(num_reads):
        layer = flat.read[read, LAYER]
        chunked, is_weight = core.again[layer] > 1, flat.read[read, ROLE] == WEIGHT
        _add_loads(flat, know, cuts, (cut, read, chunked and is_weight), core)
        kind = NO_K
        for one in know.k_axis[read]:
            kind = max(kind, one)
        if chunked and kind > NO_K:
            core.transfers[read] = max(2.0, core.transfers[read])
        if flat.read[read, ROLE] == INPUT:
            core.used[read] *= core.again[layer]
        sums[PJ] += core.loads[read] * rates.energy[num_layers + read]
        sums[PJ] += core.used[read] * rates.energy[num_layers + num_reads + read]
        if flat.read[read, PRODUCER] >= 0:
            continue
        cycles = core.loads[read] * rates.transfer[read]
        sums[LOADS] += cycles
        if core.loads[read] > 0:
            sums[LOADS] += core.transfers[read] * rates.startup
        if layer == sink and flat.layer[sink, IS_MAC] == 1 and flat.read[read, ROLE] == EXTRA:
            continue
        channels = flat.loops[layer, K_LOOP] if flat.layer[layer, IS_MAC] == 1 else 1
        if layer == 0 and kind != OTHER_K:
            head = know.whole.moved[0, read]
            for axis in range(flat.layer[sink, RANK]):
                head *= cuts.head[core.cls[axis], read]
            if kind != NO_K:
                head *= min(1.0, k_tile[layer] / channels)
            sums[HEAD] += head * rates.transfer[read]
            # what the first layer loads for a tile waits until the tile before it has left, or its buffer is free
            sums[SERIAL] += cycles
            if not is_weight:
                first_loads = max(first_loads, core.transfers[read])
        elif layer > 0 and chunked and is_weight and kind == PLAIN_K:
            sums[SERIAL] += cycles * (1.0 - -(-channels // chunks[layer]) / channels)
    for layer in range(num_layers):
        if key[layer] < 0:
            _add_array(flat, rates, layer, core)
    stores = core.written[sink] * rates.store
    sums[STORES], sums[STORES_CHANNEL] = stores, 0.0
    for layer in range(num_layers):
        cycles = core.written[layer] * rates.transfer[num_reads + layer]
        sums[STORES_CHANNEL] += cycles
        sums[STORES] += 0.0 if layer == sink else cycles
    if flat.layer[sink, IS_MAC] == 1:
        channels = flat.loops[sink, K_LOOP]
        if key[sink] >= 0 and (core.again[sink] > 1 or chunks[sink] == 1):
            last *= (channels - (chunks[sink] - 1) * k_tile[sink]) / channels
        elif k_tile[sink] < channels:
            last /= channels
    sums[TAIL], sums[TAIL_CHANNEL] = last * rates.store, last * rates.transfer[num_reads + sink]
    serial_stores = sums[TAIL]
    if _is_exact(cuts, cut):
        # a tile leaves before the next one loads; of those that load nothing the next one may begin at once
        left_out = max(0.0, tiles - max(1.0, first_loads))
        serial_stores = max(serial_stores, stores - left_out * largest * rates.store)
    sums[SERIAL] += serial_stores


@lean
def _add_array(flat: FlatGroup, rates: Rates, layer: int, core: ClassSums) -> None:
    """Set what the array takes at least for a layer about which nothing is known."""
    num_reads, written = len(flat.read), core.written[layer]
    network, port = written * rates.network[num_reads + layer], written * rates.port[num_reads + layer]
    core.sums[ARRAY_PJ] += written * rates.array[num_reads + layer]
    for read in range(num_reads):
        if flat.read[read, LAYER] == layer:
            network = max(network, core.used[read] * rates.network[read])
            port += core.used[read] * rates.port[read]
            core.sums[ARRAY_PJ] += core.used[read] * rates.array[read]
    core.busy[layer] = max(written * rates.compute[layer], network, port)


@lean
def _is_exact(cuts: Cuts, cut: Ints) -> bool:
    """Whether boxes are products over axes."""
    for way in cut:
        if cuts.exact[way] == 0:
            return False
    return True


@lean
def _is_whole(know: Knowledge, cuts: Cuts, cut: Ints, layer: int) -> bool:
    """Whether every tile computes all channels of a layer."""
    if know.moves_k[layer, 0] < 0:
        return False
    for axis in range(len(cut)):
        if know.moves_k[layer, 1 - cuts.exact[cut[axis]]] >> axis & 1 and cuts.cut[cut[axis]] == 1:
            return False
    return True


@lean
def _add_loads(flat: FlatGroup, know: Knowledge, cuts: Cuts, at: tuple[Ints, int, bool], core: ClassSums) -> None:
    """Set what a read moves and uses on a core, and in how many transfers.

    What does not move along an axis is loaded again along it if it moves along an axis inside, or its channels do; but
    not where it stays.
    """
    cut, read, is_streamed = at
    slot, layer = len(flat.layer) + read, flat.read[read, LAYER]
    loads, used = know.whole.moved[0, read], know.whole.used[0, read]
    is_inside, transfers = is_streamed, 1.0
    for axis in range(len(cut) - 1, -1, -1):
        cls = core.cls[axis]
        moved, times = cuts.part.moved[cls, read], cuts.part.transfers[cls, read]
        if know.moves[slot, 1 - cuts.exact[cut[axis]]] >> axis & 1:
            is_inside = is_inside or times > 1
        elif (is_streamed or cuts.kept[cut[axis]] == 0) and flat.read[read, PRODUCER] < 0 and is_inside:
            moved = max(moved, cuts.part.stages[cls, layer])
            times = max(times, cuts.part.stages[cls, layer])
        loads *= moved
        used *= cuts.part.used[cls, read]
        transfers *= max(1.0, times)
    core.loads[read], core.used[read], core.transfers[read] = loads, used, transfers


@lean
def _combine(
    flat: FlatGroup, know: Knowledge, cuts: Cuts, at: tuple[Ints, Ints, Floats], transfers: Floats, walk: Walk
) -> None:
    """Fill what ``peak_bytes`` looks at."""
    cls, k_tile, written = at
    num_layers, sink = len(flat.layer), len(flat.layer) - 1
    for slot in range(len(flat.shape)):
        for axis in range(flat.shape.shape[1]):
            extent, span = know.whole.extents[0, slot, axis], know.whole.spans[0, slot, axis]
            fresh = know.whole.fresh[0, slot, axis]
            for place in range(flat.layer[sink, RANK]):
                extent = min(extent, cuts.part.extents[cls[place], slot, axis])
                span = min(span, cuts.part.spans[cls[place], slot, axis])
                fresh = min(fresh, cuts.part.fresh[cls[place], slot, axis])
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
