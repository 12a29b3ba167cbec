"""Layers with weights of few bits, which stay as narrow as they come: several to a byte, or bytes.

``DequantizeLinear`` and ``MatMulNBits`` say which constants these are; they are kept beside the graph, in which the
floats stand that they mean. The last step before the import writes nodes of an own domain in the place of the layers
that read them; ``packed_layers`` imports these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tvm_spm.frontend.onnx.in_place import CONV, Floats, NodeInPlace
from tvm_spm.frontend.tir import packed as bits_of

DOMAIN = "tvm_spm"
"""Of nodes that only this project's importer reads."""

PRODUCT, INTEGER_PRODUCT = "PackedMatMul", "PackedMatMulInteger"
CONVOLUTION, INTEGER_CONVOLUTION = "PackedConv", "PackedConvInteger"

Numbers = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeight:
    """A matrix of few bits an element.

    Attributes:
        numbers: (columns, blocks, numbers of a block).
        bits: Of a number, 2, 4 or 8.
        scale: (columns, blocks).
        zero: (columns, blocks); what is taken off a number before it is scaled. None for zeros.
    """

    numbers: Numbers
    bits: int = 4
    scale: Floats
    zero: Floats | None = None

    def floats(self) -> Floats:
        """The matrix, a column of it in each column."""
        zero = np.zeros((), np.float32) if self.zero is None else self.zero[..., None]
        found = (self.numbers.astype(np.float32) - zero) * self.scale[..., None]
        return np.asarray(found.reshape(found.shape[0], -1).T, np.float32)

    @property
    def can_be_packed(self) -> bool:
        """Whether no byte holds numbers of two blocks."""
        return self.numbers.shape[-1] % bits_of.per_byte(self.bits) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedFilters:
    """Filters of few bits an element without zero points.

    Attributes:
        numbers: (filters, channels, taps...).
        bits: Of a number, 2, 4 or 8.
        order: Its axes as they are stored; the last one holds the numbers of a byte.
        scale: One, or one for each filter.
    """

    numbers: Numbers
    bits: int
    order: tuple[int, ...]
    scale: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallConstant:
    """What is dequantised: a constant of at most 8 bits an element.

    Attributes:
        numbers: As they are stored.
        bits: Of a number, 2, 4 or 8.
        scale: One, one for each index of ``axis``, or with blocks one for each of these.
        zero: As many, or one.
        axis: Of scales, or of blocks.
        block: Indices of a block; 0 without blocks.
    """

    numbers: Numbers
    bits: int
    scale: Floats
    zero: Floats
    axis: int = 0
    block: int = 0

    def matrix(self, *, is_flipped: bool = False) -> PackedWeight | None:
        """As the right operand of a product; ``is_flipped`` if its columns are stored as rows.

        Returns:
            ``None`` if its scales belong to rows, blocks lie otherwise, or a byte would hold numbers of two blocks.
        """
        numbers, axis = (self.numbers.T, self.axis + 1) if is_flipped else (self.numbers, self.axis)
        if self.numbers.ndim != 2 or (self.scale.size > 1 and axis % 2 != (0 if self.block else 1)):
            return None
        rows, columns = numbers.shape
        num_blocks = rows // self.block if self.block else 1
        if num_blocks * (self.block or rows) != rows:
            return None
        scale, zero = (
            np.broadcast_to(_spread(each.T if is_flipped else each, columns), (num_blocks, columns)).T
            for each in (self.scale, self.zero)
        )
        numbers = numbers.T.reshape(columns, num_blocks, -1)
        shifted = _shifted(numbers, zero[..., None], self.bits)
        found = PackedWeight(
            numbers=numbers if shifted is None else shifted,
            bits=self.bits,
            scale=scale.astype(np.float32),
            zero=zero.astype(np.float32) if shifted is None else None,
        )
        return found if found.can_be_packed else None

    def filters(self) -> PackedFilters | None:
        """As the filters of a convolution over one or two axes, or ``None`` if they can be none."""
        is_per_filter = self.scale.size == 1 or (self.axis % max(self.numbers.ndim, 1) == 0 and not self.block)
        if self.numbers.ndim not in (3, 4) or not is_per_filter:
            return None
        zero = self.zero.reshape(-1, *[1] * (self.numbers.ndim - 1))
        for bits in sorted({self.bits, bits_of.BYTE}):
            numbers, order = _shifted(self.numbers, zero, bits), _order(self.numbers.shape, bits)
            if numbers is not None and order is not None:
                return PackedFilters(numbers=numbers, bits=bits, order=order, scale=self.scale.astype(np.float32))
        return None


