"""What a function computes behind its sum, as steps of the vector unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tvm

from tvm_spm.frontend.tir.affine import Affine, Piece, affine_of
from tvm_spm.frontend.tir.blocks import Block, constant, loads_of, read_blocks
from tvm_spm.frontend.tir.nest import TirNest
from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import VectorStep, num_sources
from tvm_spm.stream.layout import DTYPES
from tvm_spm.stream.vector import NUM_REGISTERS, bits_of

_tirx = tvm.tirx

_OPERATIONS = {
    _tirx.Add: "add", _tirx.Sub: "sub", _tirx.Mul: "mul", _tirx.Div: "div", _tirx.FloorDiv: "floordiv",
    _tirx.FloorMod: "floormod", _tirx.Mod: "truncmod",
    _tirx.Min: "min", _tirx.Max: "max", _tirx.LT: "lt", _tirx.LE: "le", _tirx.EQ: "eq",
    _tirx.NE: "ne", _tirx.And: "and", _tirx.Or: "or", _tirx.RShift: "shr", _tirx.LShift: "shl", _tirx.BitwiseAnd: "and",
    _tirx.BitwiseOr: "or", _tirx.BitwiseXor: "xor",
}  # fmt: skip

_TURNED = {_tirx.GT: "lt", _tirx.GE: "le"}
"""Comparisons with their sides exchanged."""

_CALLS = {
    "exp": "exp", "log": "log", "sqrt": "sqrt", "rsqrt": "rsqrt", "tanh": "tanh", "sigmoid": "sigmoid", "erf": "erf",
    "floor": "floor", "ceil": "ceil", "nearbyint": "round", "round": "round", "trunc": "trunc", "fabs": "abs",
    "pow": "pow",
    "if_then_else": "select",
}  # fmt: skip

Form = tuple[Affine, ...]
Read = tuple[tvm.ir.Var, Form]
"""An element of a tensor: where, as a form in the loops of the last block."""


@dataclass(slots=True, kw_only=True)
class _Epilogue:
    """Steps so far, each with a register of its own from 1 on.

    Attributes:
        func: Whose.
        nest: Of it.
        blocks: Of it, by what they write.
        extras: Elements of parameters, in the order of the nest's extras.
        steps: In order.
        known: Registers that hold an element of what a block writes, or of an extra.
    """

    func: tvm.tirx.PrimFunc
    nest: TirNest
    blocks: tuple[Block, ...]
    extras: list[Read]
    steps: list[VectorStep] = field(default_factory=list)
    known: dict[Read, int] = field(default_factory=dict)


def vector_steps(func: tvm.tirx.PrimFunc, nest: TirNest) -> tuple[VectorStep, ...]:
    """The epilogue of a function.

    Args:
        func: Not scheduled.
        nest: Of it.

    Returns:
        Steps in the order of evaluation, equal parts once; none if sums are stored as they are.

    Raises:
        StreamError: The vector unit has no such operation, or too few registers; names it.
    """
    if not nest.epilogue:
        return ()
    blocks = read_blocks(func)
    assert not isinstance(blocks, str)
    last = next(block for block in blocks if block.name == nest.epilogue[-1])
    env = {
        var: Affine.of_pieces((Piece(position=at, index=0, extent=extent, weight=1, reduces=False),))
        for at, (var, extent, _) in enumerate(last.iters)
    }
    found = _Epilogue(func=func, nest=nest, blocks=blocks, extras=[])
    found.extras = list(dict.fromkeys(_extras(found, last, env)))
    params = [next(i for i, param in enumerate(func.params) if param.same_as(at)) for at, _ in found.extras]
    if tuple(params) != nest.extra_params:
        raise StreamError(f"block {last.name}: reads one element of a parameter in several ways")
    result = _value(found, last, env, last.store.value)
    if result == 0:
        return ()
    if result != len(found.steps):
        raise StreamError(f"block {last.name}: its result is an element that another block has")
    return _in_registers(found.steps, last.name)


def _extras(found: _Epilogue, block: Block, env: dict[tvm.ir.Var, Affine]) -> Iterator[Read]:
    """Elements of parameters, in the order in which the nest numbers them."""
    for load in loads_of(block.store.value):
        form = _form(load, env, block)
        source = _producer(found, load.source)
        if source is None:
            yield load.source, form
        elif source.name != found.nest.block:
            yield from _extras(found, source, _bound(source, form))


def _value(found: _Epilogue, block: Block, env: dict[tvm.ir.Var, Affine], expr: tvm.ir.Expr) -> int:
    """The register that holds an expression of a block."""
    if isinstance(expr, tvm.ir.TensorLoad):
        return _element(found, expr, _form(expr, env, block))
    dtype = _dtype(expr, block)
    if not loads_of(expr):
        return _add(found, "const", dtype, immediate=bits_of(_constant(expr, block), dtype))
    kind = type(expr)
    if isinstance(expr, _tirx.Cast):
        return _add(found, "cast", dtype, _value(found, block, env, expr.value))
    if isinstance(expr, _tirx.Not):
        one = _add(found, "const", dtype, immediate=1)
        return _add(found, "xor", dtype, _value(found, block, env, expr.a), one)
    if isinstance(expr, tvm.ir.Call) and expr.op.name.endswith(".q_multiply_shift"):
        return _fixed_point(found, block, env, expr)
    if isinstance(expr, _tirx.Select):
        parts, name = [expr.condition, expr.true_value, expr.false_value], "select"
    elif isinstance(expr, tvm.ir.Call):
        parts, name = list(expr.args), _CALLS.get(expr.op.name.rpartition(".")[2], "")
    elif kind in _TURNED:
        parts, name = [expr.b, expr.a], _TURNED[kind]
    else:
        name = _OPERATIONS.get(kind, "")
        parts = [expr.a, expr.b] if name else []
    if not name or len(parts) != num_sources(name):
        what = expr.op.name if isinstance(expr, tvm.ir.Call) else kind.__name__
        raise StreamError(f"block {block.name}: the vector unit has no operation {what}")
    return _add(found, name, dtype, *(_value(found, block, env, part) for part in parts))


def _fixed_point(found: _Epilogue, block: Block, env: dict[tvm.ir.Var, Affine], call: tvm.ir.Call) -> int:
    """A product with a number of ``q`` fractional bits, shifted left by ``s``: one operation on 64 bits."""
    value, factor, fraction_bits, shift = call.args
    q, s = int(_constant(fraction_bits, block)), int(_constant(shift, block))
    if loads_of(factor) and s > 0:
        raise StreamError(f"block {block.name}: q_multiply_shift by a tensor with a shift of {s}: must be <= 0")
    if loads_of(factor):
        by = _value(found, block, env, factor)
    else:
        by = _add(found, "const", "int64", immediate=int(_constant(factor, block)) << max(s, 0))
    places = _add(found, "const", "int32", immediate=q - min(s, 0))
    return _add(found, "qmul", _dtype(call, block), _value(found, block, env, value), by, places)


def _element(found: _Epilogue, load: tvm.ir.TensorLoad, form: Form) -> int:
    """The register of one element that is read: the sum, what another block computed, or an extra."""
    source, key = _producer(found, load.source), (load.source, form)
    if source is not None and source.name == found.nest.block:
        return 0
    if key not in found.known:
        if source is None:
            dtype = str(load.source.dtype)
            found.known[key] = _add(found, "extra", dtype, immediate=found.extras.index(key))
        else:
            found.known[key] = _value(found, source, _bound(source, form), source.store.value)
    return found.known[key]


def _producer(found: _Epilogue, buffer: tvm.ir.Var) -> Block | None:
    """The block that writes a buffer; none writes a parameter that is read."""
    return next((block for block in found.blocks if block.buffer.same_as(buffer)), None)


def _form(load: tvm.ir.TensorLoad, env: dict[tvm.ir.Var, Affine], block: Block) -> Form:
    forms = [affine_of(index, env) for index in load.indices]
    known = tuple(form for form in forms if form is not None)
    if len(known) < len(forms):
        raise StreamError(f"block {block.name}: an index of what it reads is not affine")
    return known


def _bound(block: Block, form: Form) -> dict[tvm.ir.Var, Affine]:
    """The loops of a block at the element ``form`` of what it writes."""
    pairs = zip(block.store.indices, form, strict=True)
    return {index: value for index, value in pairs if isinstance(index, tvm.ir.Var)}


def _dtype(expr: tvm.ir.Expr, block: Block) -> str:
    """Of an expression; truths are bytes."""
    dtype = "uint8" if str(expr.ty.dtype) == "bool" else str(expr.ty.dtype)
    if dtype not in DTYPES:
        raise StreamError(f"block {block.name}: {dtype}: the vector unit has {', '.join(DTYPES)}")
    return dtype


def _constant(expr: tvm.ir.Expr, block: Block) -> float:
    if isinstance(expr, _tirx.Cast):
        return float(np.asarray(_constant(expr.value, block)).astype(_dtype(expr, block)))
    value = constant(expr)
    if value is None:
        raise StreamError(f"block {block.name}: {expr} depends on where an output lies, which the vector unit cannot")
    return value


def _add(found: _Epilogue, operation: str, dtype: str, *sources: int, immediate: int = 0) -> int:
    """Add a step, unless it is there already; returns its register."""
    padded = (*sources, 0, 0, 0)
    step = VectorStep(
        operation=operation, dtype=dtype, target=0, sources=(padded[0], padded[1], padded[2]), immediate=immediate
    )
    if step in found.steps:
        return found.steps.index(step) + 1
    found.steps.append(step)
    return len(found.steps)


def _in_registers(steps: Sequence[VectorStep], name: str) -> tuple[VectorStep, ...]:
    """The steps in as few registers as are live at a time; step ``i`` had register ``i + 1``."""
    last_use = {0: -1}
    for number, step in enumerate(steps):
        for source in step.sources[: num_sources(step.operation)]:
            last_use[source] = number
    place, free = {0: 0}, list(range(1, NUM_REGISTERS))
    found = []
    for number, step in enumerate(steps):
        taken = step.sources[: num_sources(step.operation)]
        sources = [place[source] for source in taken] + [0] * (3 - len(taken))
        for source in dict.fromkeys(taken):
            if last_use[source] == number:
                free.insert(0, place.pop(source))
        if not free:
            raise StreamError(f"epilogue {name}: more than {NUM_REGISTERS} values are needed at a time")
        place[number + 1] = free.pop(0)
        moved = replace(step, target=place[number + 1], sources=(sources[0], sources[1], sources[2]))
        found.append(moved)
    return tuple(found)
