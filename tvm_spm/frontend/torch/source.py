"""What is a model of PyTorch, told without loading PyTorch."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tvm_spm.errors import ModelError

if TYPE_CHECKING:
    import torch

TorchModel: TypeAlias = "torch.nn.Module | torch.export.ExportedProgram"

ExampleInputs: TypeAlias = "torch.Tensor | Sequence[object] | Mapping[str, object] | None"
"""Arguments of a module's ``forward``: by position, or by name."""

_SUFFIXES = (".pt2", ".pt", ".pth")


def is_torch_model(model: object) -> bool:
    """Whether an object is PyTorch's; it cannot be where PyTorch is not even loaded."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "nn"):
        return False
    exported = getattr(sys.modules.get("torch.export"), "ExportedProgram", ())
    return isinstance(model, torch.nn.Module) or isinstance(model, exported)


def is_torch_path(path: Path) -> bool:
    """Whether a file is one of PyTorch's by its name."""
    return path.suffix.lower() in _SUFFIXES


def require_torch(origin: str) -> None:
    """Check that PyTorch is installed.

    Raises:
        ModelError: It is not; says what to install.
    """
    if importlib.util.find_spec("torch") is None:
        raise ModelError(f'{origin}: a model of PyTorch needs PyTorch; install it with: pip install "tvm-spm[torch]"')
