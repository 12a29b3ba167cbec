"""Cost of a fused group: the simulator of groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from cost_model.arrays import ArchArrays, WorkloadArrays
from cost_model.fused.compiled import core_signatures, pass_records, peak_spm_bytes, run_timeline, walk_tiles
from cost_model.fused.energy import group_energy
from cost_model.fused.flat import EXTRA, IS_MAC, LAYER, PRODUCER, ROLE, WEIGHT, FlatGroup, Ints, flatten
from cost_model.fused.refusal import largest_stages, refuse_capacity, refuse_form, refuse_inner
from cost_model.fused.state import (
    BUSY_CYCLES,
    MOVED_BYTES,
    NUM_SHAPES,
    NUM_STAGE_LOADS,
    NUM_STAGES,
    SHAPE,
    SHAPE_DIMS,
    SHAPE_LAYER,
    SHAPE_STAGES,
    STORED_BYTES,
    VECTOR_CYCLES,
    Share,
    Walk,
    empty_walk,
    most_stages,
    rates_of,
    shares_of,
    unused_bits_of,
)
from cost_model.simulator.pe_array import MAC_CYCLES, PASS_CYCLES, PASS_FIELDS
from cost_model.simulator.state import NEST_FIELDS, Tensors, pack_problem, pack_tensors
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost
from tvm_spm.group import Group, GroupMapping
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import Rejection
from tvm_spm.space.mapping_batch import encode
from tvm_spm.workload import REDUCTION_DIMS, Workload

ALL_CHUNKS = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCost:
    """What a mapped group costs.

    Attributes:
        cost: Cycles, energy and their breakdown; ``macs`` are those needed.
        macs_needed: Multiply-accumulates of the layers, each output once.
        macs_executed: With those done again where tiles overlap.
        spm_bytes: Most that any core holds at once, in whole banks.
        input_bytes: Read from DRAM in whole bursts, but for weights.
        weight_bytes: Read from DRAM in whole bursts.
        output_bytes: Written to DRAM in whole bursts.
    """

    cost: Cost
    macs_needed: int
    macs_executed: int
    spm_bytes: int
    input_bytes: int
    weight_bytes: int
    output_bytes: int

    @property
    def recompute_share(self) -> float:
        """Work done again, as a share of the work needed."""
        return self.macs_executed / self.macs_needed - 1 if self.macs_needed else 0.0

    @property
    def dram_bytes(self) -> int:
        """All that moves between DRAM and the cores."""
        return self.input_bytes + self.weight_bytes + self.output_bytes

    def __str__(self) -> str:
        return (
            f"{self.cost}; recomputed {self.recompute_share:.1%}, SPM {self.spm_bytes:,} B, "
            f"DRAM {self.input_bytes:,} B inputs + {self.weight_bytes:,} B weights + {self.output_bytes:,} B outputs"
        )


def refuse_group_mapping(group: Group, arch: Arch, mapping: GroupMapping) -> Rejection | None:
    """The first broken rule, or None for a mapping that can run."""
    rejection = refuse_form(group, arch, mapping)
    if rejection is not None:
        return rejection
    flat = flatten(group)
    shares, _ = kinds_of(flat, shares_of(mapping, group.sink_shape))
    kinds = [(share, walk_share(flat, arch, share)) for share in shares]
    layers = [group.graph.layers[index] for index in group.layers]
    for layer, inner, largest in zip(
        layers, mapping.inner, largest_stages(flat, [walk for _, walk in kinds]), strict=True
    ):
        if layer.workload is not None and largest is not None:
            if inner is None:
                return Rejection(
                    reason="order", subject=f"{layer.name}: no mapping of the array", needed=1, available=0,
                    unit="mappings",
                )  # fmt: skip
            rejection = refuse_inner(layer.name, layer.workload, arch, inner, largest)
            if rejection is not None:
                return rejection
    return refuse_capacity(group, flat, arch, kinds)[0]


def group_cost(group: Group, arch: Arch, mapping: GroupMapping) -> GroupCost:
    """Cost of a legal mapping of a group, from the events of DMA, NoC, PE array and vector unit on every core.

    Args:
        group: Consecutive layers.
        arch: The accelerator.
        mapping: Legal for ``group`` on ``arch``; not checked again here.
    """
    flat = flatten(group)
    shares, kind = kinds_of(flat, shares_of(mapping, group.sink_shape))
    walks = [walk_share(flat, arch, share) for share in shares]
    records = [stage_records(group, arch, mapping, walk) for walk in walks]
    reduction_pes = [
        1 if inner is None else prod(inner.rows[name] * inner.cols[name] for name in REDUCTION_DIMS)
        for inner in mapping.inner
    ]
    return price(group, flat, arch, reduction_pes, shares, walks, kind, records)


def kinds_of(flat: FlatGroup, shares: Sequence[Share]) -> tuple[list[Share], Ints]:
    """One share of each kind, and which kind every core is of."""
    chunks = np.stack([share.chunk for share in shares])
    layers, rank = flat.shape.shape
    width = rank * (1 + 3 * layers + 2 * len(flat.access))
    signatures = np.zeros((len(shares), width), np.int64)
    core_signatures(
        flat, chunks, np.zeros((layers, rank, 2), np.int64), np.zeros((flat.loops.shape[1], 2), np.int64),
        np.zeros((rank, 2), np.int64), signatures,
    )  # fmt: skip
    numbers: dict[bytes, int] = {}
    chosen: list[Share] = []
    kind = np.zeros(len(shares), np.int64)
    for core, share in enumerate(shares):
        key = signatures[core].tobytes()
        if key not in numbers:
            numbers[key] = len(chosen)
            chosen.append(share)
        kind[core] = numbers[key]
    return chosen, kind


def walk_share(flat: FlatGroup, arch: Arch, share: Share) -> Walk:
    """What one core does."""
    walk = empty_walk(flat, most_stages(flat, share), 64 * flat.num_layers + 1024)
    if walk_tiles(flat, rates_of(arch), share, ALL_CHUNKS, walk) < 0:
        raise RuntimeError("more kinds of stages than expected")
    return walk


@lru_cache(maxsize=256)
def packed(workload: Workload, arch: Arch) -> tuple[NDArray[np.void], Tensors]:
    """A workload for compiled code."""
    arrays = WorkloadArrays.of(workload)
    return pack_problem(arrays, ArchArrays.of(arch)), pack_tensors(arrays)


def stage_records(group: Group, arch: Arch, mapping: GroupMapping, walk: Walk) -> Ints:
    """Record of the array's pass per shape of a core's stages."""
    shapes = walk.shapes[: int(walk.counters[NUM_SHAPES])]
    records = np.zeros((len(shapes), PASS_FIELDS), np.int64)
    for local, inner in enumerate(mapping.inner):
        own = np.flatnonzero(shapes[:, SHAPE_LAYER] == local)
        if len(own):
            workload = group.graph.layers[group.first + local].workload
            assert workload is not None
            assert inner is not None
            records[own] = inner_records(workload, arch, inner, np.ascontiguousarray(shapes[own, SHAPE_DIMS:]))
    return records


def inner_records(workload: Workload, arch: Arch, inner: Mapping, dims: Ints) -> Ints:
    """Records of passes of one mapping over stages."""
    problem, tensors = packed(workload, arch)
    records = np.zeros((len(dims), PASS_FIELDS), np.int64)
    pass_records(problem, tensors, encode([inner]), 0, np.zeros(1, NEST_FIELDS), dims, records)
    return records


def times(
    arch: Arch, is_double: bool, walks: list[Walk], kind: Ints, records: list[Ints]
) -> tuple[Ints, list[tuple[int, int]]]:
    """When each core finishes; per kind of core the cycles of its stages, and those of MACs and the vector unit."""
    cycles, work, spans, first_stage, first_load = [], [], [], 0, 0
    for walk, record in zip(walks, records, strict=True):
        stages = walk.stages[: int(walk.counters[NUM_STAGES])]
        passes = np.vstack([record[:, [PASS_CYCLES, MAC_CYCLES]], np.zeros((1, 2), np.int64)])[stages[:, SHAPE]]
        cycles.append(passes[:, 0] + stages[:, VECTOR_CYCLES])
        vector_cycles = int(stages[:, VECTOR_CYCLES].sum())
        work.append((int(cycles[-1].sum()), int(passes[:, 1].sum()) + vector_cycles))
        spans.append((first_stage, len(stages), first_load))
        first_stage += len(stages)
        first_load += int(walk.counters[NUM_STAGE_LOADS])
    finished = np.zeros(len(kind), np.int64)
    run_timeline(
        np.concatenate([walk.stages[: int(walk.counters[NUM_STAGES])] for walk in walks]),
        np.concatenate([walk.loads[: int(walk.counters[NUM_STAGE_LOADS])] for walk in walks]),
        np.concatenate(cycles), np.array(spans, np.int64), kind.astype(np.int64), arch.cores.launch_cycles,
        arch.levels.DRAM.channels, is_double, finished,
    )  # fmt: skip
    return finished, work


def price(
    group: Group, flat: FlatGroup, arch: Arch, reduction_pes: Sequence[int], shares: list[Share], walks: list[Walk],
    kind: Ints, records: list[Ints],
) -> GroupCost:  # fmt: skip
    """Put together what every kind of core does.

    Args:
        group: The group.
        flat: Its arrays.
        arch: The accelerator.
        reduction_pes: Per layer, PEs that add up one output.
        shares: Per kind of core.
        walks: Per kind.
        kind: Per core.
        records: Per kind, of its shapes.
    """
    finished, work = times(arch, shares[0].is_double, walks, kind, records)
    last = int(np.argmax(finished))
    cycles = int(finished[last])
    stage_cycles, compute_cycles = work[int(kind[last])]
    times_of = np.bincount(kind, minlength=len(walks))
    layers = [group.graph.layers[index] for index in group.layers]
    macs_needed = sum(layer.workload.macs for layer in layers if layer.workload is not None)
    macs_executed, reads, stored_bytes, busy_cycles, unused_bits = 0, 0, 0, 0, 0
    for walk, count in zip(walks, times_of.tolist(), strict=True):
        shapes = walk.shapes[: int(walk.counters[NUM_SHAPES])]
        macs_executed += count * int((shapes[:, SHAPE_STAGES] * np.prod(shapes[:, SHAPE_DIMS:], axis=1)).sum())
        reads = reads + count * walk.reads[:, MOVED_BYTES]
        stored_bytes += count * int(walk.counters[STORED_BYTES])
        busy_cycles += count * int(walk.counters[BUSY_CYCLES])
        unused_bits += count * unused_bits_of(walk)
    role, is_external = flat.read[:, ROLE], flat.read[:, PRODUCER] < 0
    w_bytes = int(np.sum(reads * ((role == WEIGHT) & is_external)))
    extras_bytes = int(np.sum(reads * ((role == EXTRA) & is_external & (flat.layer[flat.read[:, LAYER], IS_MAC] == 1))))
    all_bytes = int(np.sum(reads * is_external))
    i_bytes = all_bytes - w_bytes - extras_bytes
    spm_bytes = max(
        peak_spm_bytes(flat, share, walk, arch.levels.SPM.bank_bytes)
        for share, walk in zip(shares, walks, strict=True)
    )  # fmt: skip
    launch_cycles = arch.cores.launch_cycles
    cost = Cost(
        cycles=cycles,
        energy=group_energy(layers, flat, arch, reduction_pes, walks, times_of.tolist(), records),
        model="simulator",
        macs=macs_needed,
        utilization=macs_needed / (cycles * arch.peak_macs_per_cycle),
        compute_cycles=compute_cycles,
        noc_stall_cycles=stage_cycles - compute_cycles,
        dma_stall_cycles=cycles - launch_cycles - stage_cycles,
        overhead_cycles=launch_cycles,
        dram_bytes=(i_bytes, w_bytes, stored_bytes, extras_bytes),
        dma_busy_cycles=busy_cycles,
        dram_unused_bytes=unused_bits // 8,
    )
    return GroupCost(
        cost=cost, macs_needed=macs_needed, macs_executed=macs_executed, spm_bytes=spm_bytes,
        input_bytes=i_bytes + extras_bytes, weight_bytes=w_bytes, output_bytes=stored_bytes,
    )  # fmt: skip
