"""A module of PyTorch as a program: its operators on tensors, traced with the shapes of example inputs."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.utils import _pytree

from tvm_spm.errors import ModelError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.torch.source import ExampleInputs

_log = logging.getLogger(__name__)

Arguments = tuple[tuple[object, ...], dict[str, object]]
"""By position, and by name."""


def export(module: torch.nn.Module, example_inputs: ExampleInputs, origin: str) -> torch.export.ExportedProgram:
    """Trace a module for inference; it is left as it was.

    Raises:
        ModelError: There are no inputs, ``forward`` does not take them, or it asks for the values of tensors.
    """
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(f"{origin}: a module of torch.jit; give the torch.nn.Module that it was made of")
    args, kwargs = _arguments(module, example_inputs, origin)
    with _for_inference(module, origin):
        return trace(module, (args, kwargs), origin)


def trace(module: torch.nn.Module, arguments: Arguments, origin: str) -> torch.export.ExportedProgram:
    """Export with static shapes.

    Raises:
        ModelError: PyTorch cannot.
    """
    args, kwargs = arguments
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(module, args, kwargs or None, strict=False)
    except torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode as error:
        raise ModelError(
            f"{origin}: what runs depends on the values of tensors, not on their shapes alone: {first_line(error)}"
        ) from error
    except (*TVM_ERRORS, torch.jit.Error) as error:
        raise ModelError(f"{origin}: PyTorch cannot export it for these inputs: {first_line(error)}") from error


def _arguments(module: torch.nn.Module, example_inputs: ExampleInputs, origin: str) -> Arguments:
    """What ``forward`` is called with."""
    signature = inspect.signature(module.forward)
    if example_inputs is None:
        required = [
            name for name, param in signature.parameters.items()
            if param.default is param.empty and param.kind not in (param.VAR_POSITIONAL, param.VAR_KEYWORD)
        ]  # fmt: skip
        example = ", ".join("torch.zeros(...)" for _ in required) or "torch.zeros(...)"
        raise ModelError(
            f"{origin}: a module of PyTorch has no shapes of its own: give the tensors that forward{signature} is "
            f"called with, example_inputs=({example},)"
        )
    given = (example_inputs,) if isinstance(example_inputs, (torch.Tensor, np.ndarray)) else example_inputs
    if not isinstance(given, (Mapping, Sequence)) or isinstance(given, (str, bytes)):
        raise ModelError(
            f"example_inputs = {given!r:.100}: must be a tensor, a tuple of tensors, or tensors by the names of forward"
        )
    kwargs = dict(given) if isinstance(given, Mapping) else {}
    args = () if isinstance(given, Mapping) else tuple(given)
    args, kwargs = _pytree.tree_map(lambda leaf: torch.as_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf,
                                    (args, kwargs))  # fmt: skip
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ModelError(f"{origin}: example_inputs do not fit forward{signature}: {error}") from None
    if not any(isinstance(leaf, torch.Tensor) for leaf in _pytree.tree_leaves((args, kwargs))):
        raise ModelError(f"{origin}: example_inputs: none of them is a tensor; such a network reads nothing")
    return args, kwargs


@contextlib.contextmanager
def _for_inference(module: torch.nn.Module, origin: str) -> Iterator[None]:
    """Dropout and batch normalisation as in inference, attention as separate operators."""
    training = [each for each in module.modules() if each.training]
    if training:
        _log.warning("%s: in training mode; taken as for inference (module.eval())", origin)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for each in training:
            each.training = False
        yield
    finally:
        for each in training:
            each.training = True
        torch.backends.mha.set_fastpath_enabled(fast_path)
