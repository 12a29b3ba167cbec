"""A block around code that has none, since TVM's passes over a network expect one in every function."""

from __future__ import annotations

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize

_NAME = "spm_code"


def has_root_block(func: tirx.PrimFunc) -> bool:
    """Whether the body of a function is one block."""
    return isinstance(func.body, SBlockRealize)


def with_root_block(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with a block around its body, unless there is one.

    Without one TVM ends the compilation of any network that calls the function with a single tensor.
    """
    if has_root_block(func):
        return func
    block = SBlock([], [], [], _NAME, func.body)
    return func.with_body(SBlockRealize([], tirx.IntImm("bool", 1), block))


def without_root_block(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function as it was before ``with_root_block``."""
    if has_root_block(func) and func.body.block.name_hint == _NAME:
        return func.with_body(func.body.block.body)
    return func
