"""A step that runs many times, as Relax functions that call it.

A loop over time is written as functions of a few dozen calls: one calls the step, the next one calls that function, and
so on. All shapes are static, so every layer of the step is a task like any other, the code grows with the logarithm of
the number of rounds, and what is compiled is plain Relax, which runs wherever TVM runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_spm.errors import ModelError
from tvm_spm.frontend.calls import ENTRY, functions_named
from tvm_spm.frontend.wide import MOST_TENSORS

MOST_CALLS = MOST_TENSORS
"""Of one function: of more, splits and joins would take several steps. Each level copies once what rounds read and
write."""


MOST_ROUNDS = 50_000
"""Of one loop; to be verified, every one of them runs call by call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """A step, and how often and over what it runs.

    Its function takes the states, then what is the same in every round, then one row of every sequence, with a first
    axis of one element; it returns the new states and then one row of everything that is collected, as such.

    Attributes:
        num_rounds: How often it runs.
        num_states: Values that go from round to round.
        num_same: Values that every round reads.
        is_backward: Per sequence, whether its last row comes first.
        collects_backward: Per value that is collected, whether the first round makes the last row.
    """

    num_rounds: int
    num_states: int
    num_same: int
    is_backward: tuple[bool, ...]
    collects_backward: tuple[bool, ...]


def add_rounds(builder: relax.BlockBuilder, name: str, step: tvm.IRModule, rounds: Rounds) -> tvm.ir.GlobalVar:
    """Add a step and the functions that run it to a module.

    Args:
        builder: Of the module; no function is open.
        name: Start of the names of the functions.
        step: Its ``main`` is the step; it calls other functions of its module, or of the builder's.
        rounds: How it runs.

    Returns:
        The function that runs all rounds. It takes what the step takes, with whole sequences in the place of rows, and
        returns what the step returns, with all rows collected.

    Raises:
        ModelError: The step returns states of other types than it takes; names both.
    """
    function = step[ENTRY]
    _check_states(function, rounds)
    name = _unused(builder, name)
    callee = _add_module(builder, name, step)
    if len(rounds.is_backward) + len(rounds.collects_backward) == 0 and rounds.num_rounds == 1:
        return callee
    size = 1
    radix = _radix(rounds.num_rounds)
    functions = [(size, callee)]
    while size * radix < rounds.num_rounds:
        made = _add_calls(builder, f"{name}_{size * radix}", function, rounds, [functions[-1]] * radix)
        size *= radix
        functions.append((size, made))
    left, calls = rounds.num_rounds, []
    for size, made in reversed(functions):
        calls += [(size, made)] * (left // size)
        left %= size
    return _add_calls(builder, f"{name}_all", function, rounds, calls, is_private=True)


def _unused(builder: relax.BlockBuilder, name: str) -> str:
    """A start of names that no function of a module has."""
    taken = {str(var.name_hint) for var in builder.get().get_global_vars()}
    found, number = name, 1
    while any(each.startswith(f"{found}_") for each in taken):
        number += 1
        found = f"{name}_{number}"
    return found


def _radix(num_rounds: int) -> int:
    """Calls in a function: as many levels as ``MOST_CALLS`` needs, all of about the same number of calls."""
    levels = next(levels for levels in itertools.count(1) if MOST_CALLS**levels >= num_rounds)
    return next(radix for radix in itertools.count(2) if radix**levels >= num_rounds)


def _check_states(step: relax.Function, rounds: Rounds) -> None:
    made = _fields(step.ret_ty)
    if len(made) != rounds.num_states + len(rounds.collects_backward):
        raise ModelError(
            f"a step of a loop makes {len(made)} values: must be {rounds.num_states} states and "
            f"{len(rounds.collects_backward)} rows"
        )
    for param, after in zip(step.params[: rounds.num_states], made, strict=False):
        if not tvm_ffi.structural_equal(param.ty, after):
            raise ModelError(f"a step of a loop takes {param.name!r} as {param.ty} and makes {after} of it")


def _fields(ty: tvm.ir.Type) -> list[tvm.ir.Type]:
    return list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]


