"""The best screened mappings so far, and which of them to measure next."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from cost_model.learned import XGBoostRanker
from tvm_spm.cost import Ranker
from tvm_spm.mapping import Mapping
from tvm_spm.searchers import Searcher
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import MappingBatch, concat, decode
from tvm_spm.tuning.options import TunerOptions
from tvm_spm.tuning.screen import estimate
from tvm_spm.tuning.search_path import SearchPath

LIMIT = 512
"""Screened mappings that are kept."""


class Candidates:
    """Screened by the analytical model, ranked by the learned one."""

    def __init__(self, case: Case, options: TunerOptions, seed: int) -> None:
        self._case, self._options = case, options
        self._ranker: Ranker = XGBoostRanker(
            case.workload, case.arch, objective=case.objective, estimate=partial(estimate, case), seed=seed
        )  # fmt: skip
        self._batch: MappingBatch | None = None
        self._scores: NDArray[np.float64] = np.empty(0)

    def screen(self, searcher: Searcher) -> None:
        """Ask for a few generations and keep the best of them; of equal ones the earlier stays."""
        for _ in range(self._options.generations):
            batch = searcher.ask(self._options.population)
            if batch.num_mappings == 0:
                return
            scores = self._case.objective.value_of(*estimate(self._case, batch))
            searcher.tell(batch, scores)
            merged = batch if self._batch is None else concat([self._batch, batch])
            total = np.concatenate([self._scores, scores])
            keep = np.argsort(total, kind="stable")[:LIMIT]
            self._batch, self._scores = merged.take(keep), total[keep]

    def choose(self, path: SearchPath, rng: np.random.Generator) -> list[Mapping]:
        """The next batch to measure: the best ranked, then a few at random."""
        if self._batch is None:
            return []
        options = self._options
        order = np.arange(self._batch.num_mappings)
        num_random = 0
        measured, values = path.measured()
        if len(values) >= options.min_to_rank:
            self._ranker.fit(measured, np.array(values))
            order = np.asarray(self._ranker.rank(self._batch))
            num_random = min(options.batch - 1, round(options.explore * options.batch))
        shuffled = rng.permutation(order)
        chosen: list[Mapping] = []
        for source, limit in ((order, options.batch - num_random), (shuffled, options.batch)):
            for row in source:
                if len(chosen) >= limit:
                    break
                mapping = decode(self._batch, int(row))
                if mapping not in path.trials and mapping not in chosen:
                    chosen.append(mapping)
        return chosen
