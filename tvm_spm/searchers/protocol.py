"""What every searcher does, and how one is made."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tvm_spm.space.mapping_batch import MappingBatch
from tvm_spm.space.mapspace import MapSpace


class Searcher(Protocol):
    """Proposes mappings of one map space and learns from their scores."""

    @property
    def legal_share(self) -> float:
        """Share of the mappings considered so far that were legal."""
        ...

    @property
    def rejected(self) -> dict[str, int]:
        """How many considered mappings each reason removed."""
        ...

    def ask(self, num_mappings: int) -> MappingBatch:
        """Legal mappings that were not asked before; fewer, in the end none, when the space runs out."""
        ...

    def tell(self, batch: MappingBatch, scores: NDArray[np.float64]) -> None:
        """Scores of mappings, smaller is better; one that is not finite is ignored."""
        ...


class MakeSearcher(Protocol):
    """A class of searchers, or whatever else makes one."""

    def __call__(self, space: MapSpace, *, rng: Generator, start: MappingBatch | None = None) -> Searcher:
        """A searcher over one space.

        Args:
            space: Where to search.
            rng: Source of every random decision.
            start: Mappings known to be good; what is done with them is up to the searcher.
        """
        ...


def check_scores(batch: MappingBatch, scores: NDArray[np.float64]) -> None:
    """Refuse scores that do not belong to a batch.

    Raises:
        ValueError: The numbers of mappings and scores differ.
    """
    if scores.shape != (batch.num_mappings,):
        raise ValueError(f"{batch.num_mappings} mappings with scores of shape {scores.shape}: one score per mapping")
