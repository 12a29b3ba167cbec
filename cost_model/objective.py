"""The objective's value, for compiled code (see ``tvm_spm.objective``)."""

from __future__ import annotations

from tvm_spm.jit import small
from tvm_spm.objective import objective_value as _objective_value

objective_value = small(_objective_value)
"""Of ``(code, cycles, energy_pj)``, smaller is better."""

__all__ = ["objective_value"]
