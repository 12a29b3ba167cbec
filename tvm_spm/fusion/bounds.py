"""At least what mappings of a group cost and hold, thousands at a time: see ``cost_model.fused.profile``."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.energy import CROSS_PJ, DELIVER_PJ, MAC_PJ, pass_prices
from cost_model.fused.flat import (
    BITS,
    FIRST_ACCESS,
    INPUT,
    IS_MAC,
    K_LOOP,
    LAYER,
    NUM_OPS,
    NUM_TERMS,
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
)
from cost_model.fused.pricing import tensor_prices
from cost_model.fused.profile import (
    NO_K,
    OTHER_K,
    PLAIN_K,
    Cuts,
    Knowledge,
    Profile,
    Rates,
    bound_rows,
    empty_profile,
    profile_parts,
)
from cost_model.fused.state import CorePart, empty_room, empty_walk, machine_of
from tvm_spm.arch import Arch
from tvm_spm.group import Group
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, Operand

Floats = NDArray[np.float64]

CYCLES, ENERGY_PJ, SINGLE_BYTES, DOUBLE_BYTES = range(4)
"""Columns of what ``Bounds.bound`` gives."""

SLACK = 1e-9
"""Of sums of floats; bounds are lowered by so much of themselves."""

Cut = tuple[int, int, int, int]
"""Axis of the sink, parts over cores, tile, 1 if overlap stays."""


class Bounds:
    """Bounds of one group on one accelerator.

    Args:
        group: The group.
        flat: Its arrays.
        arch: The accelerator.
        cuts: All ways to cut an axis that will be asked for.
    """

    def __init__(self, group: Group, flat: FlatGroup, arch: Arch, cuts: Iterable[Cut]) -> None:
        self._flat, self._arch, self._shape = flat, arch, group.sink_shape
        self._machine = machine_of(arch)
        self.is_separable = _is_separable(flat)
        """Whether boxes are products over axes; if not, each element is only known to be needed once."""
        self.row_of = {cut: row for row, cut in enumerate(dict.fromkeys(cuts))}
        whole = self._profile([tuple((0, extent, extent, 0) for extent in self._shape)])
        self._know = Knowledge(whole, _moves_k(flat, whole), _k_axes(flat), _sink_k_axis(flat))
        self._cuts = self._cuts_of(list(self.row_of))
        self._rates = _rates(group, flat, arch)
        self._walk = empty_walk(flat, 1, 1)

    def bound(self, cut: Ints, k_tile: Ints, chunks: Ints) -> Floats:
        """Per row, at least: cycles, pJ, and bytes with one buffer and with two.

        Args:
            cut: ``(rows, axes)`` from ``row_of``.
            k_tile: ``(rows, layers)``, at least that many output channels at a time.
            chunks: ``(rows, layers)``, at least so many times for all of them; 1 where it is not decided yet.
        """
        found = np.zeros((len(cut), 4))
        choices = np.ascontiguousarray(cut), np.ascontiguousarray(k_tile), np.ascontiguousarray(chunks)
        bank_bytes = self._arch.levels.SPM.bank_bytes
        bound_rows(self._flat, self._know, self._cuts, self._rates, choices, self._walk, bank_bytes, found)
        if not self.is_separable:
            found[:, SINGLE_BYTES:] = 0.0
        cycles = np.ceil(found[:, CYCLES] * (1 - SLACK) - 1e-6) + self._arch.cores.launch_cycles
        found[:, CYCLES], found[:, ENERGY_PJ] = cycles, found[:, ENERGY_PJ] * (1 - SLACK)
        return found

    def _profile(self, parts: list[tuple[tuple[int, int, int, int], ...]]) -> Profile:
        """Walk parts: per axis first index, stop, tile, and 1 if overlap stays."""
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
        profile_parts(flat, self._machine, part, walk, room, found)
        return found

    def _cuts_of(self, cuts: list[Cut]) -> Cuts:
        places: list[tuple[int, int]] = []
        parts: list[tuple[tuple[int, int, int, int], ...]] = []
        for row, (axis, count, tile, kept) in enumerate(cuts):
            share = ceil_div(self._shape[axis], count)
            for first in range(0, self._shape[axis], share):
                stop = min(self._shape[axis], first + share)
                box = [(0, extent, extent, 0) for extent in self._shape]
                box[axis] = (first, stop, min(tile, stop - first), int(kept and tile < stop - first))
                parts.append(tuple(box))
                places.append((row, len(parts) - 1))
        profile, whole = self._profile(parts), self._know.whole
        counts = [
            column / np.where(one == 0, 1.0, one) for column, one in zip(profile[:5], whole[:5], strict=True)
        ]  # fmt: skip
        total, most = empty_profile(self._flat, len(cuts)), empty_profile(self._flat, len(cuts))
        owner = np.array([row for row, _ in places])
        if self.is_separable:
            busiest = np.lexsort((-counts[0].sum(axis=1), owner))[np.searchsorted(owner, np.arange(len(cuts)))]
            for into, column in zip(total[:4], counts[:4], strict=True):
                np.add.at(into, owner, column)
            total.transfers[:] = np.inf
            np.minimum.at(total.transfers, owner, counts[4])
            for into, column in zip(most[:5], counts, strict=True):
                into[:] = column[busiest]
            for table, found in zip(most[5:], profile[5:], strict=True):
                table[:] = found[busiest]
        else:
            for place, into in enumerate(total[:5]):
                into[:] = 1.0
                most[place][:] = 1.0 / np.array([count for _, count, _, _ in cuts])[:, None]
        stays = np.array([kept for _, _, _, kept in cuts], np.int64)
        is_cut = np.array([int(tile < self._shape[axis]) for axis, _, tile, _ in cuts], np.int64)
        return Cuts(total, most, stays, is_cut, np.array([count for _, count, _, _ in cuts], np.int64))


def _is_separable(flat: FlatGroup) -> bool:
    """Whether no axis of a tensor moves with two axes of the sink, and no two axes of a tensor with the same one."""
    for slot in range(len(flat.moves)):
        seen = 0
        for bits in flat.moves[slot].tolist():
            if bits & (bits - 1) or bits & seen:
                return False
            seen |= bits
    return True


def _moves_k(flat: FlatGroup, whole: Profile) -> Ints:
    moves = np.zeros(flat.num_layers, np.int64)
    for layer in range(flat.num_layers):
        for axis in range(int(flat.layer[layer, RANK])):
            row = flat.out_axes[layer, axis]
            if K_LOOP in row[TERMS : TERMS + 2 * row[NUM_TERMS] : 2]:
                moves[layer] |= flat.moves[layer, axis]
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
    energy = tensor_prices(flat, arch)
    port_rate = arch.levels.SPM.bytes_per_cycle
    vector = flat.layer[:, NUM_OPS] / arch.vector.ops_per_cycle
    if is_mac[-1]:
        vector[-1] = 0.0  # the vector unit works beside the store
    for layer in range(layers):
        work = group.graph.layers[group.first + layer].workload
        if work is None:
            continue
        prices = pass_prices(work, arch)
        macs = work.dims.C * work.dims.FY * work.dims.FX
        compute[layer] = macs / arch.num_pes
        energy[layer] += macs * prices[MAC_PJ]
        own = [read for read in range(reads) if flat.read[read, LAYER] == layer]
        entries = [(reads + layer, layer, Operand.O)]
        for read in own:
            if flat.read[read, ROLE] == WEIGHT or (flat.read[read, ROLE] == INPUT and _is_dense(flat, read)):
                operand = Operand.W if flat.read[read, ROLE] == WEIGHT else Operand.I
                entries.append((read, layers + reads + read, operand))
        for place, total, operand in entries:
            network[place] = 1 / arch.noc.elems_per_cycle
            port[place] = work.projection(operand).elem_bits / 8 / port_rate if port_rate else 0.0
            energy[total] += prices[CROSS_PJ + operand.value] + prices[DELIVER_PJ + operand.value]
    bits = np.append(np.where(flat.read[:, PRODUCER] < 0, flat.read[:, BITS], 0), flat.layer[-1, OUT_BITS])
    return Rates(
        compute, vector, network, port, bits / 8 / arch.dma_bytes_per_cycle, float(arch.burst_startup_cycles), energy,
        min(arch.levels.DRAM.channels, arch.cores.count),
    )  # fmt: skip


__all__ = ["CYCLES", "DOUBLE_BYTES", "ENERGY_PJ", "SINGLE_BYTES", "Bounds", "Cut"]
