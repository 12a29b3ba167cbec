"""Which candidates of a group fit the scratchpad, and what they promise, from a few of their tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.flat import FlatGroup, Ints
from cost_model.fused.probe import (
    DMA_CYCLES,
    DOUBLE_BYTES,
    DRAM_BITS,
    MACS,
    MOST_CHUNKS,
    ONCE_BITS,
    ONCE_CYCLES,
    PROBE_FIELDS,
    SINGLE_BYTES,
    VECTOR,
    WEIGHT_ELEMS,
    few_tiles,
    walk_parts,
)
from cost_model.fused.state import CorePart, empty_room, empty_walk, machine_of
from tvm_spm.arch import Arch
from tvm_spm.fusion.candidates import Candidate, axes_of, channel_tiles, core_splits, held_weight_bytes, tiles
from tvm_spm.fusion.probe_bounds import Footprints
from tvm_spm.group import Group
from tvm_spm.units import ceil_div
from tvm_spm.workload import Operand

MAX_TILES = 4_096
"""Of one core; mappings with more are left out."""

PROBE_STAGES = 2_048
"""Of the few tiles that are probed; mappings with more are left out."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Batch:
    """What fits of one split and one choice of channels: rows of ``bases``, and what they promise."""

    split: tuple[int, ...]
    level: tuple[int, ...]
    bases: list[tuple[tuple[int, ...], tuple[int, ...]]]
    index: Ints
    is_double: NDArray[np.bool_]
    cycles: Floats
    energy_pj: Floats


