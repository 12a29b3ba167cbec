"""The mapping of a stated space with the least objective under the analytical model, with a proof for that space."""

from tvm_spm.exact.search import ExactResult, exact_search

__all__ = ["ExactResult", "exact_search"]
