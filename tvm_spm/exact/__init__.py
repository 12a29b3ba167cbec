"""The mapping of a stated space with the least objective under the analytical model, with a proof for that space.

``exact_search`` is given a ``Case`` and gives back a ``SearchResult``: the mapping, the lower bound, and the space
the bound speaks of. Perfect factors: ``spm_tiles`` and ``array_tiles`` list tiles with floors under their costs,
``join`` pairs them, best bound first, ``finish`` prices what is left. ``balanced`` does the same for any factors. The
winner is priced again by ``cost_model.analytical``; a difference is an error.
"""

from tvm_spm.exact.search import exact_search

__all__ = ["exact_search"]
