"""Numbers of less than a byte, several to one, the first one low; and how a function takes them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm_ffi
from numpy.typing import NDArray
from tvm import te, tirx, topi

from tvm_spm.errors import ScheduleError

BYTE = 8

WIDTHS = (2, 4)
"""Bits of numbers that share bytes."""


def per_byte(bits: int) -> int:
    """Numbers in a byte."""
    return BYTE // bits


def pack(numbers: NDArray[np.generic], bits: int = 4) -> NDArray[np.uint8]:
    """Numbers of few bits, signed or not, along the last axis, which is a multiple of the numbers in a byte."""
    step = per_byte(bits)
    low = numbers.astype(np.int64).astype(np.uint8) & np.uint8((1 << bits) - 1)
    parts = [low[..., first::step] << np.uint8(first * bits) for first in range(step)]
    return np.bitwise_or.reduce(np.stack(parts)).astype(np.uint8)


def unpack(packed: NDArray[np.uint8], bits: int = 4, *, is_signed: bool) -> NDArray[np.int8]:
    """What ``pack`` was given."""
    parts = [packed >> np.uint8(first * bits) & np.uint8((1 << bits) - 1) for first in range(per_byte(bits))]
    found = np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1).astype(np.int16)
    return np.where(is_signed & (found >> (bits - 1) > 0), found - (1 << bits), found).astype(np.int8)


def unpacked(data: te.Tensor, dtype: str, bits: int = 4, name: str = "unpacked") -> te.Tensor:
    """Numbers of few bits as ``int8`` or ``uint8``; the accelerator, unlike the host, keeps no more bits of them."""
    step, mask = per_byte(bits), (1 << bits) - 1
    shape = [*data.shape[:-1], data.shape[-1] * step]

    def number(*at: tirx.Var) -> tirx.PrimExpr:
        byte = data(*at[:-1], at[-1] // step)
        shift = (at[-1] % step * bits).astype("uint8")
        value = ((byte >> shift) & tirx.const(mask, "uint8")).astype(dtype)
        unused = tirx.const(BYTE - bits, dtype)
        return value if dtype == "uint8" else (value << unused) >> unused

    return te.compute(shape, number, name=name)


def bits_kept(value: tirx.PrimExpr) -> int:
    """Bits of a byte that a value is made of; all of them unless it is masked as ``unpacked`` does."""
    found: list[int] = []

    def look(node: tirx.BitwiseAnd) -> None:
        found.extend(int(part.value) for part in (node.a, node.b) if isinstance(part, tirx.IntImm))

    tvm_ffi.structural_walk(value, (tirx.BitwiseAnd, look), order="post")
    return next((bits for bits in WIDTHS if found == [(1 << bits) - 1]), BYTE)


def packed_index(value: tirx.PrimExpr) -> tirx.PrimExpr:
    """Which number of the last axis a value takes out of a byte.

    Raises:
        ScheduleError: It takes none.
    """
    found: list[tirx.PrimExpr] = []

    def look(node: tirx.FloorMod) -> None:
        found.append(node.a)

    tvm_ffi.structural_walk(value, (tirx.FloorMod, look), order="post")
    if not found:
        raise ScheduleError(f"a copy of packed numbers stores {value}, which takes none out of a byte")
    return found[0]


def product(data: te.Tensor, weight: te.Tensor, dtype: str) -> te.Tensor:
    """``data (..., depth)`` times ``weight (columns, depth)``."""
    depth = te.reduce_axis((0, data.shape[-1]), name="depth")

    def element(*at: tirx.Var) -> tirx.PrimExpr:
        return te.sum(data(*at[:-1], depth).astype(dtype) * weight[at[-1], depth].astype(dtype), axis=depth)

    return te.compute((*data.shape[:-1], weight.shape[0]), element, name="product")


def sums(data: te.Tensor, weight: te.Tensor, dtype: str) -> te.Tensor:
    """``data (..., blocks, depth)`` times ``weight (columns, blocks, depth)``, as (blocks, ..., columns)."""
    depth = te.reduce_axis((0, data.shape[-1]), name="depth")

    def element(block: tirx.Var, *at: tirx.Var) -> tirx.PrimExpr:
        term = data(*at[:-1], block, depth).astype(dtype) * weight[at[-1], block, depth].astype(dtype)
        return te.sum(term, axis=depth)

    return te.compute((data.shape[-2], *data.shape[:-2], weight.shape[0]), element, name="sums")


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """How the windows of a convolution lie; per axis of the image, but for the groups.

    Attributes:
        strides: From window to window.
        dilation: From tap to tap.
        padding: Zeros in front of all axes, then behind them.
        groups: Of channels.
    """

    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int = 1


def convolution(data: te.Tensor, weight: te.Tensor, order: Sequence[int], windows: Windows, dtype: str) -> te.Tensor:
    """A convolution of ``data (N, C, ...)``.

    Args:
        data: Channels before the image.
        weight: The filters.
        order: Which axis of the filters, in the order filters, channels, taps, each axis of ``weight`` is.
        windows: Where they lie.
        dtype: Of the sums.
    """
    num_axes = len(windows.strides)
    front, behind = windows.padding[:num_axes], windows.padding[num_axes:]
    if any(windows.padding):
        data = topi.nn.pad(data, [0, 0, *front], [0, 0, *behind], tirx.const(0, str(data.dtype)))
    extents = [weight.shape[list(order).index(axis)] for axis in range(2 + num_axes)]
    channel = te.reduce_axis((0, extents[1]), name="channel")
    taps = [te.reduce_axis((0, extent), name=f"tap{axis}") for axis, extent in enumerate(extents[2:])]
    per_group = extents[0] // windows.groups
    spans = [step * (extent - 1) + 1 for step, extent in zip(windows.dilation, extents[2:], strict=True)]
    image = [
        (extent - span) // stride + 1
        for extent, span, stride in zip(data.shape[2:], spans, windows.strides, strict=True)
    ]

    def element(batch: tirx.Var, filter_: tirx.Var, *at: tirx.Var) -> tirx.PrimExpr:
        first = filter_ // per_group * extents[1] if windows.groups > 1 else 0
        places = [
            position * stride + tap * step
            for position, stride, tap, step in zip(at, windows.strides, taps, windows.dilation, strict=True)
        ]
        indices = (filter_, channel, *taps)
        left = data(batch, first + channel, *places).astype(dtype)
        return te.sum(left * weight(*(indices[axis] for axis in order)).astype(dtype), axis=[channel, *taps])

    return te.compute((data.shape[0], extents[0], *image), element, name="convolution")
