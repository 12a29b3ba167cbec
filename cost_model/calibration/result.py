"""What a fit found: numbers beside the declared ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm_spm.arch import Arch
from tvm_spm.arch_text import toml_of


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedNumber:
    """One number of the accelerator.

    Attributes:
        path: Of its field, as in the file.
        meaning: In words.
        declared: What the file says; None if it leaves the number out.
        value: Fitted; as declared if no measurement sees it.
        low: Two standard errors below; None if no measurement sees it.
        high: Two standard errors above.
    """

    path: str
    meaning: str
    declared: float | None
    value: float | None
    low: float | None
    high: float | None

    @property
    def is_changed(self) -> bool:
        """Whether measurements contradict the file: the declared value is outside of what they allow."""
        if self.low is None or self.high is None or self.value is None:
            return False
        if self.declared is None:
            return True
        is_near = abs(self.value - self.declared) <= 0.01 * max(abs(self.declared), 1e-9)
        return not is_near and not self.low <= self.declared <= self.high

    def __str__(self) -> str:
        declared = "nothing" if self.declared is None else f"{self.declared:.4g}"
        if self.low is None or self.high is None:
            return f"{self.path}: no measurement sees it; the file says {declared}"
        return f"{self.path} is {self.value:.4g} ({self.low:.4g} to {self.high:.4g}), the file says {declared}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedArch:
    """An accelerator with numbers that were fitted to measurements.

    Attributes:
        arch: The fitted accelerator; the declared one if ``numbers`` is empty.
        numbers: What was fitted; empty if the declared numbers were kept.
        num_measured: Measurements it rests on.
        spread_before: Robust standard deviation of ``log(formula / measured)`` with the declared numbers.
        spread_after: The same with the fitted ones.
        reason: Why the declared numbers were kept; empty otherwise, or if they were exact.
    """

    arch: Arch
    numbers: tuple[FittedNumber, ...]
    num_measured: int
    spread_before: float
    spread_after: float
    reason: str

    def toml(self) -> str:
        """The accelerator as a file; fitted numbers name their source."""
        fitted = {number.path: number for number in self.numbers if number.low is not None}
        sources = dict(self.arch.sources)
        for path, number in fitted.items():
            if number.value != number.declared:
                declared = "left out" if number.declared is None else f"{number.declared:.6g}"
                between = f"{number.low:.4g} to {number.high:.4g}"
                sources[path] = f"fitted to {self.num_measured} measurements: {between}; {declared} before"
        return toml_of(replace(self.arch, sources=tuple(sorted(sources.items()))))

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON: numbers by path, declared and fitted, with their bounds."""
        return {
            "numbers": {
                number.path: {
                    "declared": number.declared,
                    "fitted": number.value,
                    "low": number.low,
                    "high": number.high,
                }
                for number in self.numbers
            },
            "num_measured": self.num_measured,
            "spread_before": self.spread_before,
            "spread_after": self.spread_after,
            "reason": self.reason,
        }

    def __str__(self) -> str:
        if not self.numbers:
            return f"the accelerator's numbers are kept: {self.reason}" if self.reason else "the numbers are exact"
        changed = [str(number) for number in self.numbers if number.is_changed]
        head = (
            f"calibrated with {self.num_measured} measurements: the formula is off by "
            f"{100 * self.spread_after:.2g} % (before {100 * self.spread_before:.2g} %)"
        )
        return "; ".join([head, *changed])
