"""Mappings of a fused group: enumerates cores, tiles and buffers, and times the most promising ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cost_model.fused.compiled import probe_tiles
from cost_model.fused.cost import GroupCost
from cost_model.fused.flat import FlatGroup, Ints, flatten
from cost_model.fused.inner_mapper import InnerMapper
from cost_model.fused.probe import (
    DMA_CYCLES,
    DOUBLE_BYTES,
    DRAM_BITS,
    MACS,
    ONCE_BITS,
    ONCE_CYCLES,
    PROBE_FIELDS,
    SINGLE_BYTES,
    TILES,
    VECTOR,
    WEIGHT_ELEMS,
)
from cost_model.fused.state import empty_walk, rates_of
from tvm_spm.arch import Arch
from tvm_spm.group import Group, GroupMapping
from tvm_spm.group_candidates import Candidate, axes_of, channel_tiles, core_splits, tiles
from tvm_spm.group_timing import Timer
from tvm_spm.units import ceil_div
from tvm_spm.workload import Operand

MAX_STAGES = 20_000
"""Of one core; mappings with more are left out."""

PROBE_STAGES = 4_096
"""Of the few tiles that are probed; mappings with more are left out."""

NUM_TIMED = 6
"""Candidates that are timed, per number of cores and per way of ranking them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSearchResult:
    """What a search found.

    Attributes:
        found: No other mapping found is better in cycles and energy; by rising cycles. Empty if nothing fits.
        space: What was enumerated.
        num_enumerated: Candidates.
        num_fitting: Those that fit the scratchpad.
        num_timed: Those whose events were counted.
        refused: Reasons against the others, and how many.
        nearest: The candidate that was closest to fitting, as text, if nothing fits.
    """

    found: tuple[tuple[GroupMapping, GroupCost], ...]
    space: str
    num_enumerated: int
    num_fitting: int
    num_timed: int
    refused: tuple[tuple[str, int], ...] = ()
    nearest: str = ""

    @property
    def why(self) -> str:
        """Why nothing fits; empty if something does."""
        if self.found:
            return ""
        counts = ", ".join(f"{count:,} by {reason}" for reason, count in self.refused) or "none enumerated"
        return f"none of {self.num_enumerated:,} mappings fits: {counts}; {self.nearest}"

    def best(self, objective: str) -> tuple[GroupMapping, GroupCost] | None:
        """The mapping of least ``edp``, ``energy`` or ``latency``."""
        return min(self.found, key=lambda pair: pair[1].cost.objective(objective), default=None)


def group_search(
    group: Group, arch: Arch, *, cores: Sequence[int] | None = None, objective: str = "edp"
) -> GroupSearchResult:
    """Pareto-optimal mappings of a group among those enumerated; the same on every run.

    Args:
        group: Consecutive layers, or one.
        arch: The accelerator.
        cores: Numbers of cores to try; default 1, 2, 4, ... and all.
        objective: Of the array mapping of each stage: ``edp``, ``energy`` or ``latency``. Candidates to time are those
            that promise the least of each.
    """
    counts = core_counts(arch) if cores is None else tuple(dict.fromkeys(cores))
    if arch.levels.SPM.is_split and len(group.layers) > 1:
        text = f"{arch.name} has a split scratchpad, whose parts cannot hold tensors that are output and input"
        return GroupSearchResult(
            found=(), space="nothing: fused layers need one scratchpad", num_enumerated=0, num_fitting=0, num_timed=0,
            refused=(), nearest=text,
        )  # fmt: skip
    search = _Search(group, arch, objective)
    for count in counts:
        if count <= arch.cores.count:
            search.run(count)
        else:
            search.refused["cores"] += 1
    return search.result(counts)


def core_counts(arch: Arch) -> tuple[int, ...]:
    """1, 2, 4, ... and all cores."""
    counts = [1 << power for power in range(arch.cores.count.bit_length()) if 1 << power <= arch.cores.count]
    return tuple(dict.fromkeys([*counts, arch.cores.count]))


@lru_cache(maxsize=16)
def inner_mapper(arch: Arch, objective: str) -> InnerMapper:
    """The mapper of stages that all searches share."""
    return InnerMapper(arch, objective)


