"""What no mapping of a layer can be faster than: how long each resource needs for what nobody can spare it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cost_model.bounds import touched_elems
from tvm_spm.arch import Arch
from tvm_spm.cost import dma_channels
from tvm_spm.units import bits_to_bytes, ceil_div
from tvm_spm.workload import Operand, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """The least time of one resource.

    Attributes:
        resource: ``PEs``, ``DRAM``, ``NoC I``, ``NoC W``, ``NoC O``, ``SPM port`` or ``vector unit``.
        cycles: Before it has done its part, on all cores at once, the launch included.
        macs: Of the layer.
        peak_macs_per_cycle: Of all PEs.
    """

    resource: str
    cycles: int
    macs: int
    peak_macs_per_cycle: int

    @property
    def utilization(self) -> float:
        """Share of the peak multiply-accumulate rate at this roof, 0..1."""
        return self.macs / (self.cycles * self.peak_macs_per_cycle)

    def reached_by(self, cycles: int) -> float:
        """How near so many cycles come to it, 0..1."""
        return self.cycles / cycles

    def text(self, cycles: int) -> str:
        """The roof, and how near so many cycles come to it."""
        return (
            f"{self.resource}: at least {self.cycles:,} cycles, utilization at most {self.utilization:.1%}; "
            f"{self.reached_by(cycles):.1%} of it reached"
        )


def roofs(workload: Workload, arch: Arch) -> tuple[Roof, ...]:
    """Those of all resources that have something to do, the longest first.

    Each multiply-accumulate is done once; each touched element crosses a DRAM channel once, as it is stored there, and
    its network once, through the port of the SPM; the epilogue is done once per output. All cores share evenly.

    Args:
        workload: What runs.
        arch: The accelerator.
    """
    cores, dims = arch.cores.count, workload.dims
    elems = {operand: touched_elems(workload.projection(operand), dims) for operand in Operand}
    crossed_bits = sum(elems[operand] * workload.projection(operand).elem_bits for operand in Operand)
    moved = (workload.I, workload.W, workload.final_projection(), *workload.epilogue.extras)
    moved_bytes = sum(bits_to_bytes(touched_elems(each, dims) * each.elem_bits) for each in moved)
    num_ops = elems[Operand.O] * workload.epilogue.num_ops_per_elem
    needed = {
        "PEs": ceil_div(workload.macs, arch.peak_macs_per_cycle),
        "DRAM": math.ceil(moved_bytes / (arch.dma_bytes_per_cycle * dma_channels(arch))),
        **{
            f"NoC {operand.name}": math.ceil(elems[operand] / (arch.noc.elems_per_cycle * cores))
            for operand in Operand
        },
        "vector unit": math.ceil(num_ops / (arch.vector.ops_per_cycle * cores)),
    }  # fmt: skip
    port = arch.levels.SPM.bytes_per_cycle
    if port is not None:
        needed["SPM port"] = math.ceil(crossed_bits / 8 / (port * cores))
    found = [
        Roof(
            resource=resource,
            cycles=arch.cores.launch_cycles + cycles,
            macs=workload.macs,
            peak_macs_per_cycle=arch.peak_macs_per_cycle,
        )
        for resource, cycles in needed.items()
        if cycles
    ]
    return tuple(sorted(found, key=lambda roof: -roof.cycles))


def roof_of(workload: Workload, arch: Arch) -> Roof:
    """The one that is met first."""
    return roofs(workload, arch)[0]
