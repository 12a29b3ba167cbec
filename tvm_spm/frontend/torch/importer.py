"""Nodes of a program as Relax: by our own operators, by TVM's importer, or evaluated by PyTorch on the host."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
import tvm
from torch import fx
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from tvm_spm.errors import ModelError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.torch.host import FUNCTION, call_operator
from tvm_spm.frontend.torch.operators import OPERATORS

_log = logging.getLogger(__name__)

_RANDOM = (
    "bernoulli", "exponential", "multinomial", "normal", "normal_functional", "poisson", "rand", "rand_like", "randint",
    "randint_like", "randn", "randn_like", "randperm", "rrelu_with_noise_functional", "uniform",
)  # fmt: skip
"""No two runs agree on what these give."""

_ON_HOST = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
"""Types that PyTorch and numpy share."""


_MOST_EVALUATED = 1 << 22
"""Elements of a constant that is computed before the run."""


class _Converters(dict[str, Callable[[fx.Node], Any]]):
    """Knows every operator: what TVM does not convert may run on the host."""

    def __init__(self, known: dict[str, Callable[[fx.Node], Any]], convert: Callable[[str, fx.Node], Any]) -> None:
        super().__init__(known)
        self._convert = convert

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> Callable[[fx.Node], Any]:
        return lambda node: self._convert(name, node)


class Importer(ExportedProgramImporter):
    """TVM's importer with our operators before its own, and PyTorch behind them.

    Every tensor it makes is held against what PyTorch says of its shape and type.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._constants: dict[fx.Node, torch.Tensor] = {}
        """Values of nodes that no input and no weight changes."""
        self.loops = relax.BlockBuilder()
        """Functions that the program calls, beside its own."""
        super().__init__()

    def constants_of(self, program: torch.export.ExportedProgram) -> None:
        """Take the tables of a program, such as the mask of a causal attention, as numbers."""
        signature = program.graph_signature
        mutated = set(signature.buffers_to_mutate.values())
        tables = {**dict(program.named_buffers()), **program.constants}
        names = {**signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
        for node in program.graph.nodes:
            table = tables.get(names.get(node.name)) if node.op == "placeholder" else None
            if isinstance(table, torch.Tensor) and names[node.name] not in mutated:
                self._constants[node] = table

    def create_convert_map(self) -> dict[str, Callable[[fx.Node], Any]]:
        """As TVM calls it."""
        self._known = super().create_convert_map()
        return _Converters(self._known, self._convert)

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Bind an expression."""
        return self.block_builder.emit(expr)

    def arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of a node, with expressions for tensors."""
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda each: self.env[each])
        return tuple(args), kwargs

    def _convert(self, name: str, node: fx.Node) -> Any:  # noqa: ANN401 (a tensor, several, or a number)
        operator = name.partition(".")[0]
        if operator in _RANDOM or (operator == "native_dropout" and node.args[2]):
            raise ModelError(f"{self._origin}: {_shown(node)} draws numbers at random; export the model for inference")
        constant = self._evaluated(node)
        if constant is not None:
            return constant
        own, theirs = OPERATORS.get(name), self._known.get(name)
        try:
            if own is None and theirs is None:
                raise NotImplementedError("TVM does not know this operator")
            made = own(node, self) if own is not None else theirs(node) if theirs is not None else None
            return self._as_stated(made, node)
        except TVM_ERRORS as error:
            if not _may_be_on_host(node):
                raise ModelError(f"{self._origin}: cannot import {_shown(node)}: {first_line(error)}") from error
            _log.info("%s stays on the host: %s", name, first_line(error))
            return self._on_host(node)

    def _evaluated(self, node: fx.Node) -> relax.Expr | None:
        """The number of a node that depends on nothing but constants."""
        stated = node.meta.get("val")
        is_known = all(each in self._constants for each in node.all_input_nodes)
        if not is_known or not _may_be_on_host(node) or not isinstance(stated, torch.Tensor):
            return None
        if stated.numel() > _MOST_EVALUATED:
            return None
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda each: self._constants[each])
        with torch.no_grad():
            value = node.target(*args, **kwargs)
        self._constants[node] = value
        return relax.const(value.contiguous().numpy(), _dtype(stated))

    def _as_stated(self, made: Any, node: fx.Node) -> Any:  # noqa: ANN401 (as above)
        """What a node makes, in the type that PyTorch gives it.

        Raises:
            ValueError: It has another shape.
        """
        stated = node.meta.get("val")
        if not isinstance(made, relax.Expr) or not isinstance(made.ty, relax.TensorType):
            return made
        if not isinstance(stated, torch.Tensor):
            return made
        shape = [int(extent) for extent in made.ty.shape.values]
        if shape != list(stated.shape):
            raise ValueError(f"TVM makes {shape} of it, PyTorch {list(stated.shape)}")
        dtype = _dtype(stated)
        return made if str(made.ty.dtype) == dtype else self.emit(relax.op.astype(made, dtype))

    def _on_host(self, node: fx.Node) -> Any:  # noqa: ANN401 (a tensor, or several)
        tensors: list[fx.Node] = []

        def written(value: object) -> object:
            if isinstance(value, fx.Node):
                tensors.append(value)
                return {"tensor": len(tensors) - 1}
            if isinstance(value, torch.dtype):
                return {"dtype": str(value).removeprefix("torch.")}
            if isinstance(value, (list, tuple)):
                return [written(each) for each in value]
            if value is None or isinstance(value, (bool, int, float, str)):
                return value
            raise ModelError(f"{self._origin}: cannot import {_shown(node)}: its argument {value} is no number")

        kept = {name: value for name, value in node.kwargs.items() if name not in ("device", "layout", "pin_memory")}
        text = json.dumps(
            {
                "operator": str(node.target),
                "args": written(list(node.args)),
                "kwargs": {name: written(value) for name, value in kept.items()},
            }
        )
        kinds = [relax.TensorType(list(each.shape), _dtype(each)) for each in _tensors(node.meta["val"])]
        self._try(node, text, tensors)
        call = relax.op.call_pure_packed(
            FUNCTION, tvm.ir.StringImm(text), *(self.env[each] for each in tensors),
            ty_args=kinds[0] if len(kinds) == 1 else relax.TupleType(kinds),
        )  # fmt: skip
        made = self.emit(call)
        if isinstance(node.meta["val"], torch.Tensor):
            return made
        return tuple(self.emit(relax.TupleGetItem(made, i)) for i in range(len(kinds))) if len(kinds) > 1 else (made,)

    def _try(self, node: fx.Node, text: str, tensors: list[fx.Node]) -> None:
        """Refuse what the host cannot evaluate either.

        Raises:
            ModelError: It fails on ones, or makes other tensors.
        """
        ones = [torch.ones(each.meta["val"].shape, dtype=each.meta["val"].dtype) for each in tensors]
        try:
            found = call_operator(text, ones)
        except TVM_ERRORS as error:
            raise ModelError(
                f"{self._origin}: neither TVM nor PyTorch takes {_shown(node)}: {first_line(error)}"
            ) from error
        stated = list(_tensors(node.meta["val"]))
        if [(each.shape, each.dtype) for each in found] != [(each.shape, each.dtype) for each in stated]:
            raise ModelError(f"{self._origin}: {_shown(node)}: PyTorch makes other tensors of it than it stated")


def _tensors(value: object) -> Iterator[torch.Tensor]:
    values = value if isinstance(value, (tuple, list)) else [value]
    yield from (each for each in values if isinstance(each, torch.Tensor))


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shown(node: fx.Node) -> str:
    return f"node {node.name!r} (operator {node.target})"


def _may_be_on_host(node: fx.Node) -> bool:
    """Whether a node is a plain operator on tensors of types that numpy has, too."""
    stated = node.meta.get("val")
    values = list(stated) if isinstance(stated, (tuple, list)) else [stated]
    read = [each.meta.get("val") for each in node.all_input_nodes]
    known = [*values, *read]
    return (
        isinstance(node.target, torch._ops.OpOverload)
        and bool(values)
        and all(isinstance(each, torch.Tensor) and _dtype(each) in _ON_HOST for each in known)
    )
