"""What a search must keep to: tiles and factors, dims on the array's axes, loop orders and buffering.

A set of constraints is text, one clause per constraint::

    rows=OY,FY  cols=OX  rows!=C        only these dims along an axis, or all but these; `none` for no dim
    SPM.K=32  RF.FX<=3  cores.K=4       tiles at SPM and RF; factors across cores, rows and cols, and DRAM iterations
    DRAM.order=K>C>OY                   these loops in this order, outer to inner, with any others between them
    DRAM.outer=K>C  SPM.inner=FY>FX     as ``order``, and outside, or inside, all other loops
    SPM.double=IW  RF.double=none       exactly these operands have two buffers
    strict:OY|OX  replicated:K|C        a dataflow, rows|cols; see ``Unrolling``

A loop that iterates once is no loop, so that an order says nothing about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tvm_spm.errors import SpmError, did_you_mean
from tvm_spm.units import parse_whole, shown
from tvm_spm.workload import DIM_NAMES, MAX_DIM, Dims, Operand

FACTOR_LEVELS = ("cores", "DRAM", "SPM", "rows", "cols", "RF")
"""Where a dim has a number; a tile at SPM and RF, a factor elsewhere."""
LOOP_LEVELS = ("DRAM", "SPM")
BUFFER_LEVELS = ("SPM", "RF")
UNLIMITED = 1 << 62

Bound = tuple[str, str, int, int]
"""Level, dim, least and largest value."""
LoopPair = tuple[str, str, str]
"""Level, and two dims: the loop over the first runs outside the loop over the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorRange:
    """``SPM.K=32``: what a dim may take at a level."""

    level: str
    dim: str
    low: int = 1
    high: int = UNLIMITED

    def bounds(self, extents: Dims) -> Iterator[Bound]:
        """The bound itself."""
        yield self.level, self.dim, self.low, self.high

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.level}.{self.dim}={self.low}"
        if self.high == UNLIMITED:
            return f"{self.level}.{self.dim}>={self.low}"
        return f"{self.level}.{self.dim}<={self.high}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisDims:
    """``rows=OY`` or ``rows!=C``: which dims may be unrolled along an axis."""

    axis: str
    dims: tuple[str, ...]
    forbidden: bool = False

    def bounds(self, extents: Dims) -> Iterator[Bound]:
        """One row or column for each dim that may not be unrolled."""
        for name in DIM_NAMES:
            if (name in self.dims) == self.forbidden:
                yield self.axis, name, 1, 1

    def __str__(self) -> str:
        return f"{self.axis}{'!=' if self.forbidden else '='}{','.join(self.dims) or 'none'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOrder:
    """``DRAM.order=K>C``: loops outer to inner; ``outer`` and ``inner`` also put them outside or inside all others."""

    level: str
    place: str
    dims: tuple[str, ...]

    def pairs(self) -> Iterator[LoopPair]:
        """All that the order says about two loops."""
        for i, outer in enumerate(self.dims):
            for inner in self.dims[i + 1 :]:
                yield self.level, outer, inner
        others = [name for name in DIM_NAMES if name not in self.dims]
        for name in self.dims if self.place != "order" else ():
            for other in others:
                yield (self.level, name, other) if self.place == "outer" else (self.level, other, name)

    def __str__(self) -> str:
        return f"{self.level}.{self.place}={'>'.join(self.dims)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubleBuffers:
    """``SPM.double=IW``: the operands with two buffers at a level."""

    level: str
    operands: tuple[Operand, ...]

    def __str__(self) -> str:
        return f"{self.level}.double={''.join(operand.name for operand in self.operands) or 'none'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrolling:
    """``strict:OY|OX``: a dataflow, by the dims unrolled along rows and columns.

    Each named dim is unrolled, by 2 or more, along its axis if its extent is above 1. ``strict``: nothing else is.
    ``replicated``: further dims may share the axes, named ones also the other axis.
    """

    rule: str
    rows: tuple[str, ...]
    cols: tuple[str, ...]

    def bounds(self, extents: Dims) -> Iterator[Bound]:
        """2 or more for the named dims, and 1 for all others if strict."""
        for axis, dims in (("rows", self.rows), ("cols", self.cols)):
            for name in DIM_NAMES:
                if name in dims and extents[name] > 1:
                    yield axis, name, 2, UNLIMITED
                elif self.rule == "strict":
                    yield axis, name, 1, 1

    def __str__(self) -> str:
        return f"{self.rule}:{','.join(self.rows)}|{','.join(self.cols)}"


