"""Smooth activations as functions of a number, and what they leave of the spread of a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

_NORMAL = tuple(NormalDist().inv_cdf((number + 0.5) / 64) for number in range(64))
"""As many numbers of a normal distribution, all equally likely."""


def deviation_behind(curve: Callable[[float], float], deviation: float) -> float:
    """The root of the mean square of what a curve makes of normal numbers."""
    return math.sqrt(sum(curve(deviation * z) ** 2 for z in _NORMAL) / len(_NORMAL))


def sigmoid(x: float) -> float:
    """Between 0 and 1."""
    return 1 / (1 + math.exp(-x))


def silu(x: float) -> float:
    """A number times its sigmoid."""
    return x * sigmoid(x)


def gelu(x: float) -> float:
    """A number times the share of a normal distribution below it."""
    return x * (1 + math.erf(x / math.sqrt(2))) / 2
