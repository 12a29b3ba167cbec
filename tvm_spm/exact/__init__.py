"""The mapping of a stated space with the least objective under the analytical model, with a proof for that space."""

from tvm_spm.exact.search import exact_search

__all__ = ["exact_search"]