Constraint = FactorRange | AxisDims | LoopOrder | DoubleBuffers | Unrolling

DATAFLOWS = {
    "output-stationary": (("OY",), ("OX",)),
    "weight-stationary": (("FY",), ("FX",)),
    "row-stationary": (("OY",), ("FY",)),
    "tpu": (("K",), ("C",)),
}
"""Prior dataflows by the dims they unroll along rows and columns."""
SHORT_NAMES = {"OS": "output-stationary", "WS": "weight-stationary", "RS": "row-stationary", "TPU": "tpu"}


@dataclass(frozen=True, slots=True)
class Constraints:
    """Clauses that hold all at once; none allows everything.

    Raises:
        SpmError: Orders, or buffers, of a level contradict each other whatever the workload.
    """

    clauses: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        for level in BUFFER_LEVELS:
            fixed = [c for c in self.clauses if isinstance(c, DoubleBuffers) and c.level == level]
            for clause in fixed[1:]:
                if clause.operands != fixed[0].operands:
                    raise SpmError(f"{fixed[0]} and {clause} cannot both hold: a level has one set of double buffers")
        for level in LOOP_LEVELS:
            orders = [c for c in self.clauses if isinstance(c, LoopOrder) and c.level == level]
            for i, first in enumerate(orders):
                for second in orders[i + 1 :]:
                    if cycle := _cycle([*first.pairs(), *second.pairs()]):
                        raise SpmError(f"{first} and {second} cannot both hold: {' > '.join(cycle)} at {level}")
            if cycle := _cycle([pair for order in orders for pair in order.pairs()]):
                raise SpmError(f"{_listed(orders)} cannot all hold: {' > '.join(cycle)} at {level}")

    @classmethod
    def parse(cls, text: str | Iterable[str]) -> Constraints:
        """Read clauses, separated by blanks or semicolons, or one or more per item.

        Raises:
            SpmError: A clause is not understood, or clauses contradict each other; names them.
        """
        texts = [text] if isinstance(text, str) else text
        return cls(tuple(_parse(clause) for item in texts for clause in re.split(r"[;\s]+", item) if clause))

    def __str__(self) -> str:
        return " ".join(str(clause) for clause in self.clauses)

    def __bool__(self) -> bool:
        return bool(self.clauses)

    def __add__(self, other: Constraints) -> Constraints:
        return Constraints((*self.clauses, *other.clauses))

    def bounds(self, extents: Dims) -> Iterator[Bound]:
        """All limits of tiles and factors for a workload's extents."""
        for clause in self.clauses:
            if isinstance(clause, (FactorRange, AxisDims, Unrolling)):
                yield from clause.bounds(extents)

    def loop_pairs(self) -> Iterator[LoopPair]:
        """All that the orders say about two loops."""
        for clause in self.clauses:
            if isinstance(clause, LoopOrder):
                yield from clause.pairs()

    def double_buffers(self, level: str) -> tuple[Operand, ...] | None:
        """The operands that have two buffers at ``SPM`` or ``RF``; ``None`` if any may."""
        for clause in self.clauses:
            if isinstance(clause, DoubleBuffers) and clause.level == level:
                return clause.operands
        return None

    @property
    def wants_spill(self) -> bool:
        """Whether an order puts a summed dim outside an output dim at DRAM, which evicts unfinished outputs."""
        return any(
            level == "DRAM" and outer in ("C", "FY", "FX") and inner not in ("C", "FY", "FX")
            for level, outer, inner in self.loop_pairs()
        )


