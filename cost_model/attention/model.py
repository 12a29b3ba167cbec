"""Cycles and energy of attention with an online softmax.

One chunk of keys is three stages of a core: the scores on the array, the softmax on the vector unit, the second product
on the array. They follow each other, or the vector unit works on one chunk beside the array on its neighbours (see
``core``). Per score the vector unit does the element-wise work of the first product and four operations (maximum,
difference, power, sum); per row of every chunk but the first three (the correction and the corrected sum) and one per
output element (the corrected output); one per output element at the end (the quotient), while it leaves.

Q comes in once per tile of queries; K and V once per tile of queries and chunk, or once per head where all keys are one
chunk; a mask like what it follows, at least once per head. Transfers queue as those of fused groups do.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cost_model.attention.core import (
    CONTEXT,
    Chunk,
    CoreKind,
    Ints,
    PartCycles,
    compute_cycles,
    core_kinds,
    core_orders,
)  # fmt: skip
from cost_model.attention.stages import tile_energy, tile_records
from cost_model.fused.energy import MAC, NOC, PARTS, RF, SPM
from cost_model.fused.passes import CYCLES, MAC_CYCLES
from cost_model.fused.queues import finish_times
from cost_model.transfer import box_transfer
from tvm_spm.arch import Arch
from tvm_spm.attention import Attention, AttentionMapping, TileStream, streams_of, sum_dtype
from tvm_spm.cost import Cost, Energy, dma_channels
from tvm_spm.objective import Objective
from tvm_spm.units import bits_to_bytes, ceil_div
from tvm_spm.workload import Dims, Projection, dtype_bits

MODEL_NAME = "simulator"

OPS_PER_SCORE = 4
"""Maximum, difference, power, sum."""

OPS_PER_CORRECTED_ROW = 3
"""Difference and power of two maxima, product with the sum."""

ROW_ACCESSES = 2
"""Of SPM per row and chunk: maximum and sum each are read and written; the correction stays in the vector unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileTransfer:
    """One transfer: cycles of a DRAM channel, elements, bytes in whole bursts, and bits of those that are not used."""

    cycles: int
    elems: int
    num_bytes: int
    unused_bits: int


def _move(projection: Projection, tile: Dims, arch: Arch) -> TileTransfer:
    """Move one tile between DRAM and SPM."""
    box = tuple(min(axis.extent, axis.tile_elems(tile)) for axis in projection.axes)
    elems = math.prod(box)
    cycles, moved_bits = box_transfer(projection, box, arch)
    unused_bits = moved_bits - elems * projection.elem_bits
    return TileTransfer(cycles=cycles, elems=elems, num_bytes=bits_to_bytes(moved_bits), unused_bits=unused_bits)


def attention_cost(work: Attention, arch: Arch, mapping: AttentionMapping) -> Cost:
    """Cycles and energy.

    Args:
        work: What is computed.
        arch: The accelerator.
        mapping: Not refused by ``refuse_attention``; not checked again here.
    """
    return Pricing(work=work, arch=arch, mapping=mapping).cost()


