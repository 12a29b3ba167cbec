"""What a search minimises: energy times delay, energy, or latency."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from tvm_spm.errors import SpmError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Numbers = TypeVar("Numbers", float, "NDArray[np.float64]")

EDP, ENERGY, LATENCY = 0, 1, 2
"""Codes of the objectives in compiled code."""


def objective_value(code: int, cycles: Numbers, energy_pj: Numbers) -> Numbers:
    """One number to minimise, from cycles and pJ; of arrays, one for each. Smaller is better."""
    if code == EDP:
        return energy_pj * cycles
    if code == ENERGY:
        return energy_pj * 1.0
    return cycles * 1.0


class Objective(str, Enum):
    """What is minimised; equal to its name as text."""

    EDP = "edp"
    ENERGY = "energy"
    LATENCY = "latency"

    @classmethod
    def of(cls, name: str) -> Objective:
        """The objective of a name.

        Raises:
            SpmError: There is none of that name.
        """
        try:
            return cls(name)
        except ValueError:
            raise SpmError(f"objective {name!r}: {did_you_mean(name, [each.value for each in cls])}") from None

    @property
    def code(self) -> int:
        """Its number in compiled code."""
        return (EDP, ENERGY, LATENCY)[list(type(self)).index(self)]

    def value_of(self, cycles: Numbers, energy_pj: Numbers) -> Numbers:
        """One number to minimise: pJ x cycles, pJ or cycles; of arrays, one for each."""
        return objective_value(self.code, cycles, energy_pj)

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)
