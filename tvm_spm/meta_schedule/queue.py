"""Which mappings of a task are measured next, without anything of MetaSchedule's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_spm.errors import NoMappingError
from tvm_spm.exact import exact_search
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.searchers.evolutionary import EvolutionarySearcher
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import MappingBatch, concat, decode, encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.tuning.screen import estimate

Score = Callable[[list[Mapping]], NDArray[np.float64]]
"""Of mappings, larger is better; that of one that cannot be made is minus infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """How much goes into choosing what is measured.

    Attributes:
        population: Mappings priced by the formula per generation of the evolution.
        generations: Generations between two batches.
        pool: Best of them that are kept.
        ranked_share: So many times a batch, from the top of the pool, are made and scored by the cost model.
        explore: Share of a batch drawn at random among those.
        patience: Batches without improvement after which a task is done.
        exact_steps: How long the exact search for the first batch may take, in its own steps, so that no clock decides
            a result: some seconds at most, as long as the code of a few batches takes.
    """

    population: int = 512
    generations: int = 8
    pool: int = 512
    ranked_share: int = 4
    explore: float = 0.125
    patience: int = 3
    exact_steps: int = 2000


class MappingQueue:
    """First the default mapping and the start of the exact search, then the best of an evolution on the formula.

    Args:
        space: Where to choose.
        default: Of an untuned network.
        seed: Same seed and answers, same mappings.
        options: How much work goes into it.
    """

    def __init__(self, space: MapSpace, default: Mapping, seed: int, options: QueueOptions) -> None:
        self._case = Case(workload=space.workload, arch=space.arch, objective=Objective.LATENCY)
        self._options, self._seed = options, seed
        self._rng = np.random.default_rng([seed, 0])
        self._start = self._starting_points(default)
        self._searcher = EvolutionarySearcher(space, rng=self._rng, start=encode(self._start))
        self._pool: MappingBatch = encode([])
        self._prices: NDArray[np.float64] = np.empty(0)
        self._asked: dict[Mapping, float] = {}
        self._number, self._idle = 0, 0

    def ask(self, num_mappings: int, score: Score) -> list[Mapping]:
        """The next batch; empty when there is nothing left to gain.

        Args:
            num_mappings: At most so many.
            score: Of the cost model.
        """
        if self._idle >= self._options.patience or num_mappings < 1:
            return []
        self._number += 1
        # What is drawn depends on the seed and the number of the batch alone.
        self._rng.bit_generator.state = np.random.default_rng([self._seed, self._number]).bit_generator.state
        self._screen()
        chosen = [mapping for mapping in self._start if mapping not in self._asked][:num_mappings]
        chosen += self._ranked(num_mappings - len(chosen), score, {*self._asked, *chosen})
        self._asked.update((mapping, np.inf) for mapping in chosen)
        return chosen

    def tell(self, mappings: Sequence[Mapping], seconds: Sequence[float]) -> None:
        """Answers to a batch; infinite for failures."""
        best = min(self._asked.values(), default=np.inf)
        self._asked.update(zip(mappings, seconds, strict=True))
        self._idle = 0 if min(seconds, default=np.inf) < best else self._idle + 1

    def _starting_points(self, default: Mapping) -> list[Mapping]:
        try:
            found = exact_search(self._case, most_steps=self._options.exact_steps)
        except NoMappingError:
            return [default]
        return list(dict.fromkeys([default, found.mapping]))

    def _screen(self) -> None:
        """Some generations of evolution; the best of what they find are kept, of equal ones the earlier."""
        for _ in range(self._options.generations):
            batch = self._searcher.ask(self._options.population)
            if batch.num_mappings == 0:
                return
            prices = estimate(self._case, batch).cycles
            self._searcher.tell(batch, prices)
            merged, total = concat([self._pool, batch]), np.concatenate([self._prices, prices])
            keep = np.argsort(total, kind="stable")[: self._options.pool]
            self._pool, self._prices = merged.take(keep), total[keep]

    def _ranked(self, num_mappings: int, score: Score, known: Collection[Mapping]) -> list[Mapping]:
        """The best by the cost model of those that the formula likes best, and a few of them at random."""
        limit = num_mappings * self._options.ranked_share
        unknown = (mapping for mapping in self._unpacked() if mapping not in known)
        fresh = list(itertools.islice(unknown, limit))
        scores = score(fresh)
        order = [int(at) for at in np.argsort(-scores, kind="stable") if scores[at] > -np.inf]
        if num_mappings < 1:
            return []
        num_random = min(num_mappings - 1, round(self._options.explore * num_mappings))
        chosen = order[: num_mappings - num_random]
        rest = order[len(chosen) :]
        chosen += [rest[at] for at in self._rng.permutation(len(rest))[:num_random]]
        return [fresh[at] for at in chosen]

    def _unpacked(self) -> Iterator[Mapping]:
        return (decode(self._pool, row) for row in range(self._pool.num_mappings))
