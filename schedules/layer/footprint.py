"""Where a mapping loads and stores its operands."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_spm.mapping import Mapping
from tvm_spm.workload import REDUCTION_DIMS, Operand, Workload

LEVELS = ("cores", "dram", "spm", "rows", "cols", "rf")
"""Levels of loops, outer to inner."""

Loop = tuple[str, str]
"""Level and dim of one loop of the scheduled nest, for example ``("dram", "K")``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPositions:
    """The loops at which operands enter and leave; ``None`` means before all DRAM loops of a core.

    Attributes:
        loops: DRAM and SPM loops that iterate in a full tile, outer to inner.
        spm: Per operand, the innermost relevant DRAM loop.
        rf: Per operand, the innermost relevant loop.
    """

    loops: tuple[Loop, ...]
    spm: tuple[Loop | None, Loop | None, Loop | None]
    rf: tuple[Loop | None, Loop | None, Loop | None]

    def evicts_partial(self, level: str) -> bool:
        """Whether outputs leave ``"SPM"`` or ``"RF"`` before their last addition."""
        position = {"SPM": self.spm, "RF": self.rf}[level][Operand.O.value]
        outside = self.loops[: self.loops.index(position) + 1] if position else ()
        return any(dim in REDUCTION_DIMS for _, dim in outside)


def load_positions(workload: Workload, mapping: Mapping) -> LoadPositions:
    """Static load positions: they follow from the factors of the full tile and hold on edge tiles too."""
    dram_factors, spm_factors = mapping.dram_factors(workload.dims), mapping.spm_factors()
    dram = tuple(("dram", name) for name in mapping.dram_order if dram_factors[name] > 1)
    inner = tuple(("spm", name) for name in mapping.spm_order if spm_factors[name] > 1)

    def innermost(loops: tuple[Loop, ...], operand: Operand) -> Loop | None:
        relevant = workload.projection(operand).relevant_dims
        return next((loop for loop in reversed(loops) if loop[1] in relevant), None)

    i, w, o = Operand
    return LoadPositions(
        loops=dram + inner,
        spm=(innermost(dram, i), innermost(dram, w), innermost(dram, o)),
        rf=(innermost(dram + inner, i), innermost(dram + inner, w), innermost(dram + inner, o)),
    )
