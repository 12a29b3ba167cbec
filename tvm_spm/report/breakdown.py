"""Where the cycles, bytes and energy of one mapping go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_model.simulator import Account, EventCounts, account, log
from tvm_spm.arch import Arch, load_arch
from tvm_spm.cost import Cost
from tvm_spm.mapping import Mapping
from tvm_spm.space import legality
from tvm_spm.workload import REDUCTION_DIMS, Operand, Workload

REASONS = (
    "launch", "compute", "first load", "DMA", "SPM buffer", "DRAM arbitration", "vector unit", "last store", "fill",
    "network", "RF buffer", "SPM port", "MAC pipeline", "drain",
)  # fmt: skip
"""What the PE array does or waits for.

- ``launch``: the task is configured.
- ``compute``: it works.
- ``first load``: the transfers before the first pass.
- ``log.DMA``: a double-buffered transfer still runs when the pass is done.
- ``SPM buffer``: an operand with one SPM buffer moves between two passes.
- ``DRAM arbitration``: a transfer that it waits for waits itself, for a channel that serves another core.
- ``vector unit``: a store that it waits for is held back by the element-wise operations on it.
- ``last store``: the transfers after the last pass.
- ``fill``: registers are loaded before the first step of a pass.
- ``network``: a crossing of an operand with two RF buffers is slower than the step beside it.
- ``RF buffer``: an operand with one RF buffer crosses between two steps.
- ``SPM port``: several crossings at once exceed the bytes per cycle of the SPM.
- ``MAC pipeline``: the last products of a pass leave the pipeline.
- ``drain``: the last outputs of a pass leave the registers.
"""

_MOVED = ("I", "W", "O in", "O out")

_NOTES = (
    (log.MULTIPLY, "compute", ("",)), (log.FIRST_LOAD, "first load", _MOVED), (log.BESIDE, "DMA", _MOVED),
    (log.BETWEEN, "SPM buffer", _MOVED), (log.ARBITRATION, "DRAM arbitration", ("",)),
    (log.VECTOR_UNIT, "vector unit", ("",)), (log.LAST_STORE, "last store", _MOVED), (log.FILL, "fill", ("",)),
    (log.NETWORK, "network", _MOVED), (log.REGISTERS, "RF buffer", ("I", "W", "O")), (log.PORT, "SPM port", ("",)),
    (log.PIPELINE, "MAC pipeline", ("",)), (log.DRAIN, "drain", ("",)),
)  # fmt: skip
"""Where the simulator counts each reason but the launch: a first note, and one per operand from there on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One of ``REASONS``, which operand moved meanwhile (or none), and for how many cycles."""

    reason: str
    operand: str
    cycles: int

    def __str__(self) -> str:
        return f"{self.reason} {self.operand}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceUse:
    """How busy one resource is; busy, stalled and idle cycles add up to ``cycles`` times ``count``.

    Attributes:
        resource: Its name.
        count: Equal ones, counted together.
        busy_cycles: It works.
        stalled_cycles: It has work and waits for something else.
        idle_cycles: It has nothing to do.
    """

    resource: str
    count: int
    busy_cycles: int
    stalled_cycles: int
    idle_cycles: int

    @property
    def busy_share(self) -> float:
        """Part of the time that it works, 0..1."""
        return self.busy_cycles / (self.busy_cycles + self.stalled_cycles + self.idle_cycles)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeUse:
    """PE-cycles of the core that finishes last: all PEs times all cycles.

    Attributes:
        macs: A PE multiplies.
        edge: The array works, but this PE has a smaller or no piece of an edge tile.
        unmapped: The array works, but the mapping leaves this PE out.
        stalled: The array waits.
    """

    macs: int
    edge: int
    unmapped: int
    stalled: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.macs + self.edge + self.unmapped + self.stalled


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelUse:
    """What one operand costs at one level, over all cores.

    Attributes:
        level: ``DRAM``, ``SPM``, ``NoC`` or ``RF``.
        operand: ``I``, ``W``, ``O`` or ``extras``.
        num_bytes: Read and written there, for DRAM in whole bursts; for the NoC, what crosses it.
        energy_pj: For that.
    """

    level: str
    operand: str
    num_bytes: int
    energy_pj: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """How far from the two roofs: peak MACs per cycle, and DRAM bandwidth times MACs per byte.

    Attributes:
        intensity_macs_per_byte: MACs per byte that crosses a DRAM channel.
        ridge_macs_per_byte: Below it, bandwidth is the lower roof.
        peak_macs_per_cycle: All PEs.
        peak_bytes_per_cycle: All channels that the cores can use at once, without start-up of bursts.
        achieved_macs_per_cycle: By this mapping.
        achieved_bytes_per_cycle: By this mapping.
    """

    intensity_macs_per_byte: float
    ridge_macs_per_byte: float
    peak_macs_per_cycle: int
    peak_bytes_per_cycle: float
    achieved_macs_per_cycle: float
    achieved_bytes_per_cycle: float

    @property
    def roof_macs_per_cycle(self) -> float:
        """The lower roof at this intensity."""
        return min(float(self.peak_macs_per_cycle), self.intensity_macs_per_byte * self.peak_bytes_per_cycle)

    @property
    def is_bandwidth_bound(self) -> bool:
        """Whether the lower roof is the bandwidth's."""
        return self.intensity_macs_per_byte < self.ridge_macs_per_byte

    def __str__(self) -> str:
        roof = "DRAM bandwidth" if self.is_bandwidth_bound else "PEs"
        return (
            f"{self.intensity_macs_per_byte:,.4g} MACs/B (ridge {self.ridge_macs_per_byte:,.4g}); "
            f"{self.achieved_macs_per_cycle:,.4g} of {self.roof_macs_per_cycle:,.4g} MACs/cycle under the roof of the "
            f"{roof} ({self.achieved_macs_per_cycle / self.roof_macs_per_cycle:.1%}); "
            f"DRAM {self.achieved_bytes_per_cycle:,.4g} of {self.peak_bytes_per_cycle:,.4g} B/cycle "
            f"({self.achieved_bytes_per_cycle / self.peak_bytes_per_cycle:.1%})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """A cost, taken apart.

    Attributes:
        cost: What the simulator says.
        core: The core that finishes last; ``reasons``, ``resources`` but for the DRAM channels, and ``pe`` are its own.
        num_cores: Cores in use.
        reasons: Add up to ``cost.cycles``; in the order of ``REASONS``.
        resources: DMA engine, networks, PE array, vector unit, and the DRAM channels of all cores together.
        pe: What the PEs do.
        levels: Bytes and energy per level and operand; their energy adds up to that of ``cost`` but for MACs and
            vector unit.
        roofline: Achieved and possible throughput.
        blocks: With open pages, how often a run came to a block of a bank.
        misses: Of those, how often another row was open there.
    """

    cost: Cost
    core: int
    num_cores: int
    reasons: tuple[Reason, ...]
    resources: tuple[ResourceUse, ...]
    pe: PeUse
    levels: tuple[LevelUse, ...]
    roofline: Roofline
    blocks: int = 0
    misses: int = 0

    def cycles_of(self, reason: str) -> int:
        """Cycles for one of ``REASONS``, all operands together."""
        return sum(each.cycles for each in self.reasons if each.reason == reason)

    def __str__(self) -> str:
        from tvm_spm.report.text import breakdown_text

        return breakdown_text(self)


def explain(workload: Workload, arch: Arch | str | Path, mapping: Mapping) -> Breakdown:
    """Take the cost of a mapping apart.

    Args:
        workload: What runs.
        arch: An accelerator, the name of one, or the path of its file.
        mapping: How it runs.

    Raises:
        MappingError: The mapping is not legal; says which rule it breaks.
    """
    accelerator = load_arch(arch)
    legality.require(workload, accelerator, mapping)
    return breakdown_of(workload, accelerator, mapping)


def breakdown_of(workload: Workload, arch: Arch, mapping: Mapping) -> Breakdown:
    """``explain`` for a mapping that is legal but perhaps for capacities; not checked again here."""
    run = account(workload, arch, mapping)
    own = run.notes[run.last_core]
    return Breakdown(
        cost=run.cost,
        core=run.last_core,
        num_cores=len(run.notes),
        reasons=_reasons(arch, own),
        resources=_resources(arch, run, own),
        pe=_pe_use(arch, mapping, own, run.cost.cycles),
        levels=_levels(workload, arch, mapping, run.cost, run.counts),
        roofline=_roofline(arch, run.cost),
        blocks=run.counts.blocks,
        misses=run.counts.misses,
    )


def _reasons(arch: Arch, own: NDArray[np.int64]) -> tuple[Reason, ...]:
    found = [Reason(reason="launch", operand="", cycles=arch.cores.launch_cycles)]
    for first, reason, operands in _NOTES:
        for note, operand in enumerate(operands, first):
            found.append(Reason(reason=reason, operand=operand, cycles=int(own[note, log.CYCLES])))
    return tuple(reason for reason in found if reason.cycles)


def _resources(arch: Arch, run: Account, own: NDArray[np.int64]) -> tuple[ResourceUse, ...]:
    channels, of_transfers, cycles = arch.levels.DRAM.channels, len(log.TRANSFERS), run.cost.cycles

    def sum_transfers(first: int) -> int:
        return int(own[first : first + of_transfers, log.CYCLES].sum())

    working = int(own[log.MULTIPLY, log.CYCLES])
    used = [
        ("DMA", sum_transfers(log.DMA), sum_transfers(log.WAIT)),
        *((name, int(own[log.CROSSING + at, log.CYCLES]), 0) for at, name in enumerate(log.NETWORKS)),
        ("PE array", working, cycles - working),
        ("vector unit", sum_transfers(log.VECTOR), 0),
    ]
    held = int(run.notes[:, log.CHANNEL : log.CHANNEL + of_transfers, log.CYCLES].sum())
    return (
        *(
            ResourceUse(
                resource=name, count=1, busy_cycles=busy, stalled_cycles=stalled, idle_cycles=cycles - busy - stalled
            )
            for name, busy, stalled in used
        ),
        ResourceUse(
            resource="DRAM channels", count=channels, busy_cycles=held, stalled_cycles=0,
            idle_cycles=channels * cycles - held,
        ),
    )  # fmt: skip


def _pe_use(arch: Arch, mapping: Mapping, own: NDArray[np.int64], cycles: int) -> PeUse:
    working, macs = int(own[log.MULTIPLY, log.CYCLES]), int(own[log.MULTIPLY, log.AMOUNT])
    mapped = mapping.rows.product() * mapping.cols.product()
    return PeUse(
        macs=macs,
        edge=mapped * working - macs,
        unmapped=(arch.num_pes - mapped) * working,
        stalled=arch.num_pes * (cycles - working),
    )


def _levels(workload: Workload, arch: Arch, mapping: Mapping, cost: Cost, counts: EventCounts) -> tuple[LevelUse, ...]:
    """Every access that ``Cost.energy`` counts, by operand."""
    rf, spm, dram, noc = arch.levels.RF, arch.levels.SPM, arch.levels.DRAM, arch.noc
    macs, word = workload.macs, arch.word_bits
    reduction_pes = math.prod(mapping.rows[name] * mapping.cols[name] for name in REDUCTION_DIMS)
    found = []
    for operand in Operand:
        at, bits, name = operand.value, workload.projection(operand).elem_bits, operand.name
        final = counts.final if operand is Operand.O else 0
        hops = counts.left * (reduction_pes - 1) if operand is Operand.O else 0
        touched = macs * (2 if operand is Operand.O else 1)
        crossed, delivered, moved = counts.crossed[at], counts.delivered[at], counts.moved[at]
        dram_pj = (moved * bits + final * workload.out_bits + counts.unused_bits[at]) / word * dram.access_pj
        noc_pj = (crossed * noc.elem_pj + delivered * noc.delivery_pj + hops * noc.reduction_hop_pj) * bits / word
        rf_pj = (touched * rf.access_pj + delivered * rf.fill_pj) * bits / word
        spm_elems = crossed + moved + final
        for level, num_bytes, energy_pj in (
            ("DRAM", cost.dram_bytes[at], dram_pj),
            ("SPM", spm_elems * bits // 8, spm_elems * bits / word * spm.access_pj),
            ("NoC", crossed * bits // 8, noc_pj),
            ("RF", (touched + delivered) * bits // 8, rf_pj),
        ):
            found.append(LevelUse(level=level, operand=name, num_bytes=num_bytes, energy_pj=energy_pj))
    extra_bits = sum(n * extra.elem_bits for n, extra in zip(counts.extras, workload.epilogue.extras, strict=True))
    extra_bits += counts.unused_bits[3]
    found.append(
        LevelUse(
            level="DRAM", operand="extras", num_bytes=cost.dram_bytes[3], energy_pj=extra_bits / word * dram.access_pj
        )
    )
    order = ("DRAM", "SPM", "NoC", "RF")
    return tuple(sorted(found, key=lambda use: order.index(use.level)))


def _roofline(arch: Arch, cost: Cost) -> Roofline:
    peak_bytes = min(arch.levels.DRAM.channels, arch.cores.count) * arch.dma_bytes_per_cycle
    num_bytes = sum(cost.dram_bytes)
    return Roofline(
        intensity_macs_per_byte=cost.macs / num_bytes,
        ridge_macs_per_byte=arch.peak_macs_per_cycle / peak_bytes,
        peak_macs_per_cycle=arch.peak_macs_per_cycle,
        peak_bytes_per_cycle=peak_bytes,
        achieved_macs_per_cycle=cost.macs / cost.cycles,
        achieved_bytes_per_cycle=num_bytes / cost.cycles,
    )
