"""Where the cycles, bytes and energy of one mapping go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from cost_model.simulator import EventCounts, simulate_events
from tvm_spm.arch import Arch, load_arch
from tvm_spm.cost import Cost
from tvm_spm.mapping import Mapping
from tvm_spm.report.nest import Nest
from tvm_spm.report.steps import NETWORKS
from tvm_spm.report.walk import Accelerator, CoreAccount
from tvm_spm.workload import REDUCTION_DIMS, Operand, Workload

REASONS = (
    "launch", "compute", "first load", "DMA", "SPM buffer", "DRAM arbitration", "vector unit", "last store", "fill",
    "network", "RF buffer", "SPM port", "MAC pipeline", "drain",
)  # fmt: skip
"""What the PE array does or waits for.

- ``launch``: the task is configured.
- ``compute``: it works.
- ``first load``: the transfers before the first pass.
- ``DMA``: a double-buffered transfer still runs when the pass is done.
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

_MOVED = ("", "I", "W", "O in", "O out", "O")


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
    """

    cost: Cost
    core: int
    num_cores: int
    reasons: tuple[Reason, ...]
    resources: tuple[ResourceUse, ...]
    pe: PeUse
    levels: tuple[LevelUse, ...]
    roofline: Roofline

    def cycles_of(self, reason: str) -> int:
        """Cycles for one of ``REASONS``, all operands together."""
        return sum(each.cycles for each in self.reasons if each.reason == reason)

    def __str__(self) -> str:
        from tvm_spm.report.text import breakdown_text

        return breakdown_text(self)


def explain(workload: Workload, arch: Arch | str | Path, mapping: Mapping) -> Breakdown:
    """Take the cost of a mapping apart.

    Where cores share DRAM channels, every pass of every core is walked (about 10,000 in a second); otherwise equal ones
    are counted.

    Args:
        workload: What runs.
        arch: An accelerator, the name of one, or the path of its file.
        mapping: How it runs.

    Raises:
        MappingError: The mapping is not legal; says which rule it breaks.
    """
    accelerator = load_arch(arch)
    return explain_nest(Nest.of(workload, accelerator, mapping))


def explain_nest(nest: Nest) -> Breakdown:
    """``explain`` for a nest."""
    workload, arch, mapping = nest.workload, nest.arch, nest.mapping
    cost, counts = simulate_events(workload, arch, mapping)
    accounts = Accelerator(nest).account()
    last = max(accounts, key=lambda account: account.cycles)
    if (last.cycles, last.reasons.total()) != (cost.cycles, cost.cycles):
        raise AssertionError(f"the walk takes {last.cycles} cycles, the simulator says {cost.cycles}")
    reasons = sorted(last.reasons.items(), key=lambda item: (REASONS.index(item[0][0]), _MOVED.index(item[0][1])))
    return Breakdown(
        cost=cost,
        core=last.core,
        num_cores=len(accounts),
        reasons=tuple(Reason(reason=name, operand=operand, cycles=n) for (name, operand), n in reasons),
        resources=_resources(arch, accounts, last, cost.cycles),
        pe=_pe_use(nest, last),
        levels=_levels(workload, arch, mapping, cost, counts),
        roofline=_roofline(arch, cost),
    )


def _resources(arch: Arch, accounts: list[CoreAccount], last: CoreAccount, cycles: int) -> tuple[ResourceUse, ...]:
    channels = arch.levels.DRAM.channels
    stalled = {"DMA": last.waiting_cycles, "PE array": cycles - last.busy["PE array"]}
    own = [
        ResourceUse(
            resource=name, count=1, busy_cycles=last.busy[name], stalled_cycles=stalled.get(name, 0),
            idle_cycles=cycles - last.busy[name] - stalled.get(name, 0),
        )
        for name in ("DMA", *NETWORKS, "PE array", "vector unit")
    ]  # fmt: skip
    held = sum(account.channel_cycles for account in accounts)
    shared = ResourceUse(
        resource="DRAM channels", count=channels, busy_cycles=held, stalled_cycles=0,
        idle_cycles=channels * cycles - held,
    )  # fmt: skip
    return (*own, shared)


def _pe_use(nest: Nest, last: CoreAccount) -> PeUse:
    working = last.busy["PE array"]
    mapped = nest.mapping.rows.product() * nest.mapping.cols.product()
    return PeUse(
        macs=last.macs,
        edge=mapped * working - last.macs,
        unmapped=(nest.arch.num_pes - mapped) * working,
        stalled=nest.arch.num_pes * (last.cycles - working),
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


__all__ = [
    "REASONS", "Breakdown", "LevelUse", "PeUse", "Reason", "ResourceUse", "Roofline", "explain", "explain_nest",
]  # fmt: skip
