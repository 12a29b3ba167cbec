"""The mappings of one task that are expected to be best."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from numpy.random import Generator

from tvm_spm.mapping import Mapping
from tvm_spm.searchers import MakeSearcher, Searcher
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import MappingBatch, concat, decode
from tvm_spm.space.mapspace import MapSpace, fingerprints
from tvm_spm.tuning.guided.guide import Expected, Floats, Guide

LITTLE = 1e-4
"""Of the logarithm of the objective: less is no step forward."""

LIMIT = 512
"""Mappings that are kept by what is expected of them."""

STRANGERS = 64
"""Drawn at random besides: the formula has no say in them."""

PARENTS = 128
"""Best ones from which evolution starts."""

REHEARSED = 256
"""Mappings of a generation that the simulator prices,"""

MOST_REHEARSALS = 32
"""at most so many generations,"""

PATIENCE = 6
"""and after so many that found nothing better, no more."""

ALIKE = 12
"""Decimals of what a mapping promises; two that agree in all are not told apart, and one of them is measured."""

EXPLORED = 4
"""Every so manieth mapping that is chosen is drawn at random, once something is learned that may be wrong."""


class Pool:
    """Candidates of one task; what is expected of them follows the guide of the moment.

    Attributes:
        legal_share: Of the mappings that were considered last.
        rejected: Mappings considered so far that were not legal, by reason.
    """

    def __init__(self, space: MapSpace, case: Case, make_searcher: MakeSearcher) -> None:
        self._space, self._case, self._make_searcher = space, case, make_searcher
        self._batch = _nothing(space)
        self._expected = Expected(np.empty(0), np.empty(0))
        self.legal_share = 1.0
        self.rejected: dict[str, int] = {}

    def refresh(self, guide: Guide, known: MappingBatch, rng: Generator, *, generations: int, population: int) -> None:
        """Look for mappings that the guide expects much of.

        Args:
            guide: What is known of the machine.
            known: Mappings that were measured, or found otherwise; evolution starts from them too.
            rng: Of everything random.
            generations: Of evolution.
            population: Mappings of each.
        """
        start = concat([known, self._batch.take(slice(0, PARENTS))])
        searcher = self._make_searcher(self._space, rng=rng, start=start)
        found, expected = [self._batch], [guide.expect(self._case, self._batch, screens=True)]
        for _ in range(generations):
            batch = searcher.ask(population)
            if batch.num_mappings == 0:
                break
            found.append(batch)
            expected.append(guide.expect(self._case, batch, screens=True))
            searcher.tell(batch, expected[-1].mean)
        self._note(searcher)
        every, of_every = concat(found), _joined(expected)
        if guide.rehearses:
            every, of_every = self._rehearsed(guide, concat([start, _best(every, of_every, PARENTS)[0]]), rng)
        strangers = self._space.sample(rng, STRANGERS)
        strangers = strangers.take(self._space.check(strangers) == 0)
        kept, of_kept = _best(every, of_every, LIMIT)
        self._batch = concat([kept, strangers])
        self._expected = _joined([of_kept, guide.expect(self._case, strangers)])

    def gains(self, best: float, tried: Collection[Mapping]) -> tuple[MappingBatch, Floats]:
        """Candidates that were not tried, and by how much each is expected to lower the logarithm of the objective.

        Args:
            best: Logarithm of the best objective measured.
            tried: Mappings that were tried.
        """
        new = np.array([decode(self._batch, row) not in tried for row in range(self._batch.num_mappings)], dtype=bool)
        mean, deviation = self._expected.mean[new], self._expected.deviation[new]
        ahead = best - mean
        # only a run with a measurer needs it, and every run would wait for its import
        from scipy.special import ndtr

        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(deviation > 0, ahead / deviation, np.sign(ahead) * np.inf)
        density = np.exp(-0.5 * np.square(np.where(np.isfinite(z), z, 1e3))) / np.sqrt(2 * np.pi)
        gains = np.where(deviation > 0, ahead * ndtr(z) + deviation * density, np.maximum(ahead, 0.0))
        return self._batch.take(new), gains

    def choose(
        self,
        best: float,
        tried: Collection[Mapping],
        number: int,
        rng: Generator,
        *,
        explores: bool,
        repeats: bool = False,
    ) -> tuple[list[Mapping], float]:
        """Mappings to measure next, those first that promise most, and what the first one promises.

        Args:
            best: Logarithm of the best objective measured.
            tried: Mappings that were tried.
            number: How many; fewer if there are no more.
            rng: Draws those of which nothing is promised.
            explores: Whether any are drawn.
            repeats: Whether all are measured that promise the same: measurements cost little, and see more than what
                promises.
        """
        batch, gains = self.gains(best, tried)
        order = np.argsort(-gains, kind="stable")
        left = rng.permutation(len(gains)).tolist()
        chosen: list[Mapping] = []
        promised: set[float] = set()
        for row in order:
            if len(chosen) >= number:
                break
            # what cannot be told from a mapping that is chosen teaches nothing more
            promise = round(float(gains[row]), ALIKE)
            if promise in promised and not repeats:
                continue
            promised.add(promise)
            pick = left.pop() if explores and len(chosen) % EXPLORED == EXPLORED - 1 else row
            mapping = decode(batch, int(pick))
            if mapping not in chosen:
                chosen.append(mapping)
        return chosen, float(gains[order[0]]) if len(order) else 0.0

    def _rehearsed(self, guide: Guide, start: MappingBatch, rng: Generator) -> tuple[MappingBatch, Expected]:
        """Mappings that evolve by what the simulator says of the machine as it is known, and what is expected of them.

        Args:
            guide: What is known of the machine.
            start: Where evolution starts.
            rng: Of everything random.
        """
        searcher = self._make_searcher(self._space, rng=rng, start=start)
        found, expected = [start.take(slice(0, 0))], [guide.expect(self._case, start.take(slice(0, 0)))]
        best, idle = math.inf, 0
        for _ in range(MOST_REHEARSALS):
            batch = searcher.ask(REHEARSED)
            if batch.num_mappings == 0 or idle >= PATIENCE:
                break
            found.append(batch)
            expected.append(guide.expect(self._case, batch))
            searcher.tell(batch, expected[-1].mean)
            least = float(expected[-1].mean.min())
            idle = 0 if least < best - LITTLE else idle + 1
            best = min(best, least)
        self._note(searcher)
        return concat(found), _joined(expected)

    def _note(self, searcher: Searcher) -> None:
        """Count what was not legal."""
        self.legal_share = searcher.legal_share
        for reason, count in searcher.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count


def _best(batch: MappingBatch, expected: Expected, number: int) -> tuple[MappingBatch, Expected]:
    """So many mappings that are expected to be best, each once."""
    _, first = np.unique(fingerprints(batch), return_index=True)
    order = first[np.argsort(expected.mean[first], kind="stable")][:number]
    return batch.take(order), Expected(expected.mean[order], expected.deviation[order])


def _joined(parts: list[Expected]) -> Expected:
    return Expected(np.concatenate([each.mean for each in parts]), np.concatenate([each.deviation for each in parts]))


def _nothing(space: MapSpace) -> MappingBatch:
    return space.sample(np.random.default_rng(0), 0)
