"""Reads a multiply-accumulate nest, and what surrounds it, from the blocks of a TIR function."""

from __future__ import annotations

from dataclasses import dataclass, replace

import tvm

from tvm_spm.errors import WorkloadError
from tvm_spm.frontend.tir.affine import Affine, Piece, affine_of, split_vars
from tvm_spm.frontend.tir.blocks import Block, constant, count_ops, loads_of, read_blocks, strip_casts
from tvm_spm.frontend.tir.naming import Roles, name_pieces
from tvm_spm.frontend.tir.packed import BYTE, bits_kept
from tvm_spm.workload import DIM_NAMES, Axis, Dims, Epilogue, Projection, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class TirNest:
    """A workload and where it stands in a TIR function.

    Attributes:
        workload: The loop nest; padding in front is a negative axis offset, the extents are those of the stored tensor.
        block: The block that multiplies and accumulates.
        iter_dims: For every iteration variable of ``block``, in order, the loop dims it stands for, outer to inner. A
            variable of extent 1 may stand for none.
        input_read: Index of I in ``block.reads``.
        weight_read: Index of W in ``block.reads``.
        pad_block: The block that pads I or copies it unchanged, if any; I of the workload is what that block reads.
        unpack_block: The block that takes W of less than a byte out of the bytes it is stored in, if any; W of the
            workload is what that block writes.
        prologue: Other blocks that compute I or W, in order; I and W of the workload are what they write. No program
            of a mapping contains them: they are to be functions of their own (see ``frontend.prologue``).
        epilogue: Blocks that follow, in order; all are element-wise.
        extra_params: Per extra of the workload's epilogue, which parameter of the function it is.
    """

    workload: Workload
    block: str
    iter_dims: tuple[tuple[str, ...], ...]
    input_read: int
    weight_read: int
    pad_block: str | None = None
    unpack_block: str | None = None
    prologue: tuple[str, ...] = ()
    epilogue: tuple[str, ...] = ()
    extra_params: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """Why a function is not one multiply-accumulate nest; ``has_macs`` tells a strange one from none at all."""

    reason: str
    has_macs: bool = True


class _NotANestError(Exception):
    """Leaves the reader early; never leaves this module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _NestReader:
    """The function as blocks, and the pieces of the multiply-accumulate block's iteration variables."""

    blocks: tuple[Block, ...]
    mac: Block
    operands: tuple[tvm.ir.TensorLoad, tvm.ir.TensorLoad]
    env: dict[tvm.ir.Var, Affine]
    pieces: dict[tvm.ir.Var, tuple[Piece, ...]]

    def producer(self, buffer: tvm.ir.Var) -> Block | None:
        """The block that writes a buffer; none writes a parameter that is read."""
        return next((block for block in self.blocks if block.buffer.same_as(buffer)), None)


def read_nest(func: tvm.tirx.PrimFunc) -> TirNest | Unsupported:
    """The multiply-accumulate nest of an unscheduled function.

    Everything is read from iteration domains and index expressions; names of functions and blocks mean nothing.

    Args:
        func: A function as ``te.create_prim_func`` or ``FuseTIR`` makes them: one block per loop nest.

    Returns:
        The nest, or the reason why the function is none.
    """
    blocks = read_blocks(func)
    if isinstance(blocks, str):
        return Unsupported(reason=blocks, has_macs=False)
    macs = [(block, operands) for block in blocks if (operands := _multiplied(block)) is not None]
    if not macs:
        return Unsupported(reason="no block multiplies two tensors and accumulates", has_macs=False)
    if len(macs) > 1:
        return Unsupported(reason=f"{len(macs)} blocks multiply and accumulate, one is expected")
    mac, operands = macs[0]
    pieces = split_vars(mac)
    if isinstance(pieces, str):
        return Unsupported(reason=pieces)
    env = {var: Affine.of_pieces(parts) for var, parts in pieces.items()}
    reader = _NestReader(blocks=blocks, mac=mac, operands=operands, env=env, pieces=pieces)
    try:
        return _read(reader, func)
    except _NotANestError as error:
        return Unsupported(reason=str(error))


