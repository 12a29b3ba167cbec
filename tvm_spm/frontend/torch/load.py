"""A program of PyTorch as a Relax module with static shapes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
import tvm
from torch.utils import _pytree

from tvm_spm.errors import ModelError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.memory import require_memory
from tvm_spm.frontend.onnx.load import choose_shapes
from tvm_spm.frontend.torch.archive import read_program
from tvm_spm.frontend.torch.export import export, trace
from tvm_spm.frontend.torch.importer import Importer
from tvm_spm.frontend.torch.operators import KEPT
from tvm_spm.frontend.torch.recurrent import LAYERS, has_long_layers
from tvm_spm.frontend.torch.source import ExampleInputs, TorchModel

_log = logging.getLogger(__name__)

Program: TypeAlias = "torch.export.ExportedProgram"
Shapes = Mapping[str, tuple[int, ...]]

_KIND = torch.export.graph_signature.InputKind


def import_any(
    model: TorchModel | Path, example_inputs: ExampleInputs, shapes: Shapes, max_memory_bytes: int
) -> tuple[str, tvm.IRModule]:
    """A model of PyTorch, for inference.

    Args:
        model: A module, an exported program, or the path of a saved one.
        example_inputs: What a module is called with; its shapes become those of the network.
        shapes: Dims of inputs that an exported program leaves open.
        max_memory_bytes: Refuse a model whose file or weights need more.

    Returns:
        What errors call the model, and its module, which holds the weights as constants.

    Raises:
        ModelError: PyTorch or TVM cannot take the model.
    """
    if isinstance(model, torch.nn.Module):
        origin = type(model).__name__
        require_memory(_num_bytes(model.state_dict()), max_memory_bytes, origin, "weights")
        program = export(model, example_inputs, origin)
    else:
        if example_inputs is not None:
            raise ModelError("example_inputs: only a torch.nn.Module takes them; an exported program has its shapes")
        origin = str(model) if isinstance(model, Path) else "program"
        program = read_program(model, max_memory_bytes=max_memory_bytes) if isinstance(model, Path) else model
        require_memory(_num_bytes(program.state_dict), max_memory_bytes, origin, "weights")
    return origin, import_program(program, shapes, origin)


def import_program(program: Program, shapes: Shapes, origin: str) -> tvm.IRModule:
    """Import a program.

    Args:
        program: As PyTorch exported it, taken apart or not.
        shapes: Dims of inputs by name; others that are open are those it was exported with.
        origin: What errors call it.

    Raises:
        ModelError: Shapes do not fit, depend on the data, or an operator cannot be imported.
    """
    program = _with_static_shapes(program, shapes, origin)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            program = program.run_decompositions(_decompositions(program))
            _check(program, origin)
            importer = Importer(origin)
            importer.constants_of(program)
            mod = importer.from_exported_program(
                _without_numbers(program),
                keep_params_as_input=False, unwrap_unit_return_tuple=True, no_bind_return_tuple=False,
                custom_convert_map=None,
            )  # fmt: skip
            mod.update(importer.loops.get())
            return mod
        except TVM_ERRORS as error:
            raise ModelError(f"{origin}: cannot import: {first_line(error)}") from error


def _decompositions(program: Program) -> Any:  # noqa: ANN401 (PyTorch has no public name for it)
    """How PyTorch takes the operators of a program apart, but for those imported whole."""
    table = torch.export.default_decompositions()
    for name in (*KEPT, *(LAYERS if has_long_layers(program) else ())):
        packet, _, overload = name.partition(".")
        table.pop(getattr(getattr(torch.ops.aten, packet), overload), None)
    return table


def _num_bytes(weights: Mapping[str, torch.Tensor]) -> int:
    """Bytes of all weights, each once."""
    stored = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in weights.values()}
    return sum(stored.values())


def _check(program: Program, origin: str) -> None:
    """Refuse shapes that only the data decide, and say what is not kept.

    Raises:
        ModelError: Names the node that makes such a shape.
    """
    for node in program.graph.nodes:
        value = node.meta.get("val")
        made = value if isinstance(value, (tuple, list)) else [value]
        if any(isinstance(each, torch.Tensor) and not _is_static(each) for each in made):
            shown = ", ".join(str(extent) for each in made for extent in getattr(each, "shape", ()))
            raise ModelError(
                f"{origin}: node {node.name!r} (operator {node.target}): its shape ({shown}) depends on the data; "
                "only shapes that follow from those of the inputs can be tuned"
            )
    mutated = program.graph_signature.buffers_to_mutate
    if mutated:
        listed = ", ".join(repr(name) for name in dict.fromkeys(mutated.values()))
        _log.warning("%s: what it writes into %s is not kept from one run to the next", origin, listed)


def _is_static(tensor: torch.Tensor) -> bool:
    return all(isinstance(extent, int) for extent in tensor.shape)


def _inputs(program: Program) -> dict[str, torch.Tensor]:
    """Tensors that a program is called with, by name."""
    names = [
        spec.arg.name for spec in program.graph_signature.input_specs
        if spec.kind is _KIND.USER_INPUT and isinstance(spec.arg, torch.export.graph_signature.TensorArgument)
    ]  # fmt: skip
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return {name: nodes[name].meta["val"] for name in names}


def _with_static_shapes(program: Program, shapes: Shapes, origin: str) -> Program:
    """The program for the given shapes, and for those of its example where none are given.

    Raises:
        ModelError: They do not fit.
    """
    inputs = _inputs(program)
    declared = {
        name: tuple(extent if isinstance(extent, int) else str(extent) for extent in tensor.shape)
        for name, tensor in inputs.items()
    }
    examples = {
        name: tuple(extent if isinstance(extent, int) else extent.node.hint for extent in tensor.shape)
        for name, tensor in inputs.items()
    }
    is_open = {name for name, dims in declared.items() if any(isinstance(dim, str) for dim in dims)}
    guessed = {name: examples[name] for name in is_open - set(shapes) if None not in examples[name]}
    chosen = choose_shapes(declared, {**guessed, **shapes}, origin)
    for name, shape in chosen.items():
        for dim, extent in zip(declared[name], shape, strict=True):
            if dim != extent and not isinstance(dim, str):
                raise ModelError(f"{origin}: input {name!r}: dim {dim} cannot be {extent}; it was exported with {dim}")
    if not is_open:
        return program
    for name in sorted(guessed):
        _log.warning(
            "%s: input %r taken as %s, as it was exported; fix another with --shape", origin, name, chosen[name]
        )
    spec = program.call_spec.in_spec
    flat = [
        torch.zeros(chosen[each.arg.name], dtype=inputs[each.arg.name].dtype)
        if each.arg.name in inputs
        else each.arg.value
        for each in program.graph_signature.input_specs
        if each.kind is _KIND.USER_INPUT
    ]
    args, kwargs = _pytree.tree_unflatten(flat, spec)
    return trace(program.module(check_guards=True), (tuple(args), dict(kwargs)), origin)


def _without_numbers(program: Program) -> Program:
    """Inputs that are no tensors are fixed by the export, and nothing reads them."""
    signature = program.graph_signature
    fixed = {spec.arg.name for spec in signature.input_specs
             if spec.kind is _KIND.USER_INPUT and spec.arg.name not in _inputs(program)}  # fmt: skip
    for node in list(program.graph.nodes):
        if node.op == "placeholder" and node.name in fixed and not node.users:
            program.graph.erase_node(node)
    signature.input_specs = [spec for spec in signature.input_specs if spec.arg.name not in fixed]
    return program
