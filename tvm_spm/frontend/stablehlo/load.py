"""A StableHLO program as a Relax module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tvm
from jaxlib.mlir import ir
from jaxlib.mlir._mlir_libs import _jax_mlir_ext
from jaxlib.mlir.dialects import chlo, stablehlo
from tvm import relax

from tvm_spm.errors import ModelError, did_you_mean
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.rounds import add_rounds
from tvm_spm.frontend.stablehlo.loops import LoopBody, LoopCount, LoopStep, count_of, step_of
from tvm_spm.frontend.stablehlo.operators import OPERATORS, kind_of
from tvm_spm.frontend.stablehlo.unit_axes import without_unit_axes
from tvm_spm.frontend.stablehlo.value import Emitter, Value
from tvm_spm.input_file import read_regular

_BYTECODE = b"ML\xefR"
"""How MLIR's binary files begin."""

MAX_DEPTH = 64
"""Of calls."""

_AT_THE_COUNTER = ("stablehlo.dynamic_slice", "stablehlo.dynamic_update_slice")
"""Operators that only loops have, to read and write rows."""

Around = Mapping[Any, Value]
"""Constants outside of a block, by MLIR's values."""

_NOTHING: Around = MappingProxyType({})


def import_stablehlo(path: Path, *, max_memory_bytes: int) -> tvm.IRModule:
    """Read a file with a function ``main``: text, or a portable artifact (``jax.export`` writes its bytes).

    Args:
        path: The file.
        max_memory_bytes: Refuse a larger one.

    Raises:
        ModelError: It cannot be read or parsed, has dims without a number, or an operator that is not known; names it
            with its place.
    """
    content = read_regular(path, max_bytes=max_memory_bytes, error=ModelError)
    registry = ir.DialectRegistry()
    _jax_mlir_ext.register_dialects(registry)
    context = ir.Context()
    context.append_dialect_registry(registry)
    context.load_all_available_dialects()
    for dialect in (stablehlo, chlo):
        dialect.register_dialect(context)
    with context:
        try:
            if content.startswith(_BYTECODE):
                module = stablehlo.deserialize_portable_artifact(context, content)
            else:
                module = ir.Module.parse(content.decode("utf-8"))
        except (ir.MLIRError, ValueError) as error:
            raise ModelError(f"{path}: no StableHLO that can be parsed: {_reason(error)}") from None
        functions = {each.attributes["sym_name"].value: each for each in module.body.operations
                     if each.operation.name == "func.func"}  # fmt: skip
        if "main" not in functions:
            listed = ", ".join(repr(name) for name in functions) or "none"
            raise ModelError(f"{path}: the module has no function 'main' (it has {listed})")
        return _Reader(functions, str(path)).module()


def _reason(error: BaseException) -> str:
    """What MLIR says in a line, with line and column."""
    lines = [line.strip() for line in str(error).splitlines() if "error:" in line]
    return lines[0].removeprefix("error: ")[:300] if lines else first_line(error)


