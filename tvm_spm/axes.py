"""How loop dims index a tensor: dims, operands, and the axes of their tensors."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from tvm_spm.errors import WorkloadError
from tvm_spm.tile import clip, span_at, spanned_elems
from tvm_spm.units import bits_to_bytes, shown

DIM_NAMES = ("N", "G", "K", "C", "OY", "OX", "FY", "FX")
"""Loop dims in canonical order. ``G`` counts independent groups; all three operands depend on it."""

REDUCTION_DIMS = ("C", "FY", "FX")
"""Dims that are summed over; the output does not depend on them."""

MAX_DIM = 2**31 - 1
"""Largest extent, tile or factor that a ``Dims`` holds, so that products of two fit 64 bits."""

MAX_EXTENT = 2**24
"""Largest extent of a loop dim of a ``Workload``: the searches keep tables of that length."""

MAX_MACS = 2**50
"""Most multiply-accumulates of one ``Workload``, and most elements of one of its tensors."""

MAX_ELEM_BITS = 128
"""Widest element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dims:
    """One positive integer per loop dim; used for extents, tiles and factors alike."""

    N: int = 1
    G: int = 1
    K: int = 1
    C: int = 1
    OY: int = 1
    OX: int = 1
    FY: int = 1
    FX: int = 1

    def __post_init__(self) -> None:
        for name in DIM_NAMES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise WorkloadError(f"dim {name} = {shown(value)}: must be an integer >= 1")
            if value > MAX_DIM:
                raise WorkloadError(f"dim {name} = {shown(value)}: must be <= {MAX_DIM:,}")

    def __getitem__(self, name: str) -> int:
        if name not in DIM_NAMES:
            raise KeyError(name)
        return int(getattr(self, name))

    def __iter__(self) -> Iterator[int]:
        return iter(self.as_tuple())

    def as_tuple(self) -> tuple[int, ...]:
        """Values in the order of ``DIM_NAMES``."""
        return tuple(int(getattr(self, name)) for name in DIM_NAMES)

    def as_dict(self) -> dict[str, int]:
        """The seven dims of a plain convolution, and ``G`` only where it is not 1."""
        return {name: self[name] for name in DIM_NAMES if name != "G" or self.G != 1}

    @classmethod
    def of(cls, values: Iterator[int] | list[int] | tuple[int, ...]) -> Dims:
        """Dims from values in the order of ``DIM_NAMES``."""
        return cls(**{name: int(value) for name, value in zip(DIM_NAMES, values, strict=True)})

    def combine(self, other: Dims, operation: Callable[[int, int], int]) -> Dims:
        """Apply ``operation`` dim by dim."""
        return Dims.of([operation(a, b) for a, b in zip(self, other, strict=True)])

    def product(self) -> int:
        """Product over all dims."""
        return math.prod(self.as_tuple())

    def with_dim(self, name: str, value: int) -> Dims:
        """A copy with one dim changed."""
        return replace(self, **{name: value})

    def __str__(self) -> str:
        return " ".join(f"{name}={self[name]}" for name in DIM_NAMES if self[name] != 1) or "1"


