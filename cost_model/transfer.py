"""The rule of a transfer (``tvm_spm.transfer``), compiled once for every engine that is."""

from __future__ import annotations

from tvm_spm.jit import lean
from tvm_spm.transfer import transfer as _transfer

transfer = lean(_transfer)
"""(cycles, bits) of a box: ``(elems, bursts, elem_bits, burst_bits, startup_cycles, bytes_per_cycle)``."""

__all__ = ["transfer"]
