"""Products with weights of four bits, which stay packed two to a byte.

Weights in blocks have a scale for each block of each column. ``MatMulNBits`` and a dequantised constant are first
written as the product with floats that they mean; which constants these are is kept beside the graph, and the last step
before the import writes nodes of an own domain in their place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from tvm import relax, te, tirx

from tvm_spm.frontend.onnx.in_place import Floats, NodeInPlace
from tvm_spm.frontend.relay.operators.elementwise import binary, cast
from tvm_spm.frontend.relay.tensors import Builder, Tensor
from tvm_spm.frontend.tir import packed as bits

DOMAIN = "tvm_spm"
"""Of nodes that only this project's importer reads."""

PRODUCT, INTEGER_PRODUCT = "PackedMatMul", "PackedMatMulInteger"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeight:
    """A matrix of four bits an element.

    Attributes:
        numbers: (columns, blocks, numbers of a block), from -8 to 7 or from 0 to 15.
        scale: (columns, blocks).
        zero: (columns, blocks); what is taken off a number before it is scaled. None for zeros.
    """

    numbers: NDArray[np.integer[Any]]
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
        return self.numbers.shape[-1] % bits.PER_BYTE == 0


def packed_weight(data: NDArray[np.generic], scale: Floats, zero: Floats, axis: int, block: int) -> PackedWeight | None:
    """A dequantised constant of two axes that a product reads from the right.

    Args:
        data: (rows, columns), of four bits.
        scale: One, one for each column, or one for each block of rows and each column.
        zero: As many, or one.
        axis: Of the blocks, or of the scales.
        block: Rows of a block; 0 without blocks.

    Returns:
        ``None`` if its scales belong to rows, or blocks lie otherwise.
    """
    if data.ndim != 2 or (scale.size > 1 and axis % 2 != (0 if block else 1)):
        return None
    rows, columns = data.shape
    num_blocks = rows // block if block else 1
    if num_blocks * (block or rows) != rows:
        return None
    per_block = (num_blocks, columns)
    scale, zero = (
        np.broadcast_to(each.reshape(-1, columns) if each.size > 1 else each.reshape(1, 1), per_block).T
        for each in (scale, zero)
    )
    numbers = data.T.reshape(columns, num_blocks, -1).astype(np.int8)
    return PackedWeight(numbers=numbers, scale=scale.astype(np.float32), zero=zero if zero.any() else None)


def write_product(each: NodeInPlace, weight: PackedWeight) -> None:
    """In the place of a product with floats."""
    inputs = [each.input(0), each.writer.constant(bits.pack(weight.numbers)), each.writer.constant(weight.scale)]
    if weight.zero is not None:
        inputs.append(each.writer.constant(weight.zero.astype(np.float32)))
    _write(each, PRODUCT, inputs, weight, each.out)


def write_sums(each: NodeInPlace, data: str, zero: str, weight: PackedWeight) -> str:
    """The int32 sums of bytes minus their zero point times a matrix without zero points."""
    inputs = [data, each.writer.constant(bits.pack(weight.numbers)), *([zero] if zero else [])]
    return _write(each, INTEGER_PRODUCT, inputs, weight, f"{each.writer.prefix}__sums")


def _write(each: NodeInPlace, operator: str, inputs: list[str], weight: PackedWeight, out: str) -> str:
    is_signed = int(weight.numbers.min(initial=0) < 0)
    each.writer.nodes.append(helper.make_node(operator, inputs, [out], domain=DOMAIN, signed=is_signed))
    return out


