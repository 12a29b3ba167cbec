"""At least what mappings of a group cost and hold, thousands at a time: see ``cost_model.fused.profile``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.bound import (
    NO_K,
    OTHER_K,
    PLAIN_K,
    Cuts,
    Knowledge,
    Rates,
    bound_rows,
    empty_core,
)
from cost_model.fused.energy import CROSS_PJ, DELIVER_PJ, MAC_PJ, pass_prices
from cost_model.fused.flat import (
    BITS,
    FIRST_ACCESS,
    INPUT,
    IS_MAC,
    K_LOOP,
    LAYER,
    LEAVES,
    NUM_OPS,
    NUM_TERMS,
    OFFSET,
    OUT_BITS,
    PRODUCER,
    RANK,
    READ_RANK,
    ROLE,
    STOP_ACCESS,
    TERMS,
    WEIGHT,
    FlatGroup,
    Ints,
    moves_of_outer_loops,
)
from cost_model.fused.inner_mapper import InnerMapper
from cost_model.fused.pricing import tensor_prices
from cost_model.fused.profile import PART, SHAPES, Profile, empty_profile, profile_parts
from cost_model.fused.stage_costs import StageCosts
from cost_model.fused.state import SHAPE_FIELDS, CorePart, empty_room, empty_walk, machine_of
from tvm_spm.arch import Arch
from tvm_spm.group import Group
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, Operand

Floats = NDArray[np.float64]

SLACK = 1e-9
"""Of sums of floats; bounds are lowered by so much of themselves."""

Cut = tuple[int, int, int, int]
"""Axis of the sink, parts over cores, tile, 1 if overlap stays."""

Box = tuple[tuple[int, int, int, int], ...]
"""Per axis of a part: first index, stop, tile, and 1 if overlap stays."""


class Found(NamedTuple):
    """At least, per row.

    Attributes:
        cycles: ``(rows, 2, mappers)`` with one buffer, and with two.
        energy_pj: ``(rows, mappers)``.
        num_bytes: ``(rows, 2)``.
    """

    cycles: Floats
    energy_pj: Floats
    num_bytes: Floats

    def take(self, rows: Ints | NDArray[np.bool_]) -> Found:
        """Some of them."""
        return Found._make(column[rows] for column in self)


class Bounds:
    """Bounds of one group on one accelerator.

    Args:
        group: The group.
        flat: Its arrays.
        arch: The accelerator.
        cuts: All ways to cut an axis that will be asked for.
        mappers: Of stages.
    """

    def __init__(
        self, group: Group, flat: FlatGroup, arch: Arch, cuts: Iterable[Cut], mappers: Sequence[InnerMapper]
    ) -> None:  # fmt: skip
        self._flat, self._arch, self._shape = flat, arch, group.sink_shape
        self._machine = machine_of(arch)
        self._blurred, moves, self._can_be_exact = _blurred(flat)
        self.row_of = {cut: row for row, cut in enumerate(dict.fromkeys(cuts))}
        whole, _ = self._profile([tuple((0, extent, extent, 0) for extent in self._shape)])
        two = moves, flat.moves
        self._know = Knowledge(
            whole, np.stack([np.bitwise_or.reduce(one, axis=1) for one in two], axis=1),
            np.stack([_moves_k(flat, one, whole) for one in two], axis=1), _k_axes(flat), _sink_k_axis(flat),
        )  # fmt: skip
        self._cuts, part, shapes = self._cuts_of(list(self.row_of))
        self._rates = _rates(group, flat, arch)
        self._scratch = empty_core(flat), empty_walk(flat, 1, 1)
        self._stages = StageCosts(group, flat._replace(moves=moves), mappers, self._cuts, part, shapes)

    @property
    def num_keys(self) -> int:
        """Costs of stages that were worked out."""
        return self._stages.num_keys

    def decide(self, layer: int, cut: Ints, k_tile: Ints) -> Ints:
        """What is known about a layer whose channels are decided; -1 if nothing is."""
        found, exact = np.full(len(cut), -1, np.int64), self._cuts.exact[cut].all(axis=1)
        if exact.any():
            found[exact] = self._stages.find(layer, cut[exact], k_tile[exact])
        return found

    def bound(self, cut: Ints, k_tile: Ints, chunks: Ints, key: Ints) -> Found:
        """What every row costs and holds at least.

        Args:
            cut: ``(rows, axes)`` from ``row_of``.
            k_tile: ``(rows, layers)``, at least that many output channels at a time.
            chunks: ``(rows, layers)``, at least so many times for all of them; 1 where it is not decided yet.
            key: ``(rows, layers)`` from ``decide``; -1 where it is not.
        """
        known = self._stages.known._replace(key=np.ascontiguousarray(key))
        mappers = known.energy.shape[1]
        found = np.zeros((len(cut), 3 * mappers + 2))
        choices = np.ascontiguousarray(cut), np.ascontiguousarray(k_tile), np.ascontiguousarray(chunks)
        bound_rows(self._flat, self._know, self._cuts, self._rates, choices, known, self._scratch, found)
        cycles = np.ceil(found[:, : 2 * mappers] * (1 - SLACK) - 1e-6) + self._arch.cores.launch_cycles
        return Found(
            cycles.reshape(len(cut), 2, mappers), found[:, 2 * mappers : 3 * mappers] * (1 - SLACK),
            found[:, 3 * mappers :],
        )  # fmt: skip

    def _profile(self, parts: list[Box]) -> tuple[Profile, Ints]:
        """Walk parts; also the shapes of their stages."""
        flat, table = self._flat, np.array(parts, np.int64)
        num = len(table)
        found = empty_profile(flat, num)
        channels = np.repeat(flat.loops[None, :, K_LOOP], num, axis=0)
        part = CorePart(
            np.ascontiguousarray(table[:, :, :2]), np.ascontiguousarray(table[:, :, 2]),
            np.ascontiguousarray(table[:, :, 3]), channels, np.zeros(num, np.int64),
        )  # fmt: skip
        tiles = int(part.num_tiles().prod(axis=1).max())
        walk, room = empty_walk(flat, tiles * flat.num_layers, 64 * flat.num_layers + 1024), empty_room(flat, tiles)
        shapes = np.zeros((4 * num * flat.num_layers, SHAPES + SHAPE_FIELDS), np.int64)
        while (num_shapes := profile_parts(flat, self._machine, part, walk, room, shapes, found)) > len(shapes):
            shapes, found = np.zeros((num_shapes, shapes.shape[1]), np.int64), empty_profile(flat, num)
        return found, shapes[:num_shapes]

    def _cuts_of(self, cuts: list[Cut]) -> tuple[Cuts, Ints, Ints]:
        """Ways to cut, a walked part of each class, and the shapes of parts."""
        parts: list[Box] = []
        fronts: list[Box] = []
        whole = [(0, extent, extent, 0) for extent in self._shape]
        first, last_and_largest = [0], []
        for axis, count, tile, kept in cuts:
            extent = self._shape[axis]
            share = ceil_div(extent, count)
            for begin in range(0, extent, share):
                stop = min(extent, begin + share)
                size = min(tile, stop - begin)
                last_and_largest.append(((stop - begin - 1) % size + 1, size, extent))
                box, front = [*whole], [*whole]
                box[axis] = begin, stop, size, int(kept and size < stop - begin)
                front[axis] = begin, begin + size, size, 0
                parts.append(tuple(box))
                fronts.append(tuple(front))
            first.append(len(parts))
        profile, shapes = self._profile(parts)
        counts = [
            column / np.where(one == 0, 1.0, one) for column, one in zip(profile[:5], self._know.whole[:5], strict=True)
        ]  # fmt: skip
        moved, ends = self._know.whole.moved, np.array(last_and_largest, np.float64)
        ends = ends[:, :2] / ends[:, 2:]
        head = self._profile(fronts)[0].moved / np.where(moved == 0, 1.0, moved)
        every = Profile._make([*counts, *profile[5:]])
        exact = np.ones(len(cuts), np.int64)
        if self._blurred.any():
            for cut, (start, stop) in enumerate(pairwise(first)):
                if not self._can_be_exact or every.partial[start:stop].any():
                    exact[cut] = 0
                    self._take_means((every, head, ends), (start, stop), cuts[cut][1])
            shapes = shapes[np.repeat(exact, np.diff(first))[shapes[:, PART]] == 1]
        columns = [column.reshape(len(head), -1).astype(np.float64) for column in (*every, head, ends)]
        first_class, times, part = _classes(first, np.hstack(columns), every.written.sum(axis=1), shapes)
        return Cuts(
            first_class, times, Profile._make(column[part] for column in every), head[part],
            np.ascontiguousarray(ends[part, 0]), np.ascontiguousarray(ends[part, 1]),
            np.array([kept for _, _, _, kept in cuts], np.int64),
            np.array([int(tile < self._shape[axis]) for axis, _, tile, _ in cuts], np.int64),
            np.array([count for _, count, _, _ in cuts], np.int64), exact,
        ), part, shapes  # fmt: skip

    def _take_means(self, tables: tuple[Profile, Floats, Floats], rows: tuple[int, int], count: int) -> None:
        """Let a way to cut that is not exact have parts that all do as much as they do on average, at least."""
        (every, head, ends), own, layers = tables, slice(*rows), self._flat.num_layers
        of_layers, of_reads = self._blurred[:layers], self._blurred[layers:]
        for column, blurred in (
            (every.written, of_layers), (every.stages, of_layers), (every.moved, of_reads), (every.used, of_reads)
        ):  # fmt: skip
            column[own] = np.where(blurred, 1.0 / count, column[own].mean(axis=0))
        every.transfers[own] = np.where(of_reads, 1.0 / count, every.transfers[own].min(axis=0))
        for table in every[5:8]:
            table[own] = np.where(self._blurred[:, None], 0, table[own].min(axis=0))
        head[own] = np.where(of_reads, 0.0, head[own].min(axis=0))
        ends[own, 0], ends[own, 1] = ends[own, 0].min(), ends[own, 1].max()
        every.partial[own] = 1


def _classes(first: list[int], table: Floats, work: Floats, shapes: Ints) -> tuple[Ints, Floats, Ints]:
    """Parts that do the same: first class of each way to cut, parts per class, and one of them; the busiest first.

    Args:
        first: First part of each way to cut, and how many there are.
        table: What is known about each.
        work: Of each.
        shapes: Of all parts.
    """
    stops = np.searchsorted(shapes[:, PART], np.arange(len(table) + 1)).tolist()
    chosen: list[int] = []
    times: list[float] = []
    first_class = [0]
    for start, stop in pairwise(first):
        same: dict[bytes, list[int]] = {}
        for part in range(start, stop):
            text = table[part].tobytes() + shapes[stops[part] : stops[part + 1], SHAPES:].tobytes()
            same.setdefault(text, []).append(part)
        for members in sorted(same.values(), key=lambda members: -work[members[0]]):
            chosen.append(members[0])
            times.append(float(len(members)))
        first_class.append(len(chosen))
    return np.array(first_class), np.array(times), np.array(chosen, np.int64)


def _is_product(moves: Ints) -> NDArray[np.bool_]:
    """Per slot, whether no axis moves with two axes of the sink, and no two axes with the same one."""
    found = np.ones(len(moves), np.bool_)
    for slot, axes in enumerate(moves.tolist()):
        seen = 0
        for bits in axes:
            found[slot] &= not (bits & (bits - 1) or bits & seen)
            seen |= bits
    return found


def _blurred(flat: FlatGroup) -> tuple[NDArray[np.bool_], Ints, bool]:
    """Slots whose boxes are products over axes only where tiles are cut exactly, what moves slots there, and whether
    tiles can be cut so at all.

    Elsewhere, each element of a blurred slot is only known to be needed once. The boxes of all others are products
    there, too, if boxes of the blurred are empty or not whatever residues they hold.
    """
    blurred = ~_is_product(flat.moves)
    if not blurred.any():
        return blurred, flat.moves, True
    moves = moves_of_outer_loops(flat)
    can_be_exact = bool(_is_product(moves).all())
    if not (can_be_exact and all(_keeps_residues_together(flat, read) for read in range(len(flat.read)))):
        blurred[:] = True
    return blurred, moves, can_be_exact


def _keeps_residues_together(flat: FlatGroup, read: int) -> bool:
    """Whether, on every axis, a tensor holds all or none of what the inner ones of loops that share an axis choose."""
    layer, slot = int(flat.read[read, LAYER]), flat.num_layers + read
    inner = {
        loop for row in flat.out_axes[layer].tolist() for loop in row[TERMS + 2 : TERMS + 2 * row[NUM_TERMS] : 2]
    }  # fmt: skip
    for place in range(int(flat.read[read, FIRST_ACCESS]), int(flat.read[read, STOP_ACCESS])):
        for axis, row in enumerate(flat.access[place].tolist()):
            terms = list(zip(row[TERMS : TERMS + 2 * row[NUM_TERMS] : 2], row[TERMS + 1 :: 2], strict=False))
            reach = 1 + sum(stride * (int(flat.loops[layer, loop]) - 1) for loop, stride in terms if loop in inner)
            steps = [stride for loop, stride in terms if loop not in inner]
            if reach > max(1, math.gcd(*steps, row[OFFSET], int(flat.shape[slot, axis]))):
                return False
    return True


def _moves_k(flat: FlatGroup, moved: Ints, whole: Profile) -> Ints:
    moves = np.zeros(flat.num_layers, np.int64)
    for layer in range(flat.num_layers):
        for axis in range(int(flat.layer[layer, RANK])):
            row = flat.out_axes[layer, axis]
            if K_LOOP in row[TERMS : TERMS + 2 * row[NUM_TERMS] : 2]:
                moves[layer] |= moved[layer, axis]
                if whole.extents[0, layer, axis] < flat.shape[layer, axis]:
                    moves[layer] = -1
                    break
    return moves


def _k_axes(flat: FlatGroup) -> Ints:
    kinds = np.full((len(flat.read), flat.shape.shape[1]), NO_K, np.int64)
    for read in range(len(flat.read)):
        if not flat.layer[flat.read[read, LAYER], IS_MAC]:
            continue
        first, stop = flat.read[read, FIRST_ACCESS], flat.read[read, STOP_ACCESS]
        for axis in range(int(flat.read[read, READ_RANK])):
            for row in flat.access[first:stop, axis]:
                if K_LOOP in row[TERMS : TERMS + 2 * row[NUM_TERMS] : 2]:
                    is_plain = stop == first + 1 and row[NUM_TERMS] == 1 and row[TERMS + 1] == 1
                    kinds[read, axis] = PLAIN_K if is_plain else OTHER_K
    return kinds


def _sink_k_axis(flat: FlatGroup) -> int:
    sink = flat.num_layers - 1
    for axis in range(int(flat.layer[sink, RANK])):
        row = flat.out_axes[sink, axis]
        if row[NUM_TERMS] == 1 and row[TERMS] == K_LOOP and row[TERMS + 1] == 1:
            return axis
    return -1


def _is_dense(flat: FlatGroup, read: int) -> bool:
    """Whether the stage needs every element of the box that it reads, whatever its extents."""
    first, stop = int(flat.read[read, FIRST_ACCESS]), int(flat.read[read, STOP_ACCESS])
    if stop != first + 1:
        return False
    reduced = {DIM_NAMES.index(name) for name in ("C", "FY", "FX")}
    for axis in range(int(flat.read[read, READ_RANK])):
        row = flat.access[first, axis].tolist()
        terms = [(row[TERMS + 2 * place], row[TERMS + 2 * place + 1]) for place in range(row[NUM_TERMS])]
        reach = 1
        # the loops that are whole in every stage first; each may step over no more than those before it cover
        for loop, stride in sorted(terms, key=lambda term: (term[0] not in reduced, term[1])):
            if stride > reach:
                return False
            if loop in reduced:
                reach += stride * (int(flat.loops[flat.read[read, LAYER], loop]) - 1)
    return True


def _rates(group: Group, flat: FlatGroup, arch: Arch) -> Rates:
    """What an element costs at least: each operand crosses the network once per stage, each PE does one MAC a cycle."""
    layers, reads = flat.num_layers, len(flat.read)
    is_mac = flat.layer[:, IS_MAC] == 1
    compute, network, port = np.zeros(layers), np.zeros(reads + layers), np.zeros(reads + layers)
    array = np.zeros(reads + layers)
    port_rate = arch.levels.SPM.bytes_per_cycle
    vector = flat.layer[:, NUM_OPS] / arch.vector.ops_per_cycle
    store = flat.layer[-1, OUT_BITS] / 8 / arch.dma_bytes_per_cycle
    if is_mac[-1]:
        # the vector unit works beside the store
        store, vector[-1] = max(store, vector[-1]), 0.0
    for layer in range(layers):
        work = group.graph.layers[group.layers[layer]].workload
        if work is None:
            continue
        prices = pass_prices(work, arch)
        macs = work.dims.C * work.dims.FY * work.dims.FX
        compute[layer] = macs / arch.num_pes
        array[reads + layer] = macs * prices[MAC_PJ]
        own = [read for read in range(reads) if flat.read[read, LAYER] == layer]
        entries = [(reads + layer, Operand.O)]
        for read in own:
            if flat.read[read, ROLE] == WEIGHT or (flat.read[read, ROLE] == INPUT and _is_dense(flat, read)):
                entries.append((read, Operand.W if flat.read[read, ROLE] == WEIGHT else Operand.I))
        for place, operand in entries:
            network[place] = 1 / arch.noc.elems_per_cycle
            port[place] = work.projection(operand).elem_bits / 8 / port_rate if port_rate else 0.0
            array[place] += prices[CROSS_PJ + operand.value] + prices[DELIVER_PJ + operand.value]
    bits = np.append(
        np.where(flat.read[:, PRODUCER] < 0, flat.read[:, BITS], 0), flat.layer[:, OUT_BITS] * flat.layer[:, LEAVES]
    )
    return Rates(
        compute, vector, network, port, bits / 8 / arch.dma_bytes_per_cycle, float(store),
        float(arch.burst_startup_cycles), tensor_prices(flat, arch), array,
        min(arch.levels.DRAM.channels, arch.cores.count), arch.levels.SPM.bank_bytes,
    )  # fmt: skip


__all__ = ["Bounds", "Cut", "Found"]
