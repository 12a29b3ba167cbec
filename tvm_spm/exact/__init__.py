"""The best mapping of a space, with a proof that none is better."""

from tvm_spm.exact.search import ExactResult, exact_search

__all__ = ["ExactResult", "exact_search"]