def with_domain(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that may hold nodes of ``DOMAIN``; it is changed in place."""
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model


def packed_matmul(b: Builder, inputs: list[Tensor | None], attributes: Mapping[str, Any]) -> Tensor:
    """Inputs: data, packed weights, scales, zero points.

    The sums of all blocks, then their sum by the scales: where several rows make the sums of blocks larger than the
    weights, these become floats at once.
    """
    data, packed, scale = inputs[:3]
    zero = inputs[3] if len(inputs) > 3 else None
    assert data is not None
    assert packed is not None
    assert packed.array is not None
    assert scale is not None
    assert scale.array is not None
    columns, num_blocks, _ = packed.shape
    numbers = _numbers(packed, attributes)
    if num_blocks > 1 and not _is_less(data, numbers.shape[-1]):
        taken_off = None if zero is None else zero.array
        weight = PackedWeight(numbers=numbers, scale=scale.array, zero=taken_off).floats()  # type: ignore[arg-type]
        return b.emit(relax.op.matmul(b.expr(data), b.expr(b.const(weight, data.dtype))))
    total = _sums(b, data, packed, attributes, "float32")
    if num_blocks == 1:
        total = binary(b, "multiply", total, b.const(scale.array.reshape(columns)))
    else:
        total = _weighed(b, total, scale)
    if zero is not None and zero.array is not None:
        of_blocks = np.multiply(zero.array.astype(np.float32), scale.array.astype(np.float32)).T
        total = binary(b, "subtract", total, _of_zeros(b, data, num_blocks, of_blocks))
    return cast(b, total, data.dtype)


def packed_matmul_integer(b: Builder, inputs: list[Tensor | None], attributes: Mapping[str, Any]) -> Tensor:
    """Inputs: data, packed weights, zero point of the data."""
    data, packed = inputs[:2]
    zero = inputs[2] if len(inputs) > 2 else None
    assert data is not None
    assert packed is not None
    total = _sums(b, data, packed, attributes, "int32")
    if zero is None:
        return total
    of_columns = b.const(_numbers(packed, attributes).astype(np.int64).sum((1, 2)), "int32")
    return binary(b, "subtract", total, binary(b, "multiply", cast(b, b.reshape(zero, ()), "int32"), of_columns))


def _numbers(packed: Tensor, attributes: Mapping[str, Any]) -> NDArray[np.integer[Any]]:
    assert packed.array is not None
    return bits.unpack(packed.array.astype(np.uint8), is_signed=bool(attributes["signed"]))


def _is_less(data: Tensor, depth: int) -> bool:
    """Whether DRAM moves less than with floats, for one block of one column.

    The sums of a block leave and come back as float32, once for each row of the data.
    """
    rows = math.prod(data.shape[:-1])
    width = np.dtype(data.dtype).itemsize
    return depth // bits.PER_BYTE + 4 + 2 * 4 * rows < depth * width


def _sums(b: Builder, data: Tensor, packed: Tensor, attributes: Mapping[str, Any], dtype: str) -> Tensor:
    """Of one block (..., columns), of several (blocks, ..., columns)."""
    columns, num_blocks, _ = packed.shape
    stored = "int8" if attributes["signed"] else "uint8"
    multiply, name = (bits.product, "packed_matmul") if num_blocks == 1 else (bits.sums, "packed_matmul_blocks")
    weight = b.reshape(packed, (columns, packed.shape[2])) if num_blocks == 1 else packed

    def made(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        return multiply(x, bits.unpacked(w, stored), dtype)

    rows = data if num_blocks == 1 else _in_blocks(b, data, num_blocks)
    return b.emit(b.relax.call_te(made, b.expr(rows), b.expr(weight), primfunc_name_hint=name))


def _in_blocks(b: Builder, data: Tensor, num_blocks: int) -> Tensor:
    return b.reshape(data, (*data.shape[:-1], num_blocks, data.shape[-1] // num_blocks))


def _weighed(b: Builder, total: Tensor, scale: Tensor) -> Tensor:
    """Sums of blocks by the scales of the blocks."""

    def weighed(sums: te.Tensor, scales: te.Tensor) -> te.Tensor:
        block = te.reduce_axis((0, sums.shape[0]), name="block")

        def element(*at: tirx.Var) -> tirx.PrimExpr:
            return te.sum(sums(block, *at) * scales[at[-1], block], axis=block)

        return te.compute(sums.shape[1:], element, name="weighed")

    return b.emit(b.relax.call_te(weighed, b.expr(total), b.expr(scale), primfunc_name_hint="weighed_blocks"))


def _of_zeros(b: Builder, data: Tensor, num_blocks: int, zeros: NDArray[np.generic]) -> Tensor:
    """What zero points take off: the sums of the data by (blocks, columns) zero points times scales."""
    blocks = _in_blocks(b, cast(b, data, "float32"), num_blocks)
    return b.emit(relax.op.matmul(b.expr(b.emit(relax.op.sum(b.expr(blocks), axis=-1))), b.expr(b.const(zeros))))
