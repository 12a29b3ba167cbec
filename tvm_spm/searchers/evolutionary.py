"""Evolution: the best mappings so far are crossed and changed, a few strangers join each time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tvm_spm.searchers.novelty import Novelty
from tvm_spm.searchers.protocol import check_scores
from tvm_spm.space.mapping_batch import MappingBatch, concat
from tvm_spm.space.mapspace import MapSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionOptions:
    """How evolution proceeds.

    Attributes:
        population: Best mappings kept as parents.
        min_parents: Scored mappings before evolution starts; random ones until then.
        tournament: Parents drawn for each place; the best of them gets it.
        crossed_share: Share of children with two parents.
        stranger_share: Share of each answer drawn at random.
    """

    population: int = 128
    min_parents: int = 8
    tournament: int = 2
    crossed_share: float = 0.3
    stranger_share: float = 0.05


class EvolutionarySearcher:
    """Tournament selection with elitism: parents stay until enough better mappings are told."""

    def __init__(
        self,
        space: MapSpace,
        *,
        rng: Generator,
        start: MappingBatch | None = None,
        options: EvolutionOptions = EvolutionOptions(),
    ) -> None:
        """A searcher over one space.

        Args:
            space: Where to search.
            rng: Source of every random decision.
            start: Mappings to ask first; illegal ones are left out.
            options: How evolution proceeds.
        """
        self._space, self._rng, self._options = space, rng, options
        self._novelty = Novelty(space)
        self._waiting = self._novelty.nothing() if start is None else start
        self._parents = self._novelty.nothing()
        self._scores: NDArray[np.float64] = np.empty(0)

    @property
    def legal_share(self) -> float:
        """Share of the mappings considered so far that were legal."""
        return self._novelty.legal_share

    @property
    def rejected(self) -> dict[str, int]:
        """How many considered mappings each reason removed."""
        return self._novelty.rejected

    def ask(self, num_mappings: int) -> MappingBatch:
        """The start, then random mappings, then children of the best told so far."""
        first = self._waiting.take(slice(0, num_mappings))
        self._waiting = self._waiting.take(slice(num_mappings, None))
        found = self._novelty.admit(first, num_mappings)
        if self._parents.num_mappings >= self._options.min_parents:
            num_children = round((num_mappings - found.num_mappings) * (1 - self._options.stranger_share))
            found = concat([found, self._novelty.collect(self._breed, num_children)])
        missing = num_mappings - found.num_mappings
        strangers = self._novelty.collect(lambda count: self._space.sample(self._rng, count), missing)
        return self._novelty.finish(concat([found, strangers]), num_mappings)

    def tell(self, batch: MappingBatch, scores: NDArray[np.float64]) -> None:
        """Let scored mappings compete for a place among the parents; of equal ones the earlier stays."""
        check_scores(batch, scores)
        usable = np.isfinite(scores)
        total = np.concatenate([self._scores, scores[usable]])
        merged = concat([self._parents, batch.take(usable)])
        best = np.argsort(total, kind="stable")[: self._options.population]
        self._parents, self._scores = merged.take(best), total[best]

    def _breed(self, num_children: int) -> MappingBatch:
        crossed = round(num_children * self._options.crossed_share)
        children = self._space.mutate(self._parents.take(self._pick(num_children - crossed)), self._rng)
        if crossed == 0:
            return children
        mothers, fathers = (self._parents.take(self._pick(crossed)) for _ in range(2))
        return concat([children, self._space.cross(mothers, fathers, self._rng)])

    def _pick(self, num_parents: int) -> NDArray[np.int64]:
        """Parents are sorted, so the smallest index wins a tournament."""
        drawn = self._rng.integers(0, self._parents.num_mappings, size=(num_parents, self._options.tournament))
        winners: NDArray[np.int64] = drawn.min(axis=1)
        return winners
