"""How much work goes into one task, and who proposes mappings."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_spm.objective import Objective
from tvm_spm.searchers import MakeSearcher, searcher_named
from tvm_spm.searchers.evolutionary import EvolutionarySearcher


@dataclass(frozen=True, slots=True, kw_only=True)
class TunerOptions:
    """How much work goes into one task.

    Attributes:
        trials: Mappings measured on the simulator.
        batch: Mappings measured between two refits of the learned model.
        population: Mappings screened by the analytical model per generation.
        generations: Generations between two measured batches.
        patience: Measured batches without improvement after which the task is done.
        min_to_rank: Measurements before the learned model has a say.
        exact_steps: How long the exact search may take, counted in its own steps, so that no clock decides a result.
        start_steps: The same where a measurer decides, and what the search finds is only a start.
        latency_steps: As ``exact_steps``, for least latency, whose proofs mostly take longer than they are worth.
    """

    trials: int = 64
    batch: int = 16
    population: int = 512
    generations: int = 8
    patience: int = 3
    min_to_rank: int = 16
    exact_steps: int = 2000
    start_steps: int = 300
    latency_steps: int = 300

    def steps_for(self, objective: Objective) -> int:
        """Of the exact search."""
        return self.latency_steps if objective is Objective.LATENCY else self.exact_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposer:
    """Who proposes the mappings that are screened.

    Attributes:
        name: As users write it, and as it stands in a log.
        make: Makes the searcher.
        starts_exact: Whether what the exact search finds is tried first, and the last if it is proved.
    """

    name: str
    make: MakeSearcher
    starts_exact: bool = False

    @classmethod
    def of(cls, searcher: str | MakeSearcher) -> Proposer:
        """The proposer of a searcher, or of a name: ``exact`` or that of a searcher.

        Raises:
            SpmError: Unknown name; suggests the nearest.
        """
        if not isinstance(searcher, str):
            return cls(name=getattr(searcher, "__name__", type(searcher).__name__), make=searcher)
        return EXACT if searcher == EXACT.name else cls(name=searcher, make=searcher_named(searcher))


EXACT = Proposer(name="exact", make=EvolutionarySearcher, starts_exact=True)
"""Evolution from what the exact search finds, where that is not proved."""