class _Reader:
    """Walks the functions of one module; calls are read in place."""

    def __init__(self, functions: dict[str, Any], origin: str, loops: relax.BlockBuilder | None = None) -> None:
        self._functions, self._origin = functions, origin
        self._loops = relax.BlockBuilder() if loops is None else loops
        self._inside: LoopBody | None = None
        self._builder = relax.BlockBuilder()
        self._writer = Emitter(builder=self._builder)

    def module(self) -> tvm.IRModule:
        """The module of ``main``."""
        block = self._functions["main"].regions[0].blocks[0]
        params = []
        for number, argument in enumerate(block.arguments):
            try:
                shape, dtype = kind_of(argument)
            except NotImplementedError as error:
                raise ModelError(f"{self._origin}: argument {number} of main: {error}") from None
            params.append(relax.Var(f"arg{number}", relax.TensorType(list(shape), dtype)))
        with self._builder.function("main", params):
            with self._builder.dataflow():
                given = [Value(expr=param, shape=tuple(int(e) for e in param.ty.shape.values)) for param in params]
                made = [self._writer.whole(value) for value in self._body(block, given, 0)]
                output = self._builder.emit_output(made[0] if len(made) == 1 else relax.Tuple(made))
            self._builder.emit_func_output(output)
        found = self._builder.get()
        found.update(self._loops.get())
        return without_unit_axes(found)

    def _body(self, block: Any, arguments: list[Value], depth: int, around: Around = _NOTHING) -> list[Value]:  # noqa: ANN401 (MLIR's own)
        known = {**around, **dict(zip(block.arguments, arguments, strict=True))}
        for each in block.operations:
            operation = each.operation
            operands = [known[operand] for operand in operation.operands]
            if operation.name in ("func.return", "stablehlo.return"):
                return operands
            if operation.name == "func.call":
                callee = self._functions[operation.attributes["callee"].value]
                if depth == MAX_DEPTH:
                    raise ModelError(f"{self._origin}: calls nest deeper than {MAX_DEPTH}; functions cannot recur")
                made = self._body(callee.regions[0].blocks[0], operands, depth + 1)
            elif operation.name == "stablehlo.while":
                made = self._loop(operation, operands, depth, {k: v for k, v in known.items() if v.array is not None})
            else:
                made = [self._converted(operation, operands)]
            known |= dict(zip(operation.results, made, strict=True))
        raise ModelError(f"{self._origin}: a function returns nothing")

    def _converted(self, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401 (MLIR's own)
        place = f"{self._origin}: operator {operation.name} at {_place(operation)}"
        convert = OPERATORS.get(operation.name)
        if self._inside is not None and operation.name in _AT_THE_COUNTER:
            at = self._inside
            convert = at.row if operation.name == "stablehlo.dynamic_slice" else at.written
        if convert is None:
            target = operation.attributes["call_target_name"] if "call_target_name" in operation.attributes else ""
            raise ModelError(
                f"{place}: unknown{f' ({target})' if target else ''}; {did_you_mean(operation.name, OPERATORS)}"
            )
        try:
            shape, dtype = kind_of(operation.results[0])
            made = convert(self._writer, operation, operands)
            if self._inside is not None:
                self._inside.follow(operation.name, operands, made)
        except TVM_ERRORS as error:
            raise ModelError(f"{place}: cannot import: {first_line(error)}") from error
        if made.shape != shape or made.dtype != dtype:
            raise ModelError(
                f"{place}: cannot import: Relax makes {made.dtype} {made.shape} of it, not {dtype} {shape}"
            )
        return made

    def _loop(self, operation: Any, operands: list[Value], depth: int, around: Around) -> list[Value]:  # noqa: ANN401 (MLIR's own)
        """A loop that counts to a known number, as a step that runs many times."""
        try:
            count = count_of(operation, operands)
            inner = _Reader(self._functions, self._origin, self._loops)
            step = inner._step(operation.regions[1].blocks[0], operands, count, depth, around)
        except NotImplementedError as error:
            raise ModelError(
                f"{self._origin}: operator {operation.name} at {_place(operation)}: cannot import: {error}"
            ) from error
        function = add_rounds(self._loops, "loop", step.module, step.rounds)
        numbers = np.arange(count.first, count.first + count.num_rounds).astype(operands[count.state].dtype)
        whole = [self._writer.whole(value) for value in operands]
        sequences = [relax.const(numbers) if state is None else whole[state] for state in step.sequences]
        call = self._builder.emit(relax.Call(function, [*(whole[n] for n in step.given), *sequences]))
        found = list(operands)
        found[count.state] = Value(expr=relax.const(np.asarray(numbers[-1] + 1)), shape=())
        for number, state in enumerate(step.results):
            found[state] = self._writer.emit(relax.TupleGetItem(call, number))
        return found

    def _step(self, block: Any, operands: list[Value], count: LoopCount, depth: int, around: Around) -> LoopStep:  # noqa: ANN401 (MLIR's own)
        types = [relax.TensorType(list(value.shape), value.dtype) for value in operands]
        counter = relax.Var("number", relax.TensorType([1], operands[count.state].dtype))
        self._inside = body = LoopBody(
            count=count, counter=counter, states=[relax.Var(f"state{n}", ty) for n, ty in enumerate(types)]
        )
        with self._builder.function("main"):
            with self._builder.dataflow():
                number = self._builder.emit(relax.op.reshape(counter, ()))
                body.affine[number] = 1, 0
                inputs = [Value(expr=var, shape=each.shape) for var, each in zip(body.states, operands, strict=True)]
                inputs[count.state] = Value(expr=number, shape=())
                made = self._body(block, inputs, depth + 1, around)
                found = {n: body.collected[each.expr] for n, each in enumerate(made) if each.expr in body.collected}
                if any(state != n for n, (state, _, _) in found.items()):
                    raise NotImplementedError("a loop that writes rows of another value")
                rows = [self._writer.whole(row) for _, row, _ in found.values()]
                left = [n for n in range(len(made)) if n not in found and n != count.state]
                same = [n for n in left if body.states[n].same_as(made[n].expr)]
                changing = [n for n in left if n not in same]
                results = [*(self._writer.whole(made[n]) for n in changing), *rows]
                out = self._builder.emit_output(relax.Tuple(results))
            states = [body.states[n] for n in (*changing, *same, *found)]
            self._builder.emit_func_output(out, params=[*states, *body.rows.values(), counter])
        return step_of(
            self._builder.get(), body, same, changing, {n: factor for n, (_, _, factor) in found.items()}
        )  # fmt: skip


def _place(operation: Any) -> str:  # noqa: ANN401 (MLIR's own)
    """Line and column, or the name that a program gives the place."""
    return first_line(Exception(str(operation.location).removeprefix("loc(").removesuffix(")")))[:100]
