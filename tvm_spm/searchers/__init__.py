"""Who proposes mappings, one searcher per file; a searcher is passed as a value, and a name stands for one of these.

``protocol`` says what a searcher is: asked for mappings of a space, told what they cost. It never sees a cost model.
``random`` is the baseline, ``evolutionary`` crosses and changes the best so far, ``novelty`` keeps proposals legal
and new.
"""

from __future__ import annotations

from tvm_spm.errors import SpmError, did_you_mean
from tvm_spm.searchers.evolutionary import EvolutionarySearcher
from tvm_spm.searchers.protocol import MakeSearcher, Searcher, check_scores
from tvm_spm.searchers.random import RandomSearcher
from tvm_spm.units import shown

SEARCHERS: dict[str, MakeSearcher] = {"evolutionary": EvolutionarySearcher, "random": RandomSearcher}
"""By the name that users write."""


def searcher_named(name: str) -> MakeSearcher:
    """The searcher that a name stands for.

    Raises:
        SpmError: Unknown name; suggests the nearest.
    """
    if name not in SEARCHERS:
        raise SpmError(f"unknown searcher {shown(name)}: {did_you_mean(name, SEARCHERS)}")
    return SEARCHERS[name]


__all__ = ["SEARCHERS", "MakeSearcher", "Searcher", "check_scores", "searcher_named"]
