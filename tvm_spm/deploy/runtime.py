"""Builds a Relax module for an accelerator and runs it; the code runs on the host and computes the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_spm.arch import Arch
from tvm_spm.errors import ModelError
from tvm_spm.lowering.processor import compiled_for
from tvm_spm.lowering.target import PIPELINE, target_of


def build(mod: tvm.IRModule, target: str | Path | Arch | tvm.target.Target) -> relax.VMExecutable:
    """Compile a module; the same as ``tvm.relax.build`` with the pipeline ``spm``.

    Args:
        mod: A Relax module, its TIR functions scheduled or not.
        target: An accelerator, its name or file, or a target.

    Raises:
        ArchError: The accelerator is not known.
    """
    return relax.build(mod, target=compiled_for(target_of(target), mod), tir_pipeline=PIPELINE)


def run(
    executable: relax.VMExecutable, inputs: Sequence[NDArray[np.generic]], *, entry: str = "main"
) -> list[NDArray[np.generic]]:
    """Run a compiled module once.

    Args:
        executable: What ``build`` returned.
        inputs: One array per parameter of ``entry``, in order.
        entry: The function to call.

    Returns:
        One array per output.

    Raises:
        ModelError: The executable has no such function.
    """
    machine = relax.VirtualMachine(executable, tvm.cpu())
    if not machine.module.implements_function(entry):
        raise ModelError(f"the executable has no function {entry!r}")
    result = machine[entry](*[tvm.runtime.tensor(np.asarray(array, order="C")) for array in inputs])
    return _arrays(result)


def _arrays(result: object) -> list[NDArray[np.generic]]:
    if isinstance(result, tvm.runtime.Tensor):
        return [result.numpy()]
    if isinstance(result, Sequence):
        return [array for item in result for array in _arrays(item)]
    raise ModelError(f"an output is a {type(result).__name__}: only tensors and tuples of tensors are supported")
