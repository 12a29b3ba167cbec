"""The published execution model of Dave et al., reproduced to the last digit, including what is wrong with it.

It exists so that the tables of the paper can be reproduced; ``analytical/model.py`` is the model to optimise with.
Known errors of the published model, kept on purpose:

- No fill and no drain: the first load and the last store cost nothing.
- DMA counts a row as contiguous only if the tile spans the padded row, also where a stride never touches the last
  column; padding is stored in DRAM and transferred.
- RF double buffering is assumed by the cycles but not paid for in RF capacity.
- Four RF accesses per MAC whatever the mapping; RF fills and the SPM side of the DMA cost no energy.
- An output kept in the RFs pays one direction of SPM and NoC energy, any other output always pays both.
- Spatial reduction is serial over all groups of PEs.

Source: Dave, Kim, Avancha, Lee, Shrivastava: dMazeRunner, ACM TECS 18(5s), 2019, and the authors' released tool (2022
state); differs in nothing that the tool prints.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from cost_model.published.nest import (
    NUM_LOOPS,
    OPERAND_ORDER,
    Factors,
    PublishedMachine,
    PublishedNest,
    published_factors,
    published_machine,
    published_nest,
)
from tvm_spm.arch import Arch
from tvm_spm.cost import Energy
from tvm_spm.objective import Objective
from tvm_spm.workload import Operand, Workload

PerOperand = tuple[int, ...]
"""One integer per operand, in the order ``I W O``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderClass:
    """All loop orders with one pair of reuse vectors, and what they cost.

    ``reuse_*`` is how many consecutive iterations of the level use the same tile of ``I W O``. ``dram_energy_pj``
    includes what leaves or enters RFs only between SPM passes.
    """

    reuse_dram: PerOperand
    reuse_spm: PerOperand
    cycles: int
    energy_pj: int
    spm_pass_cycles: int
    spm_pass_energy_pj: float
    dram_energy_pj: float
    energy: Energy

    def value(self, objective: Objective) -> float:
        """Of an objective: pJ x cycles, pJ or cycles."""
        return objective.value_of(float(self.cycles), float(self.energy_pj))