@dataclass(frozen=True, kw_only=True)
class Pricing:
    """One mapping; what several answers need is computed once."""

    work: Attention
    arch: Arch
    mapping: AttentionMapping

    def bound(self, objective: Objective) -> float:
        """No timeline has a smaller objective: at best, cores compute and channels move all the time."""
        channels = min(self.arch.levels.DRAM.channels, self.mapping.num_cores)
        moving_cycles = sum(moved.cycles for moved in self.moved.values())
        computing_cycles = max(self._least_computing(kind) for kind in self.kinds)
        cycles = self.arch.cores.launch_cycles + max(computing_cycles, ceil_div(moving_cycles, channels))
        return objective.value_of(cycles, self.energy.total_pj)

    def cost(self) -> Cost:
        """All of it."""
        finished = self._finished()
        last = int(np.argmax(finished))
        mac_cycles, noc_cycles, vector_cycles = self._computing(self.core_kinds[last])
        cycles, launch = int(finished[last]), self.arch.cores.launch_cycles
        moved = self.moved
        masks = [total for name, total in moved.items() if name.startswith("mask")]
        return Cost(
            cycles=cycles,
            energy=self.energy,
            model=MODEL_NAME,
            macs=self.work.macs,
            utilization=self.work.macs / (cycles * self.arch.peak_macs_per_cycle),
            compute_cycles=mac_cycles + vector_cycles,
            noc_stall_cycles=noc_cycles,
            dma_stall_cycles=cycles - launch - mac_cycles - noc_cycles - vector_cycles,
            overhead_cycles=launch,
            dram_bytes=(
                moved["Q"].num_bytes, moved["K"].num_bytes + moved["V"].num_bytes, moved["O"].num_bytes,
                sum(total.num_bytes for total in masks),
            ),
            dram_unused_bytes=self._unused_bits // 8,
            dma_channels=dma_channels(self.arch),
            dma_busy_cycles=sum(total.cycles for name, total in moved.items() if name != "O") + self._storing(),
        )  # fmt: skip

    @cached_property
    def core_kinds(self) -> list[CoreKind]:
        """One per core."""
        return core_kinds(self.work, self.mapping)

    @cached_property
    def kinds(self) -> Counter[CoreKind]:
        """How many cores are of each kind."""
        return Counter(self.core_kinds)

    @cached_property
    def chunks(self) -> Counter[Chunk]:
        """Of all cores."""
        total: Counter[Chunk] = Counter()
        for kind, count in self.kinds.items():
            for chunk, times in kind.chunks().items():
                total[chunk] += count * times
        return total

    @cached_property
    def streams(self) -> tuple[TileStream, ...]:
        """What comes in."""
        return streams_of(self.work)

    @cached_property
    def records(self) -> dict[Chunk, tuple[Ints, Ints]]:
        """Passes of both products, per kind of chunk."""
        work, arch, inner = self.work, self.arch, self.mapping.inner
        tiles = [self.mapping.stage_dims(rows, columns, work) for rows, columns, _ in self.chunks]
        scores_tiles, context_tiles = zip(*tiles, strict=True)
        scores = tile_records(work.scores, arch, inner[0], scores_tiles, [False] * len(tiles))
        later = [not is_first for _, _, is_first in self.chunks]
        context = tile_records(work.context, arch, inner[1], context_tiles, later)
        return dict(zip(self.chunks, zip(scores, context, strict=True), strict=True))

    def vector_ops(self, chunk: Chunk) -> int:
        """Of the softmax of one chunk."""
        rows, columns, is_first = chunk
        ops = rows * columns * (self.work.scores.epilogue.num_ops_per_elem + OPS_PER_SCORE)
        return ops if is_first else ops + rows * (OPS_PER_CORRECTED_ROW + self.work.context.dims.K)

    def correction_ops(self, chunk: Chunk) -> int:
        """Of these, what changes the outputs so far; it cannot be done while the array adds to them."""
        rows, _, is_first = chunk
        return 0 if is_first else rows * self.work.context.dims.K

    def vector_cycles(self, num_ops: int) -> int:
        """On the vector unit of one core."""
        return math.ceil(num_ops / self.arch.vector.ops_per_cycle)

    def stage_cycles(self, chunk: Chunk) -> tuple[int, int, int]:
        """Of the three stages of one chunk."""
        scores, context = self.records[chunk]
        later = self.correction_ops(chunk) if self.mapping.beside else 0
        return int(scores[CYCLES]), self.vector_cycles(self.vector_ops(chunk) - later), int(context[CYCLES])

    def load(self, position: int, rows: int, columns: int) -> TileTransfer:
        """One tile of a tensor that comes in."""
        stream = self.streams[position]
        scores, context = self.mapping.stage_dims(rows, columns, self.work)
        return _move(stream.projection, context if stream.stage == CONTEXT else scores, self.arch)

    def store(self, rows: int) -> tuple[TileTransfer, int]:
        """One tile of the result, and cycles of the DMA engine, which waits for the vector unit."""
        tile = Dims(OX=rows, K=self.work.context.dims.K)
        moved = _move(self.work.context.final_projection(), tile, self.arch)
        return moved, max(moved.cycles, self.vector_cycles(moved.elems * self._ops_per_output))

    @property
    def _ops_per_output(self) -> int:
        return 1 + self.work.context.epilogue.num_ops_per_elem

    def _stored_tiles(self) -> Counter[int]:
        """Tiles of the result of all cores, by rows."""
        total: Counter[int] = Counter()
        for kind, count in self.kinds.items():
            for rows in kind.rows:
                total[rows] += count * kind.heads
        return total

    def _storing(self) -> int:
        return sum(self.store(rows)[1] * count for rows, count in self._stored_tiles().items())

    def _least_computing(self, kind: CoreKind) -> int:
        """Cycles of one core if neither array nor vector unit ever waited for the other, where they work at once."""
        array = vector = after = 0
        for chunk, count in kind.chunks().items():
            scores, softmax, context = self.stage_cycles(chunk)
            array += count * (scores + context)
            vector += count * softmax
            after += count * self.vector_cycles(self.correction_ops(chunk))
        return max(array, vector) + after if self.mapping.beside else array + vector

    def _computing(self, kind: CoreKind) -> tuple[int, int, int]:
        """Cycles of one core: PEs multiply, the networks make them wait, the vector unit works and they do not."""
        mac = noc = 0
        for chunk, count in kind.chunks().items():
            both = np.add(*self.records[chunk])
            mac += count * int(both[MAC_CYCLES])
            noc += count * int(both[CYCLES] - both[MAC_CYCLES])
        total = int(compute_cycles(kind, self._part_cycles, beside=self.mapping.beside).sum())
        return mac, noc, total - mac - noc

    @property
    def _part_cycles(self) -> PartCycles:
        return PartCycles(
            stages=self.stage_cycles,
            correction=lambda chunk: self.vector_cycles(self.correction_ops(chunk)),
            load=lambda position, rows, columns: self.load(position, rows, columns).cycles,
            store=lambda rows: (self.store(rows)[0].cycles, self.store(rows)[1]),
        )

    @cached_property
    def moved(self) -> dict[str, TileTransfer]:
        """All transfers of each tensor."""
        found: dict[str, Counter[TileTransfer]] = {stream.name: Counter() for stream in self.streams}
        for kind, count in self.kinds.items():
            for position, stream in enumerate(self.streams):
                for (rows, columns), times in kind.loads(stream).items():
                    found[stream.name][self.load(position, rows, columns)] += count * times
        found["O"] = Counter()
        for rows, count in self._stored_tiles().items():
            found["O"][self.store(rows)[0]] += count
        return {name: _sum(moves) for name, moves in found.items()}

    @property
    def _unused_bits(self) -> int:
        return sum(total.unused_bits for total in self.moved.values())

    @cached_property
    def energy(self) -> Energy:
        """Of everything."""
        work, arch = self.work, self.arch
        parts = np.zeros(PARTS)
        for which, (workload, inner) in enumerate(zip((work.scores, work.context), self.mapping.inner, strict=True)):
            total = np.sum([count * self.records[chunk][which] for chunk, count in self.chunks.items()], axis=0)
            parts += tile_energy(workload, arch, inner, workload.macs, total)
        moved_words = {
            stream.name: self.moved[stream.name].elems * stream.projection.elem_bits / arch.word_bits
            for stream in self.streams
        }
        stored = self.moved["O"].elems
        spm_words = sum(moved_words.values()) + stored * work.context.O.elem_bits / arch.word_bits
        dram_words = sum(moved_words.values()) + stored * work.context.out_bits / arch.word_bits
        dram_words += self._unused_bits / arch.word_bits
        num_ops = sum(self.vector_ops(chunk) * count for chunk, count in self.chunks.items())
        return Energy(
            mac_pj=float(parts[MAC]),
            rf_pj=float(parts[RF]),
            noc_pj=float(parts[NOC]),
            spm_pj=float(parts[SPM]) + (spm_words + self._vector_words()) * arch.levels.SPM.access_pj,
            dram_pj=dram_words * arch.levels.DRAM.access_pj,
            vector_pj=(num_ops + stored * self._ops_per_output) * arch.vector.op_pj,
        )

    def _vector_words(self) -> float:
        """Words that the vector unit reads and writes in SPM."""
        work, word_bits = self.work, self.arch.word_bits
        score_words, sum_words = work.scores.out_bits / word_bits, work.scores.O.elem_bits / word_bits
        mask_words = sum(mask.elem_bits for mask in work.scores.epilogue.extras) / word_bits
        is_changed = work.scores.epilogue.num_ops_per_elem > 0
        per_score = sum_words + (3 if is_changed else 2) * score_words + mask_words
        row_sum_words = dtype_bits(sum_dtype(work.scores.out_dtype)) / word_bits
        total = 0.0
        for (rows, columns, is_first), count in self.chunks.items():
            words = rows * columns * per_score + rows * ROW_ACCESSES * (score_words + row_sum_words)
            if not is_first:
                words += 2 * rows * work.context.dims.K * work.context.O.elem_bits / word_bits
            total += count * words
        return total + work.heads * work.queries * row_sum_words

    def _finished(self) -> Ints:
        """When each core has finished everything."""
        kinds = list(self.kinds)
        double, beside = self.mapping.double, self.mapping.beside
        orders = [core_orders(kind, self.work, self._part_cycles, double=double, beside=beside) for kind in kinds]
        kind = np.array([kinds.index(kind) for kind in self.core_kinds], np.int64)
        return finish_times(self.arch, orders, kind, double=double)


def _sum(moves: Counter[TileTransfer]) -> TileTransfer:
    return TileTransfer(
        cycles=sum(moved.cycles * count for moved, count in moves.items()),
        elems=sum(moved.elems * count for moved, count in moves.items()),
        num_bytes=sum(moved.num_bytes * count for moved, count in moves.items()),
        unused_bits=sum(moved.unused_bits * count for moved, count in moves.items()),
    )
