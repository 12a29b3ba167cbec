"""What searching gives back: a mapping, its cost, and how far it may be from the best."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_spm.cost import Cost
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.units import finite, ratio

_LEAST_SHOWN = 5e-4
"""A gap below it rounds to 0.0%, which is what only an optimum has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The best mapping of one workload that a search found; every searcher gives one back.

    Attributes:
        mapping: The best mapping.
        cost: Its cost by the model the search used.
        default_cost: Cost of the untuned default mapping by the same model; None if it is not known.
        objective: What was minimised.
        lower_bound: No mapping of the searched space can be below this value of the objective.
        certified: Whether ``cost`` meets ``lower_bound``.
        num_evaluated: Mappings priced or measured, failures and those an earlier run measured included.
        num_bounded: Groups of mappings that were judged by a bound.
        space: The space the bound and the certificate speak of.
        rejected: Mappings refused, by reason.
        failures: Why measurements failed, in order.
        ended_by: What ended the search before it had a proof; empty if nothing did, or if it looks for none.
    """

    mapping: Mapping
    cost: Cost
    default_cost: Cost | None = None
    objective: Objective
    lower_bound: float
    certified: bool
    num_evaluated: int
    num_bounded: int = 0
    space: str
    rejected: tuple[tuple[str, int], ...] = ()
    failures: tuple[str, ...] = ()
    ended_by: str = ""

    @property
    def value(self) -> float:
        """The objective of the mapping."""
        return self.cost.objective(self.objective)

    @property
    def gap(self) -> float:
        """How far the result may be above the optimum: 0.05 means at most 5 %."""
        return ratio(self.value, self.lower_bound) - 1

    @property
    def gain(self) -> float | None:
        """Value of the default mapping over that of this one; above 1 is better, None if the default is not known."""
        return None if self.default_cost is None else ratio(self.default_cost.objective(self.objective), self.value)

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "mapping": self.mapping.line(),
            "cycles": self.cost.cycles,
            "energy_pj": self.cost.energy_pj,
            "edp_pj_cycles": self.cost.edp_pj_cycles,
            "utilization": self.cost.utilization,
            "bound_by": self.cost.bound_by,
            "objective": str(self.objective),
            "lower_bound": self.lower_bound,
            "gap": finite(self.gap),
            "certified": self.certified,
            "ended_by": self.ended_by,
            "num_evaluated": self.num_evaluated,
            "space": self.space,
            "gain_over_default": None if self.gain is None else finite(self.gain),
            "model": self.cost.model,
        }

    def __str__(self) -> str:
        distance = "less than 0.1%" if self.gap < _LEAST_SHOWN else f"at most {self.gap:.1%}"
        proof = "certified optimum" if self.certified else f"{distance} above the lower bound"
        ended = f"\nended by {self.ended_by} before its proof" if self.ended_by else ""
        return f"{self.mapping}\n{self.cost}\n{self.num_evaluated:,} mappings evaluated; {proof} of {self.space}{ended}"