def _add_module(builder: relax.BlockBuilder, name: str, step: tvm.IRModule) -> tvm.ir.GlobalVar:
    """All functions of a module under new names, callees first; returns what its ``main`` became."""
    known: dict[str, tvm.ir.GlobalVar] = {}
    left: dict[str, relax.Function] = {}
    for var, func in step.functions_items():
        if isinstance(func, relax.Function):
            left[str(var.name_hint)] = func
        else:
            known[str(var.name_hint)] = builder.add_func(func, str(var.name_hint))
    while left:
        ready = [each for each, func in left.items() if not functions_named(func) & set(left)]
        for each in ready:
            func = _Renamed(known).visit_expr(left.pop(each))
            new = f"{name}_step" if each == ENTRY else f"{name}_{each}"
            known[each] = builder.add_func(_public(func, new) if _is_public(func) else func, new)
    return known[ENTRY]


def _is_public(func: relax.Function) -> bool:
    return func.attrs is not None and "global_symbol" in func.attrs


def _public(func: relax.Function, name: str) -> relax.Function:
    plain = relax.Function(func.params, func.body, func.ret_ty, func.is_pure)
    return plain.with_attr("global_symbol", name)


@mutator
class _Renamed(PyExprMutator):
    """Calls functions under the names that they have in another module."""

    def __init__(self, known: dict[str, tvm.ir.GlobalVar]) -> None:
        super().__init__()
        self._known = known

    def visit_global_var_(self, var: tvm.ir.GlobalVar) -> relax.Expr:
        return self._known.get(str(var.name_hint), var)


def _add_calls(
    builder: relax.BlockBuilder,
    name: str,
    step: relax.Function,
    rounds: Rounds,
    calls: Sequence[tuple[int, tvm.ir.GlobalVar]],
    *,
    is_private: bool = False,
) -> tvm.ir.GlobalVar:
    """A function that calls others one after the other, each with the rounds that it runs."""
    sizes = [size for size, _ in calls]
    num_fixed = rounds.num_states + rounds.num_same
    params = [relax.Var(param.name, param.ty) for param in step.params[:num_fixed]]
    sequences = [relax.Var(param.name, _rows(param.ty, sum(sizes))) for param in step.params[num_fixed:]]
    collected: list[list[relax.Expr]] = [[] for _ in rounds.collects_backward]
    with builder.function(name, [*params, *sequences], private=is_private):
        with builder.dataflow():
            cut = [
                _cut(builder, sequence, sizes, is_backward=is_backward)
                for sequence, is_backward in zip(sequences, rounds.is_backward, strict=True)
            ]
            states: list[relax.Expr] = list(params[: rounds.num_states])
            same = params[rounds.num_states :]
            for number, (_, callee) in enumerate(calls):
                rows = [parts[number] for parts in cut]
                made = _emitted(builder, relax.Call(callee, [*states, *same, *rows]))
                states = made[: rounds.num_states]
                for parts, row in zip(collected, made[rounds.num_states :], strict=True):
                    parts.append(row)
            joined = [
                parts[0] if len(parts) == 1
                else builder.emit(relax.op.concat(parts[::-1] if is_backward else parts, axis=0))
                for parts, is_backward in zip(collected, rounds.collects_backward, strict=True)
            ]  # fmt: skip
            results = [*states, *joined]
            out = builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
        # The builder gives back the function it has if this one is equal to it.
        return builder.emit_func_output(out)


def _emitted(builder: relax.BlockBuilder, call: relax.Call) -> list[relax.Expr]:
    made = builder.emit(call)
    if not isinstance(made.ty, relax.TupleType):
        return [made]
    return [builder.emit(relax.TupleGetItem(made, index)) for index in range(len(made.ty.fields))]


def _cut(
    builder: relax.BlockBuilder, sequence: relax.Var, sizes: Sequence[int], *, is_backward: bool
) -> list[relax.Expr]:
    """The rows of a sequence for every call."""
    if len(sizes) == 1:
        return [sequence]
    lengths = list(sizes)[::-1] if is_backward else list(sizes)
    parts = builder.emit(relax.op.split(sequence, list(itertools.accumulate(lengths))[:-1], axis=0))
    found = [builder.emit(relax.TupleGetItem(parts, index)) for index in range(len(sizes))]
    return found[::-1] if is_backward else found


def _rows(ty: relax.TensorType, num_rows: int) -> relax.TensorType:
    return relax.TensorType([num_rows, *list(ty.shape.values)[1:]], ty.dtype)