class Operand(enum.Enum):
    """The three tensors of a multiply-accumulate nest: input, weight, output."""

    I = 0  # noqa: E741 (the field's own letter)
    W = 1
    O = 2  # noqa: E741 (the field's own letter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a tensor: ``index = offset + sum(coefficient * loop dim)``.

    ``offset`` is minus the padding in front; indices outside ``0 <= index < extent`` are padding.
    """

    terms: tuple[tuple[str, int], ...]
    extent: int
    offset: int = 0

    @property
    def dims(self) -> tuple[str, ...]:
        """Dim of each term."""
        return tuple(name for name, _ in self.terms)

    @property
    def coefficients(self) -> tuple[int, ...]:
        """Of each term."""
        return tuple(coefficient for _, coefficient in self.terms)

    def range_inside(self, first: dict[str, int], tile: Dims | dict[str, int]) -> tuple[int, int]:
        """First index and the one behind the last of a tile at loop indices ``first``, padding excluded."""
        start, elems = span_at(self.dims, self.coefficients, range(len(self.terms)), first, tile)
        return clip(self.extent, self.offset + start, self.offset + start + elems)

    def tile_elems(self, tile: Dims) -> int:
        """Elements of this axis that a tile spans, padding and holes of a stride included."""
        return int(spanned_elems(self.dims, self.coefficients, range(len(self.terms)), tile))

    def clipped_elems(self, first: dict[str, int], tile: Dims) -> int:
        """Elements spanned inside the tensor by the tile that starts at loop indices ``first``; 0 if not given."""
        low, high = self.range_inside({name: first.get(name, 0) for name in self.dims}, tile)
        return max(0, high - low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """How loop dims index one tensor; axes are in DRAM order, outermost first."""

    axes: tuple[Axis, ...]
    dtype: str

    @property
    def elem_bits(self) -> int:
        """Width of one element."""
        return dtype_bits(self.dtype)

    @property
    def relevant_dims(self) -> tuple[str, ...]:
        """Dims the tensor depends on, in canonical order."""
        used = {name for axis in self.axes for name, _ in axis.terms}
        return tuple(name for name in DIM_NAMES if name in used)

    def tile_elems(self, tile: Dims) -> int:
        """Elements of the bounding box of a tile, padding included."""
        return math.prod(axis.tile_elems(tile) for axis in self.axes)

    def tile_bytes(self, tile: Dims) -> int:
        """Bytes of the bounding box of a tile, padding included."""
        return bits_to_bytes(self.tile_elems(tile) * self.elem_bits)

    def tensor_elems(self) -> int:
        """Elements of the tensor in DRAM, padding excluded."""
        return math.prod(axis.extent for axis in self.axes)


def dtype_bits(dtype: str) -> int:
    """Width of a TVM dtype name such as ``int8`` or ``float32``.

    Raises:
        WorkloadError: The name is not a scalar type with a width.
    """
    if dtype == "bool":
        return 8
    match = re.fullmatch(r"(?:int|uint|float|bfloat)([0-9]{1,3})", dtype)
    if match is None or not 1 <= int(match[1]) <= MAX_ELEM_BITS:
        raise WorkloadError(
            f"dtype {shown(dtype)}: expected a name like 'int8', 'int16', 'float16' or 'float32' "
            f"of at most {MAX_ELEM_BITS} bits"
        )
    return int(match[1])


def check_axis(what: str, axis: Axis) -> None:
    """Refuse an axis whose numbers are out of range; ``what`` begins the text."""
    if axis.extent < 1:
        raise WorkloadError(f"{what}: axis extent {shown(axis.extent)}: must be >= 1")
    for name, value in (
        ("extent", axis.extent),
        ("offset", abs(axis.offset)),
        *((f"step of {dim}", step) for dim, step in axis.terms),
    ):
        if value > MAX_DIM:
            raise WorkloadError(f"{what}: axis {name} {shown(value)}: must be <= {MAX_DIM:,}")


def require_positive(what: str, value: object) -> None:
    """Refuse what is no integer from 1 to ``MAX_DIM``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise WorkloadError(f"{what} = {shown(value)}: must be an integer >= 1")
    if value > MAX_DIM:
        raise WorkloadError(f"{what} = {shown(value)}: must be <= {MAX_DIM:,}")


class Window(NamedTuple):
    """A filter that slides along one axis: outputs, taps, their distances, and the padding in front and behind."""

    outputs: int
    taps: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def spanned(self) -> int:
        """Elements that all outputs need, padding included."""
        return (self.outputs - 1) * self.stride + (self.taps - 1) * self.dilation + 1


def grouped_axis(groups: int, inner: str, inner_extent: int) -> Axis:
    """The axis of channels that fall into groups, each with ``inner_extent`` of them."""
    terms: tuple[tuple[str, int], ...] = ((inner, 1),)
    if groups > 1:
        terms = (("G", inner_extent),) if inner_extent == 1 else (("G", inner_extent), (inner, 1))
    return Axis(terms=terms, extent=groups * inner_extent)


def sliding_axis(out: str, filt: str, window: Window, given: int | None) -> Axis:
    """The axis of an input under a window.

    Args:
        out: Dim of the outputs.
        filt: Dim of the taps.
        window: What slides.
        given: Extent without padding; None for the smallest that fits.

    Raises:
        WorkloadError: The padded extent is smaller than the outputs need.
    """
    before, after = window.before, window.after
    name = "I" + out[1]
    extent = max(1, window.spanned - before - after) if given is None else given
    require_positive(f"conv2d: {name}", extent)
    if extent + before + after < window.spanned:
        room = extent + before + after - (window.taps - 1) * window.dilation - 1
        raise WorkloadError(
            f"conv2d: {name} = {extent} with padding {before} + {after}: needs >= {window.spanned} padded elements for "
            f"{out} = {window.outputs} at stride {window.stride} with {window.taps} taps; "
            f"{out} <= {max(0, room // window.stride + 1)} fits"
        )
    return Axis(terms=((out, window.stride), (filt, window.dilation)), extent=extent, offset=-before)
