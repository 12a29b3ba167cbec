"""Which numbers of an accelerator may be fitted, and on which scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import reduce
from typing import Any

from tvm_spm.arch import Arch

UNBOUNDED = 65536.0
"""Stands for a rate that the file leaves out."""


class Scale(Enum):
    """How a number is searched: so that equal steps change cycles about equally."""

    RATE = auto()
    """Positive; by its logarithm."""
    OVERHEAD = auto()
    """Cycles from 0 on; by the logarithm of one more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One number of an accelerator.

    Attributes:
        path: Of its field, as in the file.
        meaning: In words.
        scale: How it is searched.
        most: Largest value considered.
        is_whole: Whether it counts whole cycles.
    """

    path: str
    meaning: str
    scale: Scale
    most: float
    is_whole: bool = False

    def of(self, arch: Arch) -> float | None:
        """Its value; None where the file leaves it out."""
        found: Any = reduce(getattr, self.path.split("."), arch)
        return None if found is None else float(found)

    def position(self, value: float | None) -> float:
        """Where a value is on the scale."""
        if value is None:
            return math.log(UNBOUNDED)
        return math.log(value) if self.scale is Scale.RATE else math.log1p(value)

    def value(self, position: float) -> float:
        """The value at a position of the scale."""
        found = math.exp(position) if self.scale is Scale.RATE else math.expm1(position)
        found = min(max(found, 0.0), self.most)
        # logarithms there and back end beside whole numbers, where the formula rounds up
        return float(round(found)) if self.is_whole else float(f"{found:.9g}")

    def set(self, arch: Arch, value: float | None) -> Arch:
        """The accelerator with another value of it."""
        kept: float | int | None = value
        if value is not None and self.is_whole:
            kept = int(value)
        return _replaced(arch, self.path.split("."), kept)


FITTED = (
    Number(path="dma.startup_cycles", meaning="DMA start-up, DMA cycles a burst", scale=Scale.OVERHEAD, most=1e5),
    Number(path="dma.cycles_per_byte", meaning="DMA cycles a byte", scale=Scale.RATE, most=1e3),
    Number(
        path="levels.DRAM.channel_bytes_per_cycle", meaning="bytes a cycle of a DRAM channel", scale=Scale.RATE,
        most=1e4,
    ),
    Number(path="noc.elems_per_cycle", meaning="elements a cycle of a network", scale=Scale.RATE, most=1e4),
    Number(path="levels.SPM.bytes_per_cycle", meaning="bytes a cycle of the SPM", scale=Scale.RATE, most=UNBOUNDED),
    Number(
        path="cores.launch_cycles", meaning="cycles to launch a task", scale=Scale.OVERHEAD, most=1e7, is_whole=True
    ),
    Number(path="pe.mac_stages", meaning="stages of a MAC", scale=Scale.RATE, most=64, is_whole=True),
)  # fmt: skip
"""What decides cycles and is rarely known beforehand; sizes and energies are not fitted."""


def _replaced(node: Any, path: list[str], value: float | int | None) -> Any:  # noqa: ANN401 (a tree of dataclasses)
    name, rest = path[0], path[1:]
    return replace(node, **{name: _replaced(getattr(node, name), rest, value) if rest else value})
