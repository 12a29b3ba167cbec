"""Look-ups and products of weights that are stored in few bits, block by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx.microsoft.place import TypedNode, TypedRewrite
from tvm_spm.frontend.onnx.writer import Array

_HALF_BYTE = 4

FP4 = np.array(
    [0, 0.0052083333, 0.66666667, 1, 0.33333333, 0.5, 0.16666667, 0.25,
     -0.0, -0.0052083333, -0.66666667, -1, -0.33333333, -0.5, -0.16666667, -0.25], np.float32,
)  # fmt: skip
"""Of ``quant_type`` 0, as bitsandbytes defines it."""

NF4 = np.array(
    [-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1], np.float32,
)  # fmt: skip
"""Of ``quant_type`` 1: what a normal distribution falls on equally often."""


def _gather_blocks(each: TypedNode) -> None:
    """Inputs: numbers of four or eight bits, indices, scales by block, zero points; the table becomes floats.

    Raises:
        ModelError: Numbers, scales or zero points depend on the data.
    """
    w, block = each.writer, each.integer("block_size", 128)
    data, scale = each.array(0, "table"), each.array(2, "scale")
    bits = each.integer("bits", _HALF_BYTE)
    axis = each.integer("quantize_axis", 1) % data.ndim
    # Bytes hold one or two numbers, whose middle is their zero; UINT4 and INT4 are one number to an element here.
    is_bytes = each.kinds[each.input(0)].dtype == "uint8"
    is_packed = is_bytes and bits == _HALF_BYTE
    middle = 1 << (bits - 1) if is_bytes else 0
    numbers = _halves(data) if is_packed else data
    zero: Array = np.full(scale.shape, middle, np.int32)
    if each.input(3):
        given = each.array(3, "zero point")
        zero = _halves(given)[..., : scale.shape[-1]] if is_packed else given

    def spread(array: Array) -> Array:
        return np.repeat(array, block, axis=axis).take(range(numbers.shape[axis]), axis=axis)

    floats = (numbers.astype(np.int32) - spread(zero).astype(np.int32)).astype(np.float32) * spread(scale).astype("f4")
    table = w.constant(floats.astype(scale.dtype))
    w.emit("Gather", table, each.input(1), axis=each.integer("gather_axis"), out=each.out)


def _matmul_bnb4(each: TypedNode) -> None:
    """Inputs: x, numbers of four bits (high half first) of (N, K), the largest of each block.

    Raises:
        ModelError: Weights depend on the data.
    """
    w, depth, columns, block = each.writer, each.integer("K"), each.integer("N"), each.integer("block_size")
    codes = FP4 if each.integer("quant_type") == 0 else NF4
    packed, largest = each.array(1, "weight").ravel().astype(np.uint8), each.array(2, "scale")
    both = np.stack([packed >> _HALF_BYTE, packed & 15], -1).ravel()[: depth * columns]
    if block < 1 or both.size != depth * columns:
        raise ModelError(
            f"{each.what}: {2 * packed.size} numbers in blocks of {block}: must be N x K = {columns} x {depth} in "
            "blocks of at least 1"
        )
    factor = np.repeat(largest.ravel().astype(np.float32), block)[: both.size]
    weights = (codes[both] * factor).reshape(columns, depth).T
    if not each.integer("transB", 1):
        raise ModelError(f"{each.what}: attribute transB = 0: only 1 can be imported")
    w.emit("MatMul", each.input(0), w.constant(np.ascontiguousarray(weights.astype(largest.dtype))), out=each.out)


def _halves(packed: Array) -> NDArray[np.uint8]:
    """Two numbers from each byte, the low one first; the last axis grows."""
    given = packed.astype(np.uint8)
    both = np.stack([given & 15, given >> _HALF_BYTE], -1)
    return both.reshape(*packed.shape[:-1], -1)


TABLES: dict[str, TypedRewrite] = {"GatherBlockQuantized": _gather_blocks, "MatMulBnb4": _matmul_bnb4}
