"""Any kind of model as a Relax module with static shapes."""

from __future__ import annotations

import collections.abc
import os
from pathlib import Path
from typing import TypeAlias

import onnx
import tvm
from tvm import relax

from tvm_spm.errors import ModelError, did_you_mean
from tvm_spm.frontend.calls import ENTRY
from tvm_spm.frontend.extract import require_entry
from tvm_spm.frontend.memory import default_memory_bytes, module_bytes, require_memory
from tvm_spm.frontend.models import DEFAULT_DTYPE, build_model, models
from tvm_spm.frontend.onnx.load import Shapes, choose_shapes, import_onnx, read_onnx
from tvm_spm.frontend.onnx.tensors import load_tensors
from tvm_spm.frontend.pinned import Values, pin_module
from tvm_spm.frontend.relay import ParamsLike, RelayModule, import_relay, relay_text
from tvm_spm.frontend.stablehlo.source import is_stablehlo_path, require_jaxlib
from tvm_spm.frontend.torch.source import ExampleInputs, TorchModel, is_torch_model, is_torch_path, require_torch

Model: TypeAlias = "str | Path | onnx.ModelProto | tvm.IRModule | RelayModule | TorchModel"
"""What a network may be given as."""


def check_model(model: object) -> None:
    """Refuse what is no model at all, whatever it holds.

    Raises:
        ModelError: Of another type, or an empty path.
    """
    if is_torch_model(model):
        return
    if not isinstance(model, (tvm.IRModule, onnx.ModelProto, str, Path, RelayModule)) or model == "":
        shown = repr(model) if model is None or isinstance(model, str) else f"{model!r:.100} ({type(model).__name__})"
        raise ModelError(
            f"mod = {shown}: must be a Relax module, an onnx.ModelProto, a torch.nn.Module or ExportedProgram, a Relay "
            "module or its text, the path of an ONNX, Relay, .pt2 or StableHLO file or the name of a built-in model "
            f"({', '.join(models())})"
        )


def load_model(
    model: Model,
    *,
    shapes: collections.abc.Mapping[str, tuple[int, ...]] | None = None,
    values: Values | None = None,
    params: ParamsLike = None,
    dtype: str | None = None,
    example_inputs: ExampleInputs = None,
    max_memory_bytes: int | None = None,
) -> tvm.IRModule:
    """A model to tune.

    A model is data: nothing in it is run as code, only files beside it are read, and it is refused before it takes
    more memory than allowed.

    Args:
        model: The name of a built-in network, the path of an ``.onnx``, Relay, ``.pt2`` or StableHLO file, an ONNX
            model, a module or an exported program of PyTorch, a Relax module, or a Relay module or its text.
        shapes: Shapes of inputs by name; needed for inputs with unknown dims.
        values: Numbers of inputs by name, which become constants.
        params: Weights of a Relay text: a file, bytes or arrays by name.
        dtype: Of the numbers of a built-in network, float32 if None; any other model says it itself.
        example_inputs: What a module of PyTorch is called with.
        max_memory_bytes: Refuse a model whose tensors, each once, need more; by default a quarter of the memory of this
            machine.

    Returns:
        A module with a function ``main`` and static shapes. Its parameters are the inputs and then the weights that
        hold no numbers, all of them for a built-in network; the attribute ``num_input`` counts the inputs.

    Raises:
        ModelError: No such model, it cannot be read or imported, dims of its inputs are unknown, or it needs more
            memory than allowed.
    """
    check_model(model)
    if dtype is not None and str(model) not in models():
        raise ModelError(
            f"dtype = {dtype!r}: only for a built-in network ({', '.join(models())}); this model has its own"
        )
    allowed = default_memory_bytes() if max_memory_bytes is None else max_memory_bytes
    try:
        known = dict(values or {})
        found = (
            _import_torch(model, example_inputs, shapes, allowed)
            or _import_stablehlo(model, shapes, allowed)
            or _import_relay(model, params, shapes, allowed)
        )
        if found is None:
            origin, mod = _import(model, dict(shapes or {}), known, allowed, dtype)
        else:
            origin, mod = found[0], pin_module(found[1], known, found[0])
    except UnicodeDecodeError as error:
        # Protobuf checks names only when they are read.
        raise ModelError(f"{_origin_of(model)}: cannot import: a name is not UTF-8 text ({error.reason})") from None
    require_memory(module_bytes(mod), allowed, origin, "tensors")
    return mod


def _origin_of(model: Model) -> str:
    return str(model) if isinstance(model, (str, Path)) else "model"


