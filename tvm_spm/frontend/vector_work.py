"""What a TIR function without multiply-accumulate nest asks of the vector unit."""

from __future__ import annotations

import math
import re

import tvm
import tvm_ffi

from tvm_spm.frontend.tir.affine import Affine, affine_of, split_vars
from tvm_spm.frontend.tir.blocks import Block, count_ops, loads_of, read_blocks
from tvm_spm.units import bits_to_bytes
from tvm_spm.workload import VectorWork, dtype_bits


def vector_work(func: tvm.tirx.PrimFunc, name: str) -> VectorWork | str:
    """Bytes and operations of a function, or why they cannot be told.

    Every parameter is read once as far as the blocks touch it; intermediate tensors stay on the chip.
    """
    blocks = read_blocks(func)
    if isinstance(blocks, str):
        return blocks
    written = [param for param in func.params if any(block.buffer.same_as(param) for block in blocks)]
    read = [param for param in func.params if not any(param.same_as(out) for out in written)]
    if not written:
        return "it writes no parameter"
    return VectorWork(
        operator=re.sub(r"\d+(?=_|$)", "", name.removeprefix("fused_")),
        read_bytes=sum(_bytes(param, _touched_elems(param, blocks)) for param in read),
        write_bytes=sum(_bytes(param, _elems(param)) for param in written),
        num_ops=sum(block.num_iterations * _num_ops(block.store.value) for block in blocks),
    )


def _num_ops(value: tvm.ir.Expr) -> int:
    """Operations for one element. Lanes widen floats as they read them and round them as they write them, as a PE does
    with what it multiplies: only a conversion that nothing else comes with takes an operation of its own.
    """
    num_ops = count_ops(value)
    widened: list[tvm.tirx.Cast] = []
    tvm_ffi.structural_walk(value, (tvm.tirx.Cast, widened.append), order="post")
    free = sum(bool(loads_of(cast)) and _is_float(cast) and _is_float(cast.value) for cast in widened)
    return max(num_ops - free, min(num_ops, 1))


def _is_float(value: tvm.ir.Expr) -> bool:
    return "float" in str(value.ty.dtype)


def _elems(buffer: tvm.ir.Var) -> int:
    return math.prod(int(extent) for extent in buffer.shape)


def _bytes(buffer: tvm.ir.Var, num_elems: int) -> int:
    return bits_to_bytes(num_elems * dtype_bits(str(buffer.dtype)))


def _touched_elems(buffer: tvm.ir.Var, blocks: tuple[Block, ...]) -> int:
    total = 0
    for block in blocks:
        pieces = split_vars(block)
        env = {} if isinstance(pieces, str) else {var: Affine.of_pieces(parts) for var, parts in pieces.items()}
        for load in loads_of(block.store.value):
            if load.source.same_as(buffer):
                spans = [_span(affine_of(i, env), int(e)) for i, e in zip(load.indices, buffer.shape, strict=True)]
                total += min(math.prod(spans), block.num_iterations)
    return min(total, _elems(buffer))


def _span(index: Affine | None, extent: int) -> int:
    """Elements between the first and the last index; all of an axis whose index depends on data."""
    if index is None:
        return extent
    return min(extent, 1 + sum(abs(factor) * (piece.extent - 1) for piece, factor in index.terms))