def dataflow(name: str, *, strict: bool = True) -> Constraints:
    """A prior dataflow by name.

    Args:
        name: ``output-stationary`` (``OS``, OY|OX), ``weight-stationary`` (``WS``, FY|FX), ``row-stationary`` (``RS``,
            OY|FY) or ``tpu`` (``TPU``, K|C); rows|columns.
        strict: Only the named dims are unrolled; otherwise further ones may share the axes.

    Raises:
        SpmError: An unknown name.
    """
    full = SHORT_NAMES.get(name, name)
    if full not in DATAFLOWS:
        raise SpmError(f"unknown dataflow {name!r}; {did_you_mean(name, (*DATAFLOWS, *SHORT_NAMES))}")
    rows, cols = DATAFLOWS[full]
    return Constraints((Unrolling(rule="strict" if strict else "replicated", rows=rows, cols=cols),))


def _parse(text: str) -> Constraint:
    if found := re.fullmatch(r"(strict|replicated):(.+)", text):
        if "|" not in found[2]:
            return dataflow(found[2], strict=found[1] == "strict").clauses[0]
        rows, _, cols = found[2].partition("|")
        return Unrolling(rule=found[1], rows=_dims(rows, ",", text), cols=_dims(cols, ",", text))
    if found := re.fullmatch(r"(rows|cols)(!?=)(.+)", text):
        dims = () if found[3] == "none" else _dims(found[3], ",", text)
        return AxisDims(axis=found[1], dims=dims, forbidden=found[2] == "!=")
    if found := re.fullmatch(r"(DRAM|SPM)\.(order|outer|inner)=(.+)", text):
        return LoopOrder(level=found[1], place=found[2], dims=_dims(found[3], ">", text))
    if found := re.fullmatch(r"(SPM|RF)\.double=([IWO]+|none)", text):
        letters = "" if found[2] == "none" else found[2]
        return DoubleBuffers(level=found[1], operands=tuple(o for o in Operand if o.name in letters))
    if found := re.fullmatch(r"(cores|DRAM|SPM|rows|cols|RF)\.(\w+)(=|<=|>=)(\d+)", text):
        (dim,), value = _dims(found[2], ",", text), parse_whole(found[4])
        if value is None or not 1 <= value <= MAX_DIM:
            raise SpmError(f"constraint {shown(text)}: {found[4][:20]} must be >= 1 and <= {MAX_DIM:,}")
        low, high = value if found[3] != "<=" else 1, value if found[3] != ">=" else UNLIMITED
        return FactorRange(level=found[1], dim=dim, low=low, high=high)
    raise SpmError(
        f"constraint {shown(text)}: expected rows=DIMS, rows!=DIMS, LEVEL.DIM=number (or <=, >=; LEVEL of "
        f"{' '.join(FACTOR_LEVELS)}), LEVEL.order=DIM>DIM (or outer, inner; DRAM or SPM), SPM.double=IWO, "
        "RF.double=IWO, strict:DIM|DIM or replicated:DIM|DIM"
    )


def _dims(text: str, separator: str, clause: str) -> tuple[str, ...]:
    names = tuple(text.split(separator))
    for name in names:
        if name not in DIM_NAMES:
            raise SpmError(f"constraint {shown(clause)}: unknown dim {name!r}; {did_you_mean(name, DIM_NAMES)}")
    if len(set(names)) != len(names):
        raise SpmError(f"constraint {shown(clause)}: a dim is named twice")
    return names


def _cycle(pairs: list[LoopPair]) -> list[str]:
    """Dims that would all have to be outside the next one and the last outside the first; empty if there are none."""
    inside: dict[str, set[str]] = {}
    for _, outer, inner in pairs:
        inside.setdefault(outer, set()).add(inner)

    def walk(path: list[str]) -> list[str]:
        for name in sorted(inside.get(path[-1], ()), key=DIM_NAMES.index):
            if name in path:
                return [*path[path.index(name) :], name]
            if cycle := walk([*path, name]):
                return cycle
        return []

    return next((cycle for name in inside if (cycle := walk([name]))), [])


def _listed(clauses: Iterable[Constraint]) -> str:
    *first, last = [str(clause) for clause in clauses]
    return f"{', '.join(first)} and {last}" if first else last


ANYTHING = Constraints()
"""No constraint."""
