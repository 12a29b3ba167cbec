"""The only place that converts or pretty-prints bytes, cycles, energy and time."""

from __future__ import annotations

import math
import reprlib

KIB = 1024

MOST_DIGITS = 18
"""Whole numbers of so many digits fit 64 bits; texts with more are not even converted."""


def ceil_div(a: int, b: int) -> int:
    """Smallest integer not below ``a / b``, for ``b > 0``."""
    return -(-a // b)


def bits_to_bytes(bits: int) -> int:
    """Whole bytes that hold ``bits``."""
    return ceil_div(bits, 8)


def ratio(above: float, below: float) -> float:
    """``above / below`` of amounts that may be 0: equal ones are 1, and anything is infinitely more than nothing."""
    if below:
        return above / below
    return math.inf if above else 1.0


def finite(value: float) -> float | None:
    """The value for JSON, which has no infinity: ``None`` stands for one."""
    return value if math.isfinite(value) else None


def parse_whole(text: str) -> int | None:
    """The number that ASCII digits write, at most ``MOST_DIGITS`` of them; ``None`` for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None


class _Shown(reprlib.Repr):
    """``repr`` cut to a length and a depth; Python refuses to print whole numbers of more than 4,300 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        if abs(x) < 10**MOST_DIGITS:
            return repr(x)
        return f"{'-' if x < 0 else ''}(2**{abs(x).bit_length() - 1} or more)"


shown = _Shown().repr
"""``repr`` of any value for a message, however long, deep or large the value is."""


def format_bytes(num_bytes: int) -> str:
    """Exact bytes with thousands separators, for inequalities: ``296,960 B``."""
    return f"{num_bytes:,} B"


def format_capacity(num_bytes: float) -> str:
    """Rounded size for tables: ``128 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < KIB or unit == "GiB":
            return f"{num_bytes:.4g} {unit}"
        num_bytes /= KIB
    raise AssertionError("unreachable")


def format_si(value: float, unit: str) -> str:
    """Engineering notation for tables: ``1.23 Mcycles``."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def format_energy(energy_pj: float) -> str:
    """Energy for tables: ``3.1 mJ``."""
    for factor, unit in ((1e12, "J"), (1e9, "mJ"), (1e6, "uJ"), (1e3, "nJ")):
        if abs(energy_pj) >= factor:
            return f"{energy_pj / factor:.3g} {unit}"
    return f"{energy_pj:.3g} pJ"


def format_seconds(seconds: float) -> str:
    """Duration for progress and tables: ``2 m 05 s``, ``44.9 ms``, ``3.78 us``."""
    if 0 < seconds < 1e-3:
        return f"{1e6 * seconds:.3g} us"
    if 0 < seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} m {int(seconds % 60):02d} s"
