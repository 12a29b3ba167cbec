"""Numbers of four bits, two to a byte, the first one low; and how a function takes them out."""

from __future__ import annotations

import numpy as np
import tvm_ffi
from numpy.typing import NDArray
from tvm import te, tirx

from tvm_spm.errors import ScheduleError

BYTE, BITS = 8, 4
PER_BYTE = BYTE // BITS
_MASK = (1 << BITS) - 1


def pack(numbers: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Numbers of four bits, signed or not, along the last axis, which is even."""
    low = numbers.astype(np.int64).astype(np.uint8) & np.uint8(_MASK)
    return (low[..., 0::PER_BYTE] | low[..., 1::PER_BYTE] << np.uint8(BITS)).astype(np.uint8)


def unpack(packed: NDArray[np.uint8], *, is_signed: bool) -> NDArray[np.int8]:
    """What ``pack`` was given."""
    halves = np.stack([packed & np.uint8(_MASK), packed >> np.uint8(BITS)], axis=-1)
    found = halves.reshape(*packed.shape[:-1], -1).astype(np.int8)
    return np.where(found >> 3, found - 2**BITS, found).astype(np.int8) if is_signed else found


def unpacked(data: te.Tensor, dtype: str, name: str = "unpacked") -> te.Tensor:
    """Numbers of four bits as ``int8`` or ``uint8``; the accelerator, unlike the host, keeps four bits of them."""
    shape = [*data.shape[:-1], data.shape[-1] * PER_BYTE]

    def number(*at: tirx.Var) -> tirx.PrimExpr:
        byte = data(*at[:-1], at[-1] // PER_BYTE)
        shift = (at[-1] % PER_BYTE * BITS).astype("uint8")
        value = ((byte >> shift) & tirx.const(_MASK, "uint8")).astype(dtype)
        return value if dtype == "uint8" else (value << tirx.const(BITS, dtype)) >> tirx.const(BITS, dtype)

    return te.compute(shape, number, name=name)


def bits_kept(value: tirx.PrimExpr) -> int:
    """Bits of a byte that a value is made of; all of them unless it is masked as ``unpacked`` does."""
    found: list[int] = []

    def look(node: tirx.BitwiseAnd) -> None:
        found.extend(int(part.value) for part in (node.a, node.b) if isinstance(part, tirx.IntImm))

    tvm_ffi.structural_walk(value, (tirx.BitwiseAnd, look), order="post")
    return BITS if found == [_MASK] else BYTE


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
