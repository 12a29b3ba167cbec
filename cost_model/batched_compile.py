"""How the batched model is compiled: one entry point for Python, everything else reachable from it only."""

from __future__ import annotations

from numba import njit

compiled = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False)
"""A function that allocates nothing and that only compiled code calls: no wrappers, no reference counts."""

inlined = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False, forceinline=True)
"""The same for a small function, pasted into its callers."""