def _spread(each: Floats, columns: int) -> Floats:
    return each.reshape(-1, columns) if each.size > 1 else each.reshape(1, 1)


def _shifted(numbers: Numbers, zero: Floats, bits: int) -> Numbers | None:
    """Numbers without their zero points, if they fit as many bits."""
    whole = zero.astype(np.int64)
    if (whole != zero).any():
        return None
    wide = numbers.astype(np.int64) - whole
    low, high = int(wide.min(initial=0)), int(wide.max(initial=0))
    if low >= -(1 << (bits - 1)) and high < 1 << (bits - 1):
        return wide.astype(np.int8)
    return wide.astype(np.uint8) if low >= 0 and high < 1 << bits else None


def _order(shape: tuple[int, ...], bits: int) -> tuple[int, ...] | None:
    """Axes of filters with one last that bytes divide, the channels or the filters."""
    step, axes = bits_of.per_byte(bits), tuple(range(len(shape)))
    if step == 1:
        return axes
    if shape[1] % step == 0:
        return (0, *axes[2:], 1)
    return (1, *axes[2:], 0) if shape[0] % step == 0 else None


def write_product(each: NodeInPlace, weight: PackedWeight, *, out: str | None = None, factor: float = 1.0) -> str:
    """In the place of a product with floats, and of a factor behind it."""
    scale = each.writer.constant((weight.scale * np.float32(factor)).astype(np.float32))
    inputs = [each.input(0), _stored(each, weight.numbers, weight.bits), scale]
    if weight.zero is not None:
        inputs.append(each.writer.constant(weight.zero.astype(np.float32)))
    return _write(each, PRODUCT, inputs, weight, out or each.out)


def write_sums(each: NodeInPlace, data: str, zero: str, weight: PackedWeight) -> str:
    """The int32 sums of bytes minus their zero point times a matrix without zero points."""
    inputs = [data, _stored(each, weight.numbers, weight.bits), *([zero] if zero else [])]
    return _write(each, INTEGER_PRODUCT, inputs, weight, f"{each.writer.prefix}__sums")


def write_convolution(each: NodeInPlace, filters: PackedFilters, *, out: str) -> str:
    """In the place of a convolution with floats, without its bias."""
    scale = each.writer.constant(filters.scale)
    inputs = [each.input(0), _stored(each, _ordered(filters), filters.bits), scale]
    return _write(each, CONVOLUTION, inputs, filters, out, order=list(filters.order), **each.kept(*CONV))


def write_window_sums(each: NodeInPlace, data: str, zero: str, filters: PackedFilters) -> str:
    """The int32 sums over windows of bytes minus their zero point."""
    inputs = [data, _stored(each, _ordered(filters), filters.bits), *([zero] if zero else [])]
    out = f"{each.writer.prefix}__sums"
    return _write(each, INTEGER_CONVOLUTION, inputs, filters, out, order=list(filters.order), **each.kept(*CONV))


def _ordered(filters: PackedFilters) -> Numbers:
    return np.ascontiguousarray(filters.numbers.transpose(filters.order))


def _stored(each: NodeInPlace, numbers: Numbers, bits: int) -> str:
    return each.writer.constant(numbers if bits == bits_of.BYTE else bits_of.pack(numbers, bits))


def _write(
    each: NodeInPlace, operator: str, inputs: list[str], weight: PackedWeight | PackedFilters, out: str,
    **attributes: Any,  # noqa: ANN401
) -> str:  # fmt: skip
    is_signed = int(weight.numbers.min(initial=0) < 0 or weight.numbers.dtype == np.int8)
    node = helper.make_node(operator, inputs, [out], domain=DOMAIN, signed=is_signed, bits=weight.bits, **attributes)
    each.writer.nodes.append(node)
    return out


def with_domain(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that may hold nodes of ``DOMAIN``; it is changed in place."""
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model
