"""Random search: the baseline every other searcher is compared with."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tvm_spm.searchers.novelty import Novelty
from tvm_spm.searchers.protocol import check_scores
from tvm_spm.space.mapping_batch import MappingBatch
from tvm_spm.space.mapspace import MapSpace


class RandomSearcher:
    """Draws from the map space, without repeating itself; neither scores nor good mappings change anything."""

    def __init__(self, space: MapSpace, *, rng: Generator, start: MappingBatch | None = None) -> None:
        self._space, self._rng = space, rng
        self._novelty = Novelty(space)

    @property
    def legal_share(self) -> float:
        """Share of the mappings considered so far that were legal."""
        return self._novelty.legal_share

    @property
    def rejected(self) -> dict[str, int]:
        """How many considered mappings each reason removed."""
        return self._novelty.rejected

    def ask(self, num_mappings: int) -> MappingBatch:
        """Random legal mappings that were not asked before."""
        found = self._novelty.collect(lambda missing: self._space.sample(self._rng, missing), num_mappings)
        return self._novelty.finish(found, num_mappings)

    def tell(self, batch: MappingBatch, scores: NDArray[np.float64]) -> None:
        """Only checks that each mapping has a score."""
        check_scores(batch, scores)