@dataclass(frozen=True, slots=True, kw_only=True)
class TilingFacts:
    """What the published model derives from the factors alone; tuples are in the order ``I W O``."""

    pes_used: int
    num_rf_passes: int
    num_spm_passes: int
    rf_pass_cycles: int
    noc_cycles: PerOperand
    reduction_cycles: int
    num_bursts: PerOperand
    burst_elems: PerOperand
    dma_cycles: PerOperand
    rf_elems: PerOperand
    output_pes: int
    output_spm_passes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the layer."""
        return self.num_spm_passes * self.num_rf_passes * self.rf_pass_cycles * self.pes_used


def order_classes(workload: Workload, arch: Arch, factors: Mapping[str, Mapping[str, int]]) -> tuple[OrderClass, ...]:
    """Every pair of reuse vectors at DRAM and SPM that some loop order has, with its cost.

    Args:
        workload: Convolution, depthwise convolution or matrix product.
        arch: One core with a unified SPM.
        factors: Trip counts at ``DRAM``, ``SPM``, ``RF`` and ``spatial`` by dim name; 1 where not named. Capacity
            is not checked.

    Raises:
        MappingError: A name is unknown or the factors of a dim do not multiply to its extent.
        WorkloadError: The published model cannot describe the workload.
        ArchError: The published model cannot describe the accelerator.
    """
    nest, machine = published_nest(workload), published_machine(arch)
    table = published_factors(nest, factors)
    facts = tiling_facts(nest, machine, table)
    pairs = itertools.product(reuse_vectors(nest, table[0]), reuse_vectors(nest, table[1]))
    return tuple(_order_class(machine, facts, dram, spm) for dram, spm in pairs)


def reuse_vectors(nest: PublishedNest, factors: tuple[int, ...]) -> tuple[PerOperand, ...]:
    """Distinct reuse vectors over all orders of one level's loops.

    Every loop is irrelevant to at most one operand. So one operand has reuse: the product of an innermost run of loops
    irrelevant to it, and the run is a proper part of them only if some other loop ends it.
    """
    loops = [loop for loop in range(NUM_LOOPS) if factors[loop] > 1]
    vectors: dict[PerOperand, None] = {}
    for operand in OPERAND_ORDER:
        free = [loop for loop in loops if not nest.depends(operand, loop)]
        for length in range(1 if len(free) < len(loops) else max(1, len(free)), len(free) + 1):
            for run in itertools.combinations(free, length):
                reuse = math.prod(factors[loop] for loop in run)
                vectors[tuple(reuse if each is operand else 1 for each in Operand)] = None
    needed_by_all = any(all(nest.depends(operand, loop) for operand in Operand) for loop in loops)
    if needed_by_all or not loops:
        vectors[(1, 1, 1)] = None
    return tuple(vectors)


def tiling_facts(nest: PublishedNest, machine: PublishedMachine, factors: Factors) -> TilingFacts:
    """Everything that does not depend on loop order."""
    dram, spm, rf, spatial = factors
    array_tile = tuple(a * b for a, b in zip(rf, spatial, strict=True))
    spm_tile = tuple(a * b for a, b in zip(array_tile, spm, strict=True))
    num_bursts, burst_elems = zip(*(_bursts(nest, operand, spm_tile) for operand in Operand), strict=True)
    used = [nest.depends(Operand.O, loop) for loop in range(NUM_LOOPS)]
    output_pes = math.prod(p for p, is_used in zip(spatial, used, strict=True) if is_used)
    reducing_pes = math.prod(spatial) // output_pes
    return TilingFacts(
        pes_used=math.prod(spatial),
        num_rf_passes=math.prod(spm),
        num_spm_passes=math.prod(dram),
        rf_pass_cycles=math.prod(rf),
        noc_cycles=tuple(nest.footprint_elems(operand, array_tile) for operand in Operand),
        reduction_cycles=nest.footprint_elems(Operand.O, rf) * (reducing_pes - 1) * output_pes,
        num_bursts=num_bursts,
        burst_elems=burst_elems,
        dma_cycles=tuple(n * machine.burst_cycles(elems) for n, elems in zip(num_bursts, burst_elems, strict=True)),
        rf_elems=tuple(nest.footprint_elems(operand, rf) for operand in Operand),
        output_pes=output_pes,
        output_spm_passes=math.prod(d for d, is_used in zip(dram, used, strict=True) if is_used),
    )


def _bursts(nest: PublishedNest, operand: Operand, tile: tuple[int, ...]) -> tuple[int, int]:
    """Number and elements of the contiguous runs of a tile: up to and including the first axis not fully covered."""
    axes = nest.axes(operand)
    elems, outer = 1, len(axes)
    while outer > 0:
        outer -= 1
        span = axes[outer].tile_elems(tile)
        elems *= span
        if span != axes[outer].extent:
            break
    return math.prod(axis.tile_elems(tile) for axis in axes[:outer]), elems


def _order_class(
    machine: PublishedMachine, facts: TilingFacts, reuse_dram: PerOperand, reuse_spm: PerOperand
) -> OrderClass:
    # An operand that no loop of the SPM level changes stays in the RFs across SPM passes.
    kept = tuple(reuse_spm[o.value] == facts.num_rf_passes and reuse_dram[o.value] > 1 for o in Operand)
    spm_pass_cycles = _spm_pass_cycles(facts, reuse_spm, kept)
    cycles = _layer_cycles(facts, reuse_dram, reuse_spm, kept, spm_pass_cycles)
    return _with_energy(machine, facts, reuse_dram, reuse_spm, kept, spm_pass_cycles, cycles)


def _spm_pass_cycles(facts: TilingFacts, reuse: PerOperand, kept: tuple[bool, ...]) -> int:
    """Operand networks work in parallel with each other and with compute; partial sums wait for both."""
    communication: dict[int, int] = {}
    stall: dict[int, int] = {}
    for operand in Operand:
        if not kept[operand.value]:
            r = reuse[operand.value]
            communication[r] = max(communication.get(r, 0), facts.noc_cycles[operand.value])
            if operand is Operand.O:
                stall[r] = facts.rf_pass_cycles + facts.reduction_cycles
    cycles, level = facts.num_rf_passes * facts.rf_pass_cycles, facts.rf_pass_cycles
    if stall.get(1, 0) > 0:
        cycles, level = 0, 0
    for r in sorted(communication):
        if communication[r] > level:
            cycles += (communication[r] - level) * facts.num_rf_passes // r
            level = communication[r]
        cycles += stall.get(r, 0) * facts.num_rf_passes // r
    return cycles


def _layer_cycles(
    facts: TilingFacts, reuse_dram: PerOperand, reuse_spm: PerOperand, kept: tuple[bool, ...], spm_pass_cycles: int
) -> int:
    """DMA and compute overlap perfectly; the transfer of a reused operand falls into a single SPM pass."""
    every_pass = 0
    for operand in Operand:
        if reuse_dram[operand.value] == 1:
            every_pass += facts.dma_cycles[operand.value] * (2 if operand is Operand.O else 1)
    base = max(every_pass, spm_pass_cycles)
    total = base * facts.num_spm_passes
    for operand in Operand:
        r = reuse_dram[operand.value]
        if r == 1:
            continue
        transfer = facts.dma_cycles[operand.value]
        first_compute = last_compute = spm_pass_cycles
        if kept[operand.value]:
            always_sent = [facts.noc_cycles[o.value] for o in Operand if not kept[o.value] and reuse_spm[o.value] == 1]
            last_compute += max(0, facts.noc_cycles[operand.value] - max(always_sent, default=0))
            if operand is Operand.O:
                first_compute += facts.reduction_cycles + facts.rf_pass_cycles
        last_transfer = every_pass + (transfer if operand is Operand.O else 0)
        extra = max(0, max(every_pass + transfer, first_compute) - base) + max(
            0, max(last_transfer, last_compute) - base
        )
        total += facts.num_spm_passes // r * extra
    return total


def _with_energy(
    machine: PublishedMachine,
    facts: TilingFacts,
    reuse_dram: PerOperand,
    reuse_spm: PerOperand,
    kept: tuple[bool, ...],
    spm_pass_cycles: int,
    cycles: int,
) -> OrderClass:
    """Energy by part; the order of the additions is that of the authors' tool."""
    mac_pj, rf_pj = facts.macs * machine.mac_pj, 4 * facts.macs * machine.rf_pj
    compute_pj = mac_pj + rf_pj
    noc_pj = spm_pj = transfer_pj = spm_pass_pj = dram_pj = 0.0
    for operand in OPERAND_ORDER:
        index, is_output = operand.value, operand is Operand.O
        pes = facts.output_pes if is_output else facts.pes_used
        noc_visit_pj = facts.rf_elems[index] * pes * machine.noc_pj
        spm_visit_pj = facts.noc_cycles[index] * machine.spm_pj
        reduction_cycles = facts.reduction_cycles if is_output else 0
        reduction_pj = reduction_cycles * (3 * machine.rf_pj + machine.noc_pj + machine.mac_pj)
        fetches = facts.num_spm_passes // reuse_dram[index]
        reloads = fetches - facts.output_spm_passes if is_output and fetches > 1 else 0
        fetch_pj = facts.num_bursts[index] * facts.burst_elems[index] * machine.dram_pj
        dram_pj += fetch_pj * (fetches + reloads)
        transfer_pj += fetch_pj * (fetches + reloads)
        if kept[index]:
            directions, visits = 1, fetches
            dram_pj += (noc_visit_pj + spm_visit_pj + reduction_pj) * visits
        else:
            directions, visits = 2 if is_output else 1, facts.num_rf_passes // reuse_spm[index]
            spm_pass_pj += visits * (directions * (noc_visit_pj + spm_visit_pj) + reduction_pj)
            visits *= facts.num_spm_passes
        noc_pj += directions * noc_visit_pj * visits + reduction_cycles * visits * machine.noc_pj
        spm_pj += directions * spm_visit_pj * visits
        rf_pj += reduction_cycles * visits * 3 * machine.rf_pj
        mac_pj += reduction_cycles * visits * machine.mac_pj
    return OrderClass(
        reuse_dram=reuse_dram,
        reuse_spm=reuse_spm,
        cycles=cycles,
        energy_pj=round(compute_pj + facts.num_spm_passes * spm_pass_pj + dram_pj),
        spm_pass_cycles=spm_pass_cycles,
        spm_pass_energy_pj=spm_pass_pj,
        dram_energy_pj=dram_pj,
        energy=Energy(mac_pj=mac_pj, rf_pj=rf_pj, noc_pj=noc_pj, spm_pj=spm_pj, dram_pj=transfer_pj),
    )
