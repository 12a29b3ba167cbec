"""What a mapping costs, and the protocols of everything that can say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.workload import VectorWork, Workload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tvm_spm.space.mapping_batch import MappingBatch


def dma_channels(arch: Arch) -> int:
    """How many transfers run at once at most: each holds a DRAM channel and the DMA engine of its core."""
    return min(arch.levels.DRAM.channels, arch.cores.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy by where it is spent, in pJ."""

    mac_pj: float = 0.0
    rf_pj: float = 0.0
    noc_pj: float = 0.0
    spm_pj: float = 0.0
    dram_pj: float = 0.0
    vector_pj: float = 0.0

    @property
    def total_pj(self) -> float:
        """Sum of all parts."""
        return self.mac_pj + self.rf_pj + self.noc_pj + self.spm_pj + self.dram_pj + self.vector_pj


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cycles and energy of one task, which model said so, and where they go.

    ``compute_cycles``, ``noc_stall_cycles``, ``dma_stall_cycles`` and ``overhead_cycles`` are those of the core that
    finishes last and add up to ``cycles``. DRAM bytes are summed over cores, in the order ``I W O extras``;
    they are moved in whole bursts, and ``dram_unused_bytes`` of them belong to no tile. ``dma_busy_cycles`` are summed
    over cores too, whose transfers share ``dma_channels`` channels.
    """

    cycles: int
    energy: Energy
    model: str
    macs: int
    utilization: float
    compute_cycles: int
    noc_stall_cycles: int
    dma_stall_cycles: int
    overhead_cycles: int
    dram_bytes: tuple[int, int, int, int]
    dma_busy_cycles: int
    dram_unused_bytes: int = 0
    dma_channels: int = 1

    @property
    def energy_pj(self) -> float:
        """Total energy."""
        return self.energy.total_pj

    @property
    def edp_pj_cycles(self) -> float:
        """Energy times delay."""
        return self.energy_pj * self.cycles

    @property
    def bound_by(self) -> str:
        """The resource that takes the largest share of the cycles.

        A wait for the networks that the DMA outlasts is the DMA's: faster networks would only wait for it.
        """
        shares = {"compute": self.compute_cycles, "NoC": self.noc_stall_cycles, "DMA": self.dma_stall_cycles}
        largest = max(shares, key=lambda name: shares[name])
        on_array_cycles = self.compute_cycles + self.noc_stall_cycles
        return "DMA" if largest == "NoC" and self.dma_busy_cycles > on_array_cycles * self.dma_channels else largest

    def objective(self, name: str) -> float:
        """``edp``, ``energy`` or ``latency`` as one number, smaller is better."""
        return Objective.of(name).value_of(self.cycles, self.energy_pj)

    def __str__(self) -> str:
        return (
            f"{self.cycles:,} cycles, {self.energy_pj:.6g} pJ, EDP {self.edp_pj_cycles:.6g} pJ x cycles "
            f"({self.model}); "
            f"utilization {self.utilization:.1%}, bound by {self.bound_by}"
        )


class CostModel(Protocol):
    """Anything that prices a legal mapping."""

    def cost(self, workload: Workload, arch: Arch, mapping: Mapping) -> Cost:
        """Cycles and energy of a legal mapping."""
        ...

    def vector_cost(self, work: VectorWork, arch: Arch) -> Cost:
        """Cycles and energy of work on the vector unit."""
        ...


class Ranker(Protocol):
    """Anything that learns to order the mappings of one task; its scores are not cycles."""

    def fit(self, batch: MappingBatch, scores: NDArray[np.float64]) -> None:
        """Learn from measured objective values, smaller is better; replaces what was learnt before."""
        ...

    def rank(self, batch: MappingBatch) -> NDArray[np.int64]:
        """Indices of the mappings, best first; of equal ones the earlier first."""
        ...
