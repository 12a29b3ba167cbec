"""A guard at run time: what the simulator measures is what the analytical model says, where both must be equal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cost_model.analytical.model import BatchCost
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost
from tvm_spm.errors import SpmError
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Workload

ENERGY_TOLERANCE = 1e-9
"""Relative: both models add the same terms, in another order."""


class DisagreementError(SpmError):
    """The simulator and the analytical model differ where they must not, so at least one of them is wrong."""


def check_agreement(
    workload: Workload, arch: Arch, mappings: Sequence[Mapping], simulated: Sequence[Cost], estimated: BatchCost
) -> None:
    """Compare measured trials with the analytical model; cycles only where no cores share a DRAM channel.

    With open pages the analytical model counts no waits for rows, so there the simulator may not say less.

    Args:
        workload: What runs.
        arch: Where.
        mappings: How, one per trial.
        simulated: What the simulator measured.
        estimated: What the analytical model says of the same mappings.

    Raises:
        DisagreementError: Names the first mapping that differs and both numbers.
    """
    channels, waits = arch.levels.DRAM.channels, arch.levels.DRAM.pages is not None
    must = "They must be equal, but for cycles that wait for rows of DRAM" if waits else "They must be equal"
    for mapping, cost, cycles, energy_pj in zip(
        mappings, simulated, estimated.cycles.tolist(), estimated.energy_pj.tolist(), strict=True
    ):
        num_cores = mapping.cores.product()
        differing = []
        if num_cores <= channels and (cost.cycles < cycles if waits else cost.cycles != cycles):
            differing.append(f"{cost.cycles:,} cycles by the simulator, {cycles:,} by the analytical model")
        if not math.isclose(cost.energy_pj, energy_pj, rel_tol=ENERGY_TOLERANCE):
            differing.append(f"{cost.energy_pj!r} pJ by the simulator, {energy_pj!r} pJ by the analytical model")
        if differing:
            raise DisagreementError(
                f"{workload} on {arch.name}: {'; '.join(differing)}. {must} (cores: {num_cores}, DRAM "
                f"channels: {channels}), so at least one is wrong and no result is given. Please report this mapping: "
                f"{mapping.line()}"
            )
