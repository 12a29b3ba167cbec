"""What every searcher does; one searcher per file."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tvm_spm.space.mapping_batch import MappingBatch


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


def check_scores(batch: MappingBatch, scores: NDArray[np.float64]) -> None:
    """Refuse scores that do not belong to a batch.

    Raises:
        ValueError: The numbers of mappings and scores differ.
    """
    if scores.shape != (batch.num_mappings,):
        raise ValueError(f"{batch.num_mappings} mappings with scores of shape {scores.shape}: one score per mapping")
