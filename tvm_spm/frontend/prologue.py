"""Functions that first compute an operand are cut there: what stands before the nest is work of its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import tvm
from tvm import relax, s_tir, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_spm.frontend.layers.loads import block_loads
from tvm_spm.frontend.tir.blocks import Block, read_blocks
from tvm_spm.frontend.tir.nest import TirNest, read_nest

Pieces = tuple[tuple[tirx.PrimFunc, tuple[int, ...]], ...]
"""Functions in order of execution, and per function its inputs: parameters of the function that was cut by their
position, then the results of earlier pieces, counted on from the number of its parameters."""


def cut_prologue(func: tirx.PrimFunc) -> Pieces | None:
    """A function as what computes the operands of its nest, one function per tensor, and the rest.

    Before::

        for i, c in ...: relu[i, c] = max(A[i, c], 0)
        for i, k, c in ...: O[i, k] += relu[i, c] * W[k, c]

    After, where ``relu`` is the result of one function and a parameter of the other::

        for i, c in ...: relu[i, c] = max(A[i, c], 0)

        for i, k, c in ...: O[i, k] += relu[i, c] * W[k, c]

    Args:
        func: Not scheduled.

    Returns:
        ``None`` if nothing stands before its nest, or it has none.
    """
    nest, blocks = read_nest(func), read_blocks(func)
    if not isinstance(nest, TirNest) or isinstance(blocks, str) or not nest.prologue:
        return None
    before = [block for block in blocks if block.name in nest.prologue]
    rest = [block for block in blocks if block.name not in nest.prologue]
    passed = [block.buffer for block in before if _reads_any(rest, [block.buffer])]
    params = list(func.params)
    outputs = [param for param in params if any(block.buffer.same_as(param) for block in blocks)]
    tensors = [*params, *passed]
    pieces = []
    for number, tensor in enumerate(passed):
        chain = _chain(before, tensor, passed[:number])
        pieces.append(_piece(func, chain, tensors, [tensor]))
    pieces.append(_piece(func, rest, tensors, outputs))
    return tuple(pieces)


def _chain(before: Sequence[Block], tensor: tvm.ir.Var, known: Sequence[tvm.ir.Var]) -> list[Block]:
    """The blocks that compute a tensor, as far as it is not made of known ones."""
    needed, found = [tensor], []
    for block in reversed(before):
        if _is_in(block.buffer, needed) and not _is_in(block.buffer, known):
            found.append(block)
            needed += [load.source for load in block_loads(block)]
    return found[::-1]


def _piece(
    func: tirx.PrimFunc, blocks: Sequence[Block], tensors: Sequence[tvm.ir.Var], outputs: Sequence[tvm.ir.Var]
) -> tuple[tirx.PrimFunc, tuple[int, ...]]:
    inputs = tuple(
        index for index, tensor in enumerate(tensors) if not _is_in(tensor, outputs) and _reads_any(blocks, [tensor])
    )
    outside = [*(tensors[index] for index in inputs), *outputs]
    root = func.body.block
    names = {block.name for block in blocks}
    seq = root.body.seq if isinstance(root.body, tirx.SeqStmt) else [root.body]
    kept = [stmt for stmt in seq if _block_of(stmt) in names]
    own = [b for b in root.alloc_buffers if not _is_in(b, outside) and any(b.same_as(block.buffer) for block in blocks)]
    body = s_tir.SBlock([], [], [], root.name_hint, kept[0] if len(kept) == 1 else tirx.SeqStmt(kept), None, own)
    made = tirx.PrimFunc(outside, s_tir.SBlockRealize([], tirx.const(True, "bool"), body))
    for name in ("s_tir", "tirx.noalias"):
        if func.attrs is not None and name in func.attrs:
            made = made.with_attr(name, func.attrs[name])
    return s_tir.renew_defs(made), inputs


def _block_of(stmt: tirx.Stmt) -> str:
    while isinstance(stmt, tirx.For):
        stmt = stmt.body
    return str(stmt.block.name_hint) if isinstance(stmt, s_tir.SBlockRealize) else ""


def _is_in(tensor: tvm.ir.Var, tensors: Collection[tvm.ir.Var]) -> bool:
    return any(tensor.same_as(other) for other in tensors)


def _reads_any(blocks: Sequence[Block], tensors: Collection[tvm.ir.Var]) -> bool:
    return any(_is_in(load.source, tensors) for block in blocks for load in block_loads(block))


@mutator
class Prologues(PyExprMutator):
    """Calls the pieces of a function where it was called."""

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._known: dict[str, tuple[tuple[tvm.ir.GlobalVar, tuple[int, ...]], ...] | None] = {}

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """Replace the call of a function that is cut."""
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name != "relax.call_tir" or len(call.args) != 2:
            return call
        name, arguments = call.args
        pieces = self._pieces(name)
        if pieces is None or not isinstance(arguments, relax.Tuple):
            return call
        func = self.builder_.get()[name]
        num_params = len(func.params)
        values: dict[int, relax.Expr] = dict(enumerate(arguments.fields))
        for number, (piece, inputs) in enumerate(pieces[:-1]):
            out = self.builder_.get()[piece].params[-1]
            ty = relax.TensorType([int(extent) for extent in out.shape], str(out.dtype))
            made = relax.call_tir(piece, [values[index] for index in inputs], out_ty=ty)
            values[num_params + number] = self.builder_.emit(made)
        piece, inputs = pieces[-1]
        return relax.call_tir(piece, [values[index] for index in inputs], out_ty=call.ty)

    def _pieces(self, name: tvm.ir.GlobalVar) -> tuple[tuple[tvm.ir.GlobalVar, tuple[int, ...]], ...] | None:
        hint = str(name.name_hint)
        if hint not in self._known:
            cut = cut_prologue(self.builder_.get()[name])
            names = [] if cut is None else [f"before_{hint}"] * (len(cut) - 1) + [hint]
            self._known[hint] = (
                None
                if cut is None
                else tuple(
                    (self.builder_.add_func(func, piece_name), inputs)
                    for (func, inputs), piece_name in zip(cut, names, strict=True)
                )
            )
        return self._known[hint]
