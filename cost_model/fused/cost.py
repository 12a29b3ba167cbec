"""Cost of a fused group: the simulator of groups."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from cost_model.fused.energy import group_energy
from cost_model.fused.flat import EXTRA, IS_MAC, LAYER, PRODUCER, ROLE, WEIGHT, FlatGroup, Ints, flatten
from cost_model.fused.kinds import kinds_of
from cost_model.fused.passes import CYCLES, MAC_CYCLES, RECORD_FIELDS, pass_problem, pass_records
from cost_model.fused.probe import ALL_CHUNKS, PROBE_FIELDS, STAGES, Beyond, walk_parts
from cost_model.fused.queues import Orders, finish_times
from cost_model.fused.state import (
    BUSY_CYCLES,
    MOVED_BYTES,
    NUM_SHAPES,
    NUM_STAGE_LOADS,
    NUM_STAGES,
    PEAK_BYTES,
    SHAPE,
    SHAPE_DIMS,
    SHAPE_LAYER,
    SHAPE_STAGES,
    STORED_BYTES,
    VECTOR_CYCLES,
    CorePart,
    Walk,
    Work,
    empty_room,
    empty_walk,
    machine_of,
    most_stages,
    parts_of,
    unused_bits_of,
)
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost, dma_channels
from tvm_spm.group import Group, GroupMapping
from tvm_spm.space.mapping_batch import encode
from tvm_spm.workload import REDUCTION_DIMS


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


def group_cost(group: Group, arch: Arch, mapping: GroupMapping) -> GroupCost:
    """Cost of a legal mapping of a group, from the events of DMA, NoC, PE array and vector unit on every core.

    Args:
        group: Consecutive layers.
        arch: The accelerator.
        mapping: Legal for ``group`` on ``arch``; not checked again here.
    """
    flat = flatten(group)
    return price(group, flat, arch, group_work(group, flat, arch, mapping))


def group_work(group: Group, flat: FlatGroup, arch: Arch, mapping: GroupMapping) -> Work:
    """What all cores do for a legal mapping of a group."""
    parts, kind = kinds_of(flat, parts_of(mapping, group.sink_shape))
    walks = walk_kinds(flat, arch, parts)
    reduction_pes = [
        1 if inner is None else prod(inner.rows[name] * inner.cols[name] for name in REDUCTION_DIMS)
        for inner in mapping.inner
    ]
    records = [stage_records(group, arch, mapping, walk) for walk in walks]
    return Work(reduction_pes, walks, records, kind, double=mapping.double)


def walk_kinds(flat: FlatGroup, arch: Arch, parts: CorePart) -> list[Walk]:
    """What each row of ``parts`` does."""
    return [walk_part(flat, arch, parts.row(number)) for number in range(len(parts.chunk))]


def walk_part(flat: FlatGroup, arch: Arch, part: CorePart) -> Walk:
    """What one core does, given as the only row."""
    walk = empty_walk(flat, most_stages(flat, part), 64 * flat.num_layers + 1024)
    room = empty_room(flat, int(part.num_tiles().prod()) if part.kept.any() else 0)
    beyond = Beyond(np.zeros(1, np.int64), np.full(part.tile.shape, 2, np.int64))
    found = np.zeros((1, PROBE_FIELDS), np.int64)
    walk_parts(flat, machine_of(arch), part, beyond, ALL_CHUNKS, walk, room, found)
    if found[0, STAGES] < 0:
        raise RuntimeError("more kinds of stages than expected")
    return walk


def stage_records(group: Group, arch: Arch, mapping: GroupMapping, walk: Walk) -> Ints:
    """Record of the array's pass per shape of a core's stages."""
    shapes = walk.shapes[: int(walk.counters[NUM_SHAPES])]
    records = np.zeros((len(shapes), RECORD_FIELDS), np.int64)
    for local, inner in enumerate(mapping.inner):
        own = np.flatnonzero(shapes[:, SHAPE_LAYER] == local)
        if len(own):
            workload = group.graph.layers[group.layers[local]].workload
            assert workload is not None
            assert inner is not None
            dims = np.ascontiguousarray(shapes[own, SHAPE_DIMS:])
            which = np.zeros(len(own), np.int64)
            records[own] = pass_records(pass_problem(workload, arch), encode([inner]), which, dims)
    return records


def orders_of(walk: Walk, record: Ints) -> tuple[Orders, int, int]:
    """What a core does in order, cycles of all its stages, and those of MACs and the vector unit."""
    stages = walk.stages[: int(walk.counters[NUM_STAGES])]
    passes = np.vstack([record[:, [CYCLES, MAC_CYCLES]], np.zeros((1, 2), np.int64)])[stages[:, SHAPE]]
    cycles = passes[:, 0] + stages[:, VECTOR_CYCLES]
    orders = Orders(stages, walk.loads[: int(walk.counters[NUM_STAGE_LOADS])], cycles)
    return orders, int(cycles.sum()), int(passes[:, 1].sum() + stages[:, VECTOR_CYCLES].sum())


def price(group: Group, flat: FlatGroup, arch: Arch, work: Work) -> GroupCost:
    """Put together what every kind of core does.

    Args:
        group: The group.
        flat: Its arrays.
        arch: The accelerator.
        work: Of all cores.
    """
    kinds = [orders_of(walk, record) for walk, record in zip(work.walks, work.records, strict=True)]
    finished = finish_times(arch, [orders for orders, _, _ in kinds], work.kind, double=work.double)
    last = int(np.argmax(finished))
    cycles = int(finished[last])
    _, stage_cycles, compute_cycles = kinds[int(work.kind[last])]
    layers = [group.graph.layers[index] for index in group.layers]
    macs_needed = sum(layer.workload.macs for layer in layers if layer.workload is not None)
    macs_executed, stored_bytes, busy_cycles, unused_bits = 0, 0, 0, 0
    reads = np.zeros(len(flat.read), np.int64)
    for walk, count in zip(work.walks, work.num_cores, strict=True):
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
    spm_bytes = max(int(walk.counters[PEAK_BYTES]) for walk in work.walks)
    launch_cycles = arch.cores.launch_cycles
    cost = Cost(
        cycles=cycles,
        energy=group_energy(layers, flat, arch, work),
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
        dma_channels=dma_channels(arch),
    )
    return GroupCost(
        cost=cost, macs_needed=macs_needed, macs_executed=macs_executed, spm_bytes=spm_bytes,
        input_bytes=i_bytes + extras_bytes, weight_bytes=w_bytes, output_bytes=stored_bytes,
    )  # fmt: skip
