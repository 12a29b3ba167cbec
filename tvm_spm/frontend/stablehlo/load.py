"""A StableHLO program as a Relax module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tvm
from jaxlib.mlir import ir
from jaxlib.mlir._mlir_libs import _jax_mlir_ext
from jaxlib.mlir.dialects import chlo, stablehlo
from tvm import relax

from tvm_spm.errors import ModelError, did_you_mean
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.stablehlo.operators import OPERATORS, kind_of
from tvm_spm.frontend.stablehlo.value import Emitter, Value
from tvm_spm.input_file import read_regular

_BYTECODE = b"ML\xefR"
"""How MLIR's binary files begin."""

MAX_DEPTH = 64
"""Of calls."""


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

    def __init__(self, functions: dict[str, Any], origin: str) -> None:
        self._functions, self._origin = functions, origin
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
        return self._builder.get()

    def _body(self, block: Any, arguments: list[Value], depth: int) -> list[Value]:  # noqa: ANN401 (MLIR's own)
        known = dict(zip(block.arguments, arguments, strict=True))
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
            else:
                made = [self._converted(operation, operands)]
            known |= dict(zip(operation.results, made, strict=True))
        raise ModelError(f"{self._origin}: a function returns nothing")

    def _converted(self, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401 (MLIR's own)
        place = f"{self._origin}: operator {operation.name} at {_place(operation)}"
        convert = OPERATORS.get(operation.name)
        if convert is None:
            target = operation.attributes["call_target_name"] if "call_target_name" in operation.attributes else ""
            raise ModelError(
                f"{place}: unknown{f' ({target})' if target else ''}; {did_you_mean(operation.name, OPERATORS)}"
            )
        try:
            shape, dtype = kind_of(operation.results[0])
            made = convert(self._writer, operation, operands)
        except TVM_ERRORS as error:
            raise ModelError(f"{place}: cannot import: {first_line(error)}") from error
        if made.shape != shape or made.dtype != dtype:
            raise ModelError(
                f"{place}: cannot import: Relax makes {made.dtype} {made.shape} of it, not {dtype} {shape}"
            )
        return made


def _place(operation: Any) -> str:  # noqa: ANN401 (MLIR's own)
    """Line and column, or the name that a program gives the place."""
    return first_line(Exception(str(operation.location).removeprefix("loc(").removesuffix(")")))[:100]