class _Search:
    """Candidates of one group, and the Pareto front of those timed."""

    def __init__(self, group: Group, arch: Arch, objective: str) -> None:
        self.group, self.arch, self.objective = group, arch, objective
        self.flat: FlatGroup = flatten(group)
        self.axes = axes_of(group, self.flat)
        self.capacity_bytes = arch.levels.SPM.capacity_of(Operand.I)
        self.levels = channel_tiles(self.flat, self.capacity_bytes)
        self.scratch = empty_walk(self.flat, PROBE_STAGES, 512)
        self.timer = Timer(group, self.flat, arch, inner_mapper(arch, objective))
        self.refused: Counter[str] = Counter()
        self.num_enumerated = self.num_fitting = 0
        self.nearest: tuple[int, str] = (1 << 62, "")

    def run(self, count: int) -> None:
        """Enumerate, probe and time all that uses so many cores."""
        fitting: list[tuple[Candidate, bool, float, float]] = []
        for split in core_splits(self.group.sink_shape, count):
            fitting += self._probe(split)
        self.num_fitting += len(fitting)
        chosen: dict[tuple[Candidate, bool], None] = {}
        for rank in (lambda f: f[2] * f[3], lambda f: f[2], lambda f: f[3] * (1 + 1e-9 * f[2])):
            for candidate, is_double, _, _ in sorted(fitting, key=rank)[:NUM_TIMED]:
                chosen[candidate, is_double] = None
        for candidate, is_double in chosen:
            reason = self.timer.time(candidate, is_double)
            if reason:
                self.refused[reason] += 1

    def _probe(self, split: tuple[int, ...]) -> list[tuple[Candidate, bool, float, float]]:
        """What fits, with estimates of cycles and energy."""
        shape = self.group.sink_shape
        chunk = [ceil_div(extent, parts) for extent, parts in zip(shape, split, strict=True)]
        middle = [((parts - 1) // 2) * c for parts, c in zip(split, chunk, strict=True)]
        box = np.array([(m, min(e, m + c)) for m, c, e in zip(middle, chunk, shape, strict=True)], np.int64)
        bases = [
            (tile, kept) for tile, kept in tiles(self.flat, self.axes, chunk)
            if int(np.prod([ceil_div(c, t) for c, t in zip(chunk, tile, strict=True)])) <= MAX_STAGES
        ]  # fmt: skip
        fitting: list[tuple[Candidate, bool, float, float]] = []
        pending = {False: list(range(len(bases))), True: list(range(len(bases)))}
        for level in self.levels:
            wanted = sorted(set(pending[False]) | set(pending[True]))
            if not wanted:
                break
            found = self._probe_level(box, [bases[index] for index in wanted], level)
            self.num_enumerated += len(wanted)
            row_of = dict(zip(wanted, found, strict=True))
            for is_double, column in ((False, SINGLE_BYTES), (True, DOUBLE_BYTES)):
                left = []
                for index in pending[is_double]:
                    row = row_of[index]
                    tile, kept = bases[index]
                    candidate = Candidate(split, tile, kept, level)
                    if row[column] > self.capacity_bytes:
                        left.append(index)
                        if row[column] < self.nearest[0]:
                            self.nearest = (int(row[column]), str(candidate))
                        continue
                    fitting.append((candidate, is_double, *self._estimate(candidate, is_double, row, chunk)))
                    if tile == tuple(chunk):
                        left.append(index)
                pending[is_double] = left
            self.refused["spm-capacity"] += sum(int(row[SINGLE_BYTES] > self.capacity_bytes) for row in found)
        return fitting

    def _probe_level(
        self, box: Ints, bases: list[tuple[tuple[int, ...], tuple[int, ...]]], level: tuple[int, ...]
    ) -> list[list[int]]:
        num, rank = len(bases), len(box)
        kept = np.zeros((num, rank), np.int64)
        for row, (_, axes) in enumerate(bases):
            kept[row, list(axes)] = 1
        found = np.zeros((num, PROBE_FIELDS), np.int64)
        probe_tiles(
            self.flat, rates_of(self.arch), self.arch.levels.SPM.bank_bytes, np.repeat(box[None], num, axis=0),
            np.array([tile for tile, _ in bases], np.int64), kept,
            np.repeat(np.array([level], np.int64), num, axis=0), self.scratch, found,
        )  # fmt: skip
        return found.tolist()  # type: ignore[no-any-return]

    def _estimate(self, candidate: Candidate, is_double: bool, row: list[int], chunk: list[int]) -> tuple[float, float]:
        """Cycles and energy if all tiles were like those probed."""
        arch, num_cores = self.arch, int(np.prod(candidate.cores))
        tiles_per_core = 1.0
        share = float(num_cores)
        for extent, size, parts, whole in zip(
            chunk, candidate.tile, candidate.cores, self.group.sink_shape, strict=True
        ):
            tiles_per_core *= extent / size
            share *= whole / (extent * parts)
        scale = tiles_per_core / row[TILES]
        work = max(row[MACS] / arch.num_pes, row[WEIGHT_ELEMS] / arch.noc.elems_per_cycle) + row[VECTOR]
        dma = scale * row[DMA_CYCLES] + row[ONCE_CYCLES]
        queued = dma * max(1.0, num_cores / arch.levels.DRAM.channels)
        cycles = max(scale * work, queued) if is_double else scale * work + queued
        word_pj = (arch.levels.DRAM.access_pj + arch.levels.SPM.access_pj) / arch.word_bits
        mac_pj = arch.mac.op_pj + 4 * arch.levels.RF.access_pj
        energy_pj = scale * share * (row[MACS] * mac_pj + row[DRAM_BITS] * word_pj)
        return cycles + arch.cores.launch_cycles, energy_pj + num_cores * row[ONCE_BITS] * word_pj

    def result(self, counts: Sequence[int]) -> GroupSearchResult:
        """The front."""
        needed, candidate = self.nearest
        nearest = f"the closest needs {needed:,} B of {self.capacity_bytes:,} B: {candidate}" if candidate else ""
        return GroupSearchResult(
            found=self.timer.front(),
            space=(
                f"{self.num_enumerated:,} choices of cores {' '.join(map(str, counts))} over at most two axes, tile, "
                f"overlap kept or computed again, and channels at a time; {self.num_fitting:,} fit with one or two "
                f"buffers; the {NUM_TIMED} that promise most per number of cores by product, cycles and energy "
                f"were timed: {self.timer.num_timed:,}"
            ),
            num_enumerated=self.num_enumerated,
            num_fitting=self.num_fitting,
            num_timed=self.timer.num_timed,
            refused=tuple(sorted(self.refused.items())),
            nearest=nearest,
        )  # fmt: skip