def _read(reader: _NestReader, func: tvm.tirx.PrimFunc) -> TirNest:
    mac = reader.mac
    out = _indices(mac.store.indices, reader.env, "the sum")
    forms = [_indices(load.indices, reader.env, "an operand") for load in reader.operands]
    roles = Roles.of(forms[0], forms[1], out, tuple(piece for parts in reader.pieces.values() for piece in parts))
    if isinstance(roles, str):
        raise _NotANestError(roles)
    names = name_pieces(roles)
    if isinstance(names, str):
        raise _NotANestError(names)
    first, second = reader.operands if not roles.swapped else reversed(reader.operands)
    if first.source.same_as(second.source):
        raise _NotANestError("both operands are the same tensor")
    pad, source, source_form = _through_padding(reader, first, roles.input)
    inputs = _projection(source, source_form, names)
    weights, unpack = _projection(second.source, roles.weight, names), _unpacking(reader, second)
    if unpack is not None:
        weights = replace(weights, dtype=weights.dtype.replace(str(BYTE), str(bits_kept(unpack.store.value))))
    outputs = _projection(mac.buffer, out, names)
    epilogue_blocks, extras, epilogue, out_dtype = _epilogue(reader, func, out, names)
    before = _producers(reader, (source,) if unpack is not None else (source, second.source))
    dims = Dims(**{name: piece.extent for piece, name in names.items()})
    try:
        workload = Workload(
            kind="conv2d" if roles.slides else "matmul",
            dims=dims, I=inputs, W=weights, O=outputs, out_dtype=out_dtype, epilogue=epilogue,
        )  # fmt: skip
    except WorkloadError as error:
        raise _NotANestError(str(error)) from error
    return TirNest(
        workload=workload,
        block=mac.name,
        iter_dims=tuple(tuple(names[p] for p in reader.pieces[var] if p in names) for var, _, _ in mac.iters),
        input_read=_read_index(mac, first.source),
        weight_read=_read_index(mac, second.source),
        pad_block=None if pad is None else pad.name,
        unpack_block=None if unpack is None else unpack.name,
        prologue=tuple(block.name for block in before),
        epilogue=tuple(block.name for block in epilogue_blocks),
        extra_params=tuple(
            next(i for i, param in enumerate(func.params) if param.same_as(buffer)) for buffer in extras
        ),
    )


def _multiplied(block: Block) -> tuple[tvm.ir.TensorLoad, tvm.ir.TensorLoad] | None:
    """The two loads of ``O[i] = O[i] + a * b``."""
    if not block.has_init or not isinstance(block.store.value, tvm.tirx.Add):
        return None
    left, right = block.store.value.a, block.store.value.b
    if not (isinstance(left, tvm.ir.TensorLoad) and left.source.same_as(block.buffer)):
        left, right = right, left
    if not (isinstance(left, tvm.ir.TensorLoad) and left.source.same_as(block.buffer)):
        return None
    product = strip_casts(right)
    if not isinstance(product, tvm.tirx.Mul):
        return None
    first, second = _operand(product.a), _operand(product.b)
    return None if first is None or second is None else (first, second)


def _operand(value: tvm.ir.Expr) -> tvm.ir.TensorLoad | None:
    """A load, or a load guarded by a test for padding."""
    value = strip_casts(value)
    return value if isinstance(value, tvm.ir.TensorLoad) else _zero_padded(value)


def _zero_padded(value: tvm.ir.Expr) -> tvm.ir.TensorLoad | None:
    if isinstance(value, tvm.ir.Call) and value.op.name.endswith(".if_then_else"):
        condition, inside, outside = value.args
    elif isinstance(value, tvm.tirx.Select):
        condition, inside, outside = value.condition, value.true_value, value.false_value
    else:
        return None
    inside = strip_casts(inside)
    if loads_of(condition) or constant(outside) != 0 or not isinstance(inside, tvm.ir.TensorLoad):
        return None
    return inside


def _through_padding(
    reader: _NestReader, load: tvm.ir.TensorLoad, form: tuple[Affine, ...]
) -> tuple[Block | None, tvm.ir.Var, tuple[Affine, ...]]:
    """The padding block of an operand, a plain copy included, and the tensor and indices it reads."""
    block = reader.producer(load.source)
    if block is None or block.reduces:
        return None, load.source, form
    value = block.store.value
    inner = value if isinstance(value, tvm.ir.TensorLoad) else _zero_padded(value)
    if inner is None:
        return None, load.source, form
    indices = [affine_of(index, _bind(block, form)) for index in inner.indices]
    found = [index for index in indices if index is not None]
    return (None, load.source, form) if len(found) < len(indices) else (block, inner.source, tuple(found))


def _unpacking(reader: _NestReader, load: tvm.ir.TensorLoad) -> Block | None:
    """The block that takes an operand of less than a byte out of the bytes of one parameter."""
    block = reader.producer(load.source)
    if block is None or block.reduces or bits_kept(block.store.value) == BYTE:
        return None
    loads = loads_of(block.store.value)
    is_stored = all(reader.producer(each.source) is None and str(each.source.dtype) == "uint8" for each in loads)
    return block if is_stored and len({each.source.name for each in loads}) == 1 else None


