"""How near a cost comes to what no mapping of its layer can be faster than, as text and as plain data."""

from __future__ import annotations

from cost_model.roofs import roof_of, roofs
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost
from tvm_spm.report.text import table
from tvm_spm.workload import Workload


def roof_columns(workload: Workload, arch: Arch, cost: Cost) -> dict[str, object]:
    """Whose roof is met first, its cycles, and which share of it is reached."""
    roof = roof_of(workload, arch)
    return {"roof": roof.resource, "roof_cycles": roof.cycles, "of_roof": roof.reached_by(cost.cycles)}


def roof_text(workload: Workload, arch: Arch, cost: Cost) -> str:
    """The roof that is met first."""
    return f"roof of all mappings: {roof_of(workload, arch).text(cost.cycles)}"


def roofs_text(workload: Workload, arch: Arch, cost: Cost) -> str:
    """All of them, the first the one that is met first."""
    rows = [
        (each.resource, f"{each.cycles:,}", f"{each.utilization:.1%}", f"{each.reached_by(cost.cycles):.1%}")
        for each in roofs(workload, arch)
    ]
    return table(("roof of all mappings", "cycles", "utilization", "reached"), rows)
