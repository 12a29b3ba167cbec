"""A titled table, with how its numbers are printed and what a reader has to know."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

_FORMATS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("EDP pJ", lambda value: f"{value:.6e}"),
    ("loss", lambda value: f"{value:.2%}"),
    ("reduction", lambda value: f"{value:,.0f}x"),
    ("ratio", lambda value: f"{value:.4f}"),
    ("seconds", lambda value: f"{value:.2f}"),
    ("tilings", lambda value: f"{value:,.0f}"),
    ("priced", lambda value: f"{value:,.0f}"),
    ("cycles", lambda value: f"{value:,.0f}"),
    ("energy pJ", lambda value: f"{value:,.0f}"),
    (" EDP", lambda value: f"{value:.2f}x"),
    (" time", lambda value: f"{value:.2f}x"),
)
"""Print format of a numeric column by a part of its name; the first that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTable:
    """One table.

    Attributes:
        title: What the table shows, without a number of ours.
        frame: Its numbers, unrounded; a missing one is NaN.
        notes: Sentences printed below it.
    """

    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = pd.DataFrame({name: _column(name, self.frame[name]) for name in self.frame.columns})
        return "\n".join([self.title, shown.to_string(index=False), *(f"  {note}" for note in self.notes)])


def geometric_mean(values: Sequence[float]) -> float:
    """Of ratios, all above 0."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


def _column(name: str, values: pd.Series) -> list[str]:
    if not pd.api.types.is_numeric_dtype(values):
        return ["-" if pd.isna(value) else str(value) for value in values]
    show = next((show for part, show in _FORMATS if part in name), lambda value: f"{value:g}")
    return ["-" if pd.isna(value) else show(value) for value in values]