class Prober:
    """Enumerates and probes.

    Args:
        group: The group.
        flat: Its arrays.
        arch: The accelerator.
    """

    def __init__(self, group: Group, flat: FlatGroup, arch: Arch) -> None:
        self._shape, self._flat, self._arch = group.sink_shape, flat, arch
        self._axes = axes_of(group, flat)
        self._capacity_bytes = arch.levels.SPM.capacity_of(Operand.I)
        self._levels = channel_tiles(flat, self._capacity_bytes)
        self._level_bytes = [held_weight_bytes(flat, level, arch.levels.SPM.bank_bytes) for level in self._levels]
        self._footprints = Footprints(flat, arch, self._shape)
        self._machine = machine_of(arch)
        self._walk = empty_walk(flat, PROBE_STAGES, 256)
        self._room = empty_room(flat, 1 << len(self._shape))
        self._least: tuple[int, str] = (1 << 62, "")
        self.num_enumerated = self.num_fitting = self.num_unfit = 0

    @property
    def nearest(self) -> str:
        """The candidate that is closest to fitting."""
        needed, candidate = self._least
        if not candidate:
            return "no tile is small enough to be tried"
        return f"the closest needs {needed:,} B, has {self._capacity_bytes:,} B: {candidate}"

    def promising(
        self, count: int, num: int, should_stop: Callable[[], bool] = lambda: False
    ) -> list[tuple[Candidate, bool]]:
        """The first ``num`` candidates on so many cores by product, by cycles and by energy; and whether double.

        Once ``should_stop`` is true, only candidates that were probed by then count.
        """
        splits = (split for split in core_splits(self._shape, count) if not should_stop())
        batches = [batch for split in splits for batch in self._probe(split)]
        if not batches:
            return []
        cycles = np.concatenate([batch.cycles for batch in batches])
        energy_pj = np.concatenate([batch.energy_pj for batch in batches])
        self.num_fitting += len(cycles)
        starts = np.cumsum([0, *(len(batch.cycles) for batch in batches)])
        chosen: dict[int, None] = {}
        for keys in ((cycles * energy_pj,), (energy_pj, cycles), (cycles, energy_pj)):
            for place in np.lexsort(keys)[:num].tolist():
                chosen[place] = None
        found = []
        for place in chosen:
            number = int(np.searchsorted(starts, place, side="right")) - 1
            batch, row = batches[number], place - int(starts[number])
            tile, kept = batch.bases[int(batch.index[row])]
            found.append((Candidate(batch.split, tile, kept, batch.level), bool(batch.is_double[row])))
        return found

    def _probe(self, split: tuple[int, ...]) -> list[_Batch]:
        chunk = tuple(ceil_div(extent, parts) for extent, parts in zip(self._shape, split, strict=True))
        middle = [((parts - 1) // 2) * c for parts, c in zip(split, chunk, strict=True)]
        box = np.array([(m, min(e, m + c)) for m, c, e in zip(middle, chunk, self._shape, strict=True)], np.int64)
        bases = list(tiles(self._flat, self._axes, chunk))
        tile = np.array([tile for tile, _ in bases], np.int64)
        kept = np.zeros_like(tile)
        for row, (_, axes) in enumerate(bases):
            kept[row, list(axes)] = 1
        num_tiles = np.prod(-(-np.array(chunk) // tile), axis=1)
        share = np.prod(np.array(chunk) / tile, axis=1)
        is_few, is_whole = num_tiles <= MAX_TILES, num_tiles == 1
        left = np.stack([is_few, is_few])
        batches = []
        for level, level_bytes in zip(self._levels, self._level_bytes, strict=True):
            wanted = np.flatnonzero(left.any(axis=0))
            if not len(wanted):
                break
            self.num_enumerated += len(wanted)
            if level_bytes > self._capacity_bytes:
                self.num_unfit += len(wanted)
                self._note(level_bytes, split, bases[int(wanted[-1])], level)
                continue
            least_bytes = self._footprints.least_bytes(tile[wanted], level) + level_bytes
            may_fit = least_bytes <= self._capacity_bytes
            self.num_unfit += int(np.sum(~may_fit))
            if not may_fit.any():
                self._note(int(np.min(least_bytes)), split, bases[int(wanted[np.argmin(least_bytes)])], level)
                continue
            wanted = wanted[may_fit]
            num = len(wanted)
            parts = CorePart(
                np.repeat(box[None], num, axis=0), tile[wanted], kept[wanted],
                np.repeat(np.array([level], np.int64), num, axis=0), np.zeros(num, np.int64),
            )  # fmt: skip
            few, beyond, num_walked = few_tiles(parts)
            found = np.zeros((num, PROBE_FIELDS), np.int64)
            walk_parts(self._flat, self._machine, few, beyond, MOST_CHUNKS, self._walk, self._room, found)
            least = int(np.argmin(found[:, SINGLE_BYTES]))
            self.num_unfit += int(np.sum(found[:, SINGLE_BYTES] > self._capacity_bytes))
            self._note(int(found[least, SINGLE_BYTES]), split, bases[int(wanted[least])], level)
            for double, column in ((0, SINGLE_BYTES), (1, DOUBLE_BYTES)):
                fits = (found[:, column] <= self._capacity_bytes) & left[double, wanted]
                if fits.any():
                    index = wanted[fits]
                    cycles, energy_pj = self._estimate(
                        (split, chunk), found[fits], share[index] / num_walked[fits], double == 1
                    )
                    batches.append(
                        _Batch(split, level, bases, index, np.full(len(index), double == 1), cycles, energy_pj)
                    )  # fmt: skip
                    # a single tile loads everything once however it is cut
                    left[double, index] &= is_whole[index]
        return batches

    def _note(
        self, num_bytes: int, split: tuple[int, ...], base: tuple[tuple[int, ...], tuple[int, ...]],
        level: tuple[int, ...],
    ) -> None:  # fmt: skip
        """Remember the candidate that needs least."""
        if num_bytes < self._least[0]:
            self._least = (num_bytes, str(Candidate(split, *base, level)))

    def _estimate(
        self, cut: tuple[tuple[int, ...], tuple[int, ...]], found: Ints, scale: Floats, is_double: bool
    ) -> tuple[Floats, Floats]:
        """Cycles and energy if all tiles were like those probed, of which there are ``scale`` times as many.

        Only to choose what is timed: of the step of the formula it keeps one MAC per PE and cycle, or the weights over
        their network, and of the queues of ``fused.queues`` that DMA and work overlap or not, channels being shared
        evenly. Those chosen are timed exactly, so a wrong estimate costs a better mapping, never a wrong number.
        """
        arch, num_cores, shares = self._arch, 1, 1.0
        for extent, parts, whole in zip(cut[1], cut[0], self._shape, strict=True):
            num_cores *= parts
            shares *= whole / extent
        work = np.maximum(found[:, MACS] / arch.num_pes, found[:, WEIGHT_ELEMS] / arch.noc.elems_per_cycle)
        work = scale * (work + found[:, VECTOR])
        dma = scale * found[:, DMA_CYCLES] + found[:, ONCE_CYCLES]
        dma = dma * max(1.0, num_cores / arch.levels.DRAM.channels)
        cycles = np.maximum(work, dma) if is_double else work + dma
        word_pj = (arch.levels.DRAM.access_pj + arch.levels.SPM.access_pj) / arch.word_bits
        mac_pj = arch.mac.op_pj + 4 * arch.levels.RF.access_pj
        energy_pj = scale * shares * (found[:, MACS] * mac_pj + found[:, DRAM_BITS] * word_pj)
        return cycles + arch.cores.launch_cycles, energy_pj + num_cores * found[:, ONCE_BITS] * word_pj
