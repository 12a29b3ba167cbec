"""The least cost of a tiling over all loop orders, by the readable published model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cost_model.published.model import order_classes
from tvm_spm.arch import Arch
from tvm_spm.objective import Objective
from tvm_spm.workload import Workload


class BestCost(NamedTuple):
    """Each value may come from an order of its own."""

    min_cycles: float
    min_energy_pj: float
    min_edp: float

    def of(self, objective: str) -> float:
        return {"edp": self.min_edp, "energy": self.min_energy_pj, "latency": self.min_cycles}[objective]


def best_over_orders(workload: Workload, arch: Arch, factors: Mapping[str, Mapping[str, int]]) -> BestCost:
    orders = order_classes(workload, arch, factors)
    return BestCost(
        min_cycles=min(order.cycles for order in orders),
        min_energy_pj=min(order.energy_pj for order in orders),
        min_edp=min(order.value(Objective.EDP) for order in orders),
    )
