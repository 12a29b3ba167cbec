"""One mapping as text: its nest, what it costs, and where that goes."""

from __future__ import annotations

from pathlib import Path

from tvm_spm.arch import Arch, load_arch
from tvm_spm.mapping import Mapping
from tvm_spm.report.breakdown import explain
from tvm_spm.report.roofs import roofs_text
from tvm_spm.workload import Workload


def show_text(workload: Workload, arch: Arch | str | Path, mapping: Mapping) -> str:
    """Nest, cost, breakdown, roofline of a mapping, and roofs of all mappings.

    Args:
        workload: What runs.
        arch: An accelerator, the name of one, or the path of its file.
        mapping: How it runs.

    Raises:
        MappingError: The mapping is not legal; says which rule it breaks.
    """
    accelerator = load_arch(arch)
    breakdown = explain(workload, accelerator, mapping)
    roofs = roofs_text(workload, accelerator, breakdown.cost)
    return f"{workload}\n{accelerator}\n\n{mapping}\n\n{breakdown.cost}\n\n{breakdown}\n\n{roofs}"
