"""Why a mapping is not legal, as data."""

from __future__ import annotations

from dataclasses import dataclass

REASONS = (
    "cores", "core-reduction", "idle-core", "rows", "cols", "idle-pe", "tile", "order", "spm-capacity", "rf-capacity",
    "spill", "constraint",
)  # fmt: skip
"""Every reason, in the order of checking; the batched check returns 1 + the index of the first, 0 if legal.

All but ``constraint``, which a user asks for, follow from the workload and the accelerator.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """One broken rule: ``needed`` should have been at most ``available`` (in ``unit``).

    Attributes:
        reason: One of ``REASONS``.
        subject: What is refused, for example ``tile does not fit SPM`` or ``cores on dim OY``.
        needed: Left side of the broken inequality.
        available: Right side.
        unit: Of both sides: ``B``, ``PEs``, ``cores``, ``elements`` or ``iterations``.
        terms: Named parts that add up to ``needed``.
        nearest: The nearest choice that would be legal, or an empty text if there is none.
    """

    reason: str
    subject: str
    needed: int
    available: int
    unit: str
    terms: tuple[tuple[str, int], ...] = ()
    nearest: str = ""

    def __str__(self) -> str:
        parts = f" ({' + '.join(f'{name} {value:,}' for name, value in self.terms)})" if self.terms else ""
        over = self.needed - self.available
        text = (
            f"{self.subject}: needs {self.needed:,} {self.unit}{parts}, "
            f"has {self.available:,} {self.unit}, over by {over:,} {self.unit}"
        )
        return f"{text}; {self.nearest}" if self.nearest else text