def _bind(block: Block, form: tuple[Affine, ...]) -> dict[tvm.ir.Var, Affine]:
    """The iteration variables of a block at the element ``form`` of what it writes."""
    env = {}
    for index, value in zip(block.store.indices, form, strict=True):
        if isinstance(index, tvm.ir.Var):
            env[index] = value
        elif constant(index) is None:
            raise _NotANestError(f"block {block.name} does not write where its loops stand")
    return env


def _epilogue(
    reader: _NestReader, func: tvm.tirx.PrimFunc, out: tuple[Affine, ...], names: dict[Piece, str]
) -> tuple[tuple[Block, ...], tuple[tvm.ir.Var, ...], Epilogue, str]:
    written = [block for block in reader.blocks if any(block.buffer.same_as(param) for param in func.params)]
    if len(written) != 1:
        raise _NotANestError(f"{len(written)} outputs are written, one is expected")
    last = written[0]
    if last.buffer.same_as(reader.mac.buffer):
        return (), (), Epilogue(), last.dtype
    if last.shape != reader.mac.shape:
        raise _NotANestError(f"block {last.name} changes the shape {reader.mac.shape} to {last.shape}")
    visited: dict[str, Block] = {}
    extras: dict[tuple[tvm.ir.Var, Projection], None] = {}
    reaches_sum = _trace(reader, last, out, names, out, visited, extras)
    if not reaches_sum:
        raise _NotANestError("the output does not depend on the sum")
    chain = tuple(block for block in reader.blocks if block.name in visited)
    # A block of fewer elements, say a scale per channel, is merged into the last one like any other.
    num_ops = sum(count_ops(block.store.value) for block in chain)
    epilogue = Epilogue(num_ops_per_elem=num_ops, extras=tuple(extra for _, extra in extras))
    return chain, tuple(buffer for buffer, _ in extras), epilogue, last.dtype


def _trace(
    reader: _NestReader, block: Block, at: tuple[Affine, ...], names: dict[Piece, str], out: tuple[Affine, ...],
    visited: dict[str, Block], extras: dict[tuple[tvm.ir.Var, Projection], None],
) -> bool:  # fmt: skip
    """Follow what one element of a block's result is made of; collects blocks and parameters on the way."""
    if block.reduces:
        raise _NotANestError(f"block {block.name} behind the sum reduces")
    visited[block.name] = block
    env, reaches_sum = _bind(block, at), False
    for load in loads_of(block.store.value):
        form = _indices(load.indices, env, f"a read of block {block.name}")
        if load.source.same_as(reader.mac.buffer):
            if form != out:
                raise _NotANestError(f"block {block.name} reads the sum of another element")
            reaches_sum = True
            continue
        source = reader.producer(load.source)
        if source is None:
            extras.setdefault((load.source, _projection(load.source, form, names)))
        elif _trace(reader, source, form, names, out, visited, extras):
            reaches_sum = True
    return reaches_sum


def _producers(reader: _NestReader, buffers: tuple[tvm.ir.Var, ...]) -> tuple[Block, ...]:
    """All blocks that the buffers depend on, in order."""
    found: dict[str, Block] = {}
    pending = list(buffers)
    while pending:
        block = reader.producer(pending.pop())
        if block is not None and block.name not in found:
            found[block.name] = block
            pending += [load.source for load in loads_of(block.store.value)]
    return tuple(block for block in reader.blocks if block.name in found)


def _indices(indices: list[tvm.ir.Expr], env: dict[tvm.ir.Var, Affine], what: str) -> tuple[Affine, ...]:
    found = []
    for index in indices:
        form = affine_of(index, env)
        if form is None:
            raise _NotANestError(f"index {index} of {what} is not affine")
        found.append(form)
    return tuple(found)


def _projection(buffer: tvm.ir.Var, form: tuple[Affine, ...], names: dict[Piece, str]) -> Projection:
    axes = []
    for index, extent in zip(form, buffer.shape, strict=True):
        named = {names[piece]: factor for piece, factor in index.terms if piece in names}
        if any(factor < 0 for factor in named.values()):
            raise _NotANestError("an index runs backwards")
        units = {names[piece] for piece, _ in index.terms if piece in names and piece.extent == 1}
        if "G" in named:
            # One of several groups: a channel of extent 1 inside a group is no term of its own.
            named = {name: factor for name, factor in named.items() if name not in units or name == "G"}
        terms = tuple((name, named[name]) for name in DIM_NAMES if name in named)
        axes.append(Axis(terms=terms, extent=int(extent), offset=index.offset))
    return Projection(axes=tuple(axes), dtype=str(buffer.dtype))


def _read_index(block: Block, buffer: tvm.ir.Var) -> int:
    return next(i for i, region in enumerate(block.sblock.reads) if region.source.same_as(buffer))
