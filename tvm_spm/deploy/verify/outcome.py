"""The outcome of comparing numbers with those of a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tvm_spm.errors import ModelError

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One element that is not what it should be.

    Attributes:
        output: Which output, counted from 0.
        index: Element within it.
        expected: Value of the reference.
        actual: Value of the scheduled code.
    """

    output: int
    index: tuple[int, ...]
    expected: float
    actual: float

    def __str__(self) -> str:
        return f"output {self.output} at {list(self.index)}: expected {self.expected!r}, got {self.actual!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Outcome of one comparison.

    Attributes:
        passed: Every element is within its tolerance of the reference.
        max_abs_error: Largest difference found; infinite if only one of two values is finite.
        tolerance: Largest difference allowed anywhere; 0 for integers and for float sums that are exact.
        first_difference: The first element, in storage order, that is not within tolerance.
        reason: Why nothing could be compared: the code cannot be compiled, or crashed.
        layer: Of a network, the first layer that computes something else; None if unknown.
        num_elems: Elements of all outputs.
        num_not_finite: Of them, those for which the reference has an infinity or no number; the code must too.
    """

    passed: bool
    max_abs_error: float
    tolerance: float
    first_difference: Difference | None = None
    reason: str | None = None
    layer: str | None = None
    num_elems: int = 0
    num_not_finite: int = 0

    @classmethod
    def failed(cls, reason: str) -> Verification:
        """Nothing could be compared."""
        return cls(passed=False, max_abs_error=float("inf"), tolerance=0.0, reason=reason)

    @property
    def refusal(self) -> str:
        """Why code is not used: it could not be compared, or it computes something else."""
        return self.reason if self.reason is not None else f"its code does not compute the same: {self}"

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON, which has no infinity."""
        return {
            "passed": self.passed,
            "max_abs_error": self.max_abs_error if np.isfinite(self.max_abs_error) else None,
            "tolerance": self.tolerance if np.isfinite(self.tolerance) else None,
            "first_difference": None if self.first_difference is None else str(self.first_difference),
            "first_differing_layer": self.layer,
            "reason": self.reason,
            "num_not_finite": self.num_not_finite,
        }

    def __str__(self) -> str:
        where = f"; the first layer that differs is {self.layer}" if self.layer is not None else ""
        if self.reason is not None:
            return f"{self.reason}{where}"
        if self.first_difference is None:
            alike = ""
            if self.num_not_finite:
                alike = f"; {self.num_not_finite:,} of {self.num_elems:,} elements are not finite, in both alike"
            return f"equal within {self.tolerance:.3g} (largest difference {self.max_abs_error:.3g}){alike}"
        return (
            f"{self.first_difference}; tolerance {self.tolerance:.3g}, "
            f"largest difference {self.max_abs_error:.3g}{where}"
        )


def compare(
    expected: Sequence[Array],
    actual: Sequence[Array],
    *,
    num_roundings: int = 0,
    tolerances: Sequence[NDArray[np.float64]] | None = None,
) -> Verification:
    """Compare outputs element by element; integers must be equal, floats within the rounding of their sums.

    Args:
        expected: Outputs of the reference.
        actual: As many outputs of the same shapes.
        num_roundings: Roundings on the way to one element; each may err by half an epsilon of the largest output.
        tolerances: Instead, what every element may differ by.

    Raises:
        ModelError: The numbers or shapes of the outputs differ.
    """
    if [array.shape for array in expected] != [array.shape for array in actual]:
        raise ModelError(
            f"outputs have shapes {[a.shape for a in actual]}, the reference has {[e.shape for e in expected]}"
        )
    largest, allowed, first, num_not_finite = 0.0, 0.0, None, 0
    for position, (want, got) in enumerate(zip(expected, actual, strict=True)):
        tolerance = np.float64(_tolerance(want, num_roundings)) if tolerances is None else tolerances[position]
        error = abs_error(want, got)
        num_not_finite += int(want.size - np.isfinite(want.astype(np.float64)).sum())
        largest = max(largest, float(error.max(initial=0.0)))
        allowed = max(allowed, float(np.max(tolerance, initial=0.0)))
        wrong = error > tolerance
        if first is None and wrong.any():
            at = np.unravel_index(int(np.argmax(wrong)), want.shape)
            first = Difference(
                output=position, index=tuple(int(i) for i in at), expected=float(want[at]), actual=float(got[at])
            )
    return Verification(
        passed=first is None, max_abs_error=largest, tolerance=allowed, first_difference=first,
        num_elems=sum(array.size for array in expected), num_not_finite=num_not_finite,
    )  # fmt: skip


def is_float(dtype: str) -> bool:
    """Whether numbers of a type are rounded."""
    return "float" in dtype


def epsilon(dtype: str) -> float:
    """Distance from 1 to the next number of a float type."""
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def _tolerance(want: Array, num_roundings: int) -> float:
    if not is_float(str(want.dtype)):
        return 0.0
    wide = np.abs(want.astype(np.float64))
    finite = wide[np.isfinite(wide)]
    return num_roundings * epsilon(str(want.dtype)) * max(1.0, float(finite.max(initial=0.0)))


def abs_error(want: Array, got: Array) -> NDArray[np.float64]:
    """Differences; two equal infinities or two NaNs do not differ, one of a kind differs by infinity."""
    wide_want, wide_got = want.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(wide_want - wide_got)
    same = (wide_want == wide_got) | (np.isnan(wide_want) & np.isnan(wide_got))
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))