def _import_torch(
    model: Model, example_inputs: ExampleInputs, shapes: Shapes | None, allowed: int
) -> tuple[str, tvm.IRModule] | None:
    """As ``_import``; ``None`` if the model is none of PyTorch."""
    is_path = isinstance(model, (str, Path)) and is_torch_path(Path(model))
    if is_path or is_torch_model(model):
        require_torch(_origin_of(model))
        from tvm_spm.frontend.torch.load import import_any

        torch_model = Path(model) if isinstance(model, (str, Path)) else model
        return import_any(torch_model, example_inputs, shapes or {}, allowed)
    if example_inputs is not None:
        raise ModelError("example_inputs: only a torch.nn.Module takes them; other models have shapes of their own")
    return None


def _import_stablehlo(model: Model, shapes: Shapes | None, allowed: int) -> tuple[str, tvm.IRModule] | None:
    """As ``_import``; ``None`` if the model is no StableHLO file."""
    if not isinstance(model, (str, Path)) or not is_stablehlo_path(Path(model)):
        return None
    require_jaxlib(str(model))
    from tvm_spm.frontend.stablehlo.load import import_stablehlo

    mod = import_stablehlo(Path(model), max_memory_bytes=allowed)
    return str(model), _bind_shapes(mod, dict(shapes or {}))


def _import_relay(
    model: Model,
    params: ParamsLike,
    shapes: Shapes | None,
    allowed: int,
) -> tuple[str, tvm.IRModule] | None:
    """As ``_import``; ``None`` if the model is no Relay text."""
    is_other = isinstance(model, (tvm.IRModule, onnx.ModelProto)) or (isinstance(model, str) and model in models())
    relay = None if is_other else relay_text(model)
    if relay is not None:
        text, origin = relay
        return origin, import_relay(text, params=params, shapes=shapes, origin=origin, max_memory_bytes=allowed)
    if params is not None:
        raise ModelError("params: only a Relay text takes its weights from elsewhere")
    return None


def _import(
    model: Model,
    shapes: Shapes,
    values: Values,
    allowed: int,
    dtype: str | None,
) -> tuple[str, tvm.IRModule]:
    """What errors call the model, and its module."""
    if isinstance(model, tvm.IRModule):
        return "module", pin_module(_bind_shapes(model, shapes), values, "module")
    if isinstance(model, onnx.ModelProto):
        origin = model.graph.name or "model"
        load_tensors(model, None, origin=origin, max_memory_bytes=allowed)
        return origin, import_onnx(model, shapes=shapes, values=values, origin=origin, max_memory_bytes=allowed)
    if str(model) in models():
        mod = build_model(str(model), shapes, dtype=dtype or DEFAULT_DTYPE)
        return str(model), pin_module(mod, values, str(model))
    assert isinstance(model, (str, Path))
    path = Path(model)
    if not os.path.exists(path):
        _refuse_missing(path)
    loaded = read_onnx(path, max_memory_bytes=allowed)
    return str(path), import_onnx(loaded, shapes=shapes, values=values, origin=str(path), max_memory_bytes=allowed)


def _refuse_missing(path: Path) -> None:
    text = str(path)
    if path.suffix != ".onnx":
        raise ModelError(f"unknown model {text!r}: {did_you_mean(text, models())} (or give the path of an .onnx file)")
    near = [other.name for other in sorted(path.parent.glob("*.onnx"))] if path.parent.is_dir() else []
    hint = f"; {did_you_mean(path.name, near[:20])}" if near else ""
    raise ModelError(f"{text}: no such file{hint}")


def _bind_shapes(mod: tvm.IRModule, shapes: Shapes) -> tvm.IRModule:
    require_entry(mod)
    tensors = {param.name: param for param in mod[ENTRY].params if isinstance(param.ty, relax.TensorType)}
    declared = {name: _dims(param) for name, param in tensors.items()}
    chosen = choose_shapes({name: dims for name, (dims, _) in declared.items()}, shapes, "module")
    symbols: dict[tvm.tirx.Var, int] = {}
    for name, shape in chosen.items():
        dims, symbols_of = declared[name]
        for dim, symbol, extent in zip(dims or (), symbols_of, shape, strict=False):
            if symbol is not None:
                symbols[symbol] = extent
            elif dim != extent:
                raise ModelError(f"module: input {name!r}: dim {dim} cannot be {extent}")
    return relax.transform.BindSymbolicVars(symbols, ENTRY)(mod) if symbols else mod


def _dims(param: relax.Var) -> tuple[tuple[int | str, ...] | None, list[tvm.tirx.Var | None]]:
    """Dims of a tensor as numbers or names, and the variables behind the names."""
    shape = getattr(param.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None, []
    dims = tuple(int(dim) if isinstance(dim, tvm.tirx.IntImm) else str(dim) for dim in shape.values)
    return dims, [dim if isinstance(dim, tvm.tirx.Var) else None for dim in shape.values]
