"""How the effort for a network is shared among its tasks: by how often each runs and what it can still gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cost_model.analytical.model import AnalyticalModel
from cost_model.bounds import lower_bound
from tvm_spm.arch import Arch
from tvm_spm.errors import NoMappingError, WorkloadError
from tvm_spm.objective import Objective
from tvm_spm.space.countable import require_countable
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

_LEAST_SHARE = 1 / 1024
"""Of a task that can gain nothing by the formula: it is looked at, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stake:
    """What all occurrences of a task take by the formula, and what they take at least.

    Attributes:
        cycles: Of the default mapping.
        energy_pj: Of the default mapping.
        least_cycles: Of any.
        least_energy_pj: Of any.
    """

    cycles: float
    energy_pj: float
    least_cycles: float
    least_energy_pj: float


def stake_of(workload: Workload, count: int, arch: Arch) -> Stake | None:
    """The stake of a task; None if it has no default mapping, or none that the formula can price.

    Args:
        workload: One occurrence.
        count: Occurrences.
        arch: Where it runs.
    """
    try:
        require_countable(workload, arch)
        default = MapSpace(workload=workload, arch=arch).default_mapping()
        cost = None if default is None else AnalyticalModel().cost(workload, arch, default)
    except (NoMappingError, WorkloadError):
        return None
    if cost is None:
        return None
    least_cycles, least_energy_pj = (
        lower_bound(workload, arch, each) for each in (Objective.LATENCY, Objective.ENERGY)
    )
    return Stake(
        cycles=float(count * cost.cycles), energy_pj=count * cost.energy_pj,
        least_cycles=count * least_cycles, least_energy_pj=count * least_energy_pj,
    )  # fmt: skip


def shares_of(stakes: Sequence[Stake | None], objective: Objective) -> list[float]:
    """What share of the effort each task gets: that of what the network can still gain by it.

    EDP of a network is a product of sums: a cycle counts with the energy of all tasks, a picojoule with all cycles.

    Args:
        stakes: Of the tasks.
        objective: Of the network.

    Returns:
        Positive shares; the sum is 1.
    """
    known = [stake for stake in stakes if stake is not None]
    cycles, energy_pj = sum(stake.cycles for stake in known), sum(stake.energy_pj for stake in known)
    per_cycle = {Objective.LATENCY: 1.0, Objective.ENERGY: 0.0}.get(objective, energy_pj)
    per_pj = {Objective.LATENCY: 0.0, Objective.ENERGY: 1.0}.get(objective, cycles)
    gains = [
        0.0 if stake is None
        else per_cycle * max(0.0, stake.cycles - stake.least_cycles)
        + per_pj * max(0.0, stake.energy_pj - stake.least_energy_pj)
        for stake in stakes
    ]  # fmt: skip
    total = sum(gains)
    shares = [max(_LEAST_SHARE, gain / total if total else 1.0) for gain in gains]
    return [share / sum(shares) for share in shares]


def trials_of(shares: Sequence[float], most: int, least: int) -> list[int]:
    """Mappings to measure per task: an even share is worth all, a smaller one fewer.

    Args:
        shares: Of the tasks.
        most: Of one task.
        least: Of one task, unless ``most`` is less.
    """
    return [min(most, max(least, round(most * len(shares) * share))) for share in shares]
