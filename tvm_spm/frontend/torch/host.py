"""Operators of PyTorch that TVM cannot import, evaluated by PyTorch itself when the network runs.

One odd operator does not keep a network out. A node stays in the Relax module as a call of ``FUNCTION`` with its own
text, so that any process that has imported this file, and has PyTorch, can run it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm

if TYPE_CHECKING:
    import torch

FUNCTION = "tvm_spm.torch_node"
"""The packed function that evaluates a node: its text, then its tensors."""


def operator_of(text: str) -> str:
    """The operator of a node's text, such as ``aten.median.dim``."""
    return str(json.loads(text)["operator"])


def call_operator(text: str, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """All results of a node.

    Args:
        text: JSON: its ``operator``, its ``args`` and ``kwargs``, in which ``{"tensor": 2}`` stands for the third
            tensor and ``{"dtype": "float32"}`` for a type.
        tensors: What it reads.
    """
    import torch

    node = json.loads(text)
    operator = torch.ops
    for part in node["operator"].split("."):
        operator = getattr(operator, part)

    def argument(value: object) -> object:
        if isinstance(value, dict):
            return tensors[value["tensor"]] if "tensor" in value else getattr(torch, value["dtype"])
        return [argument(each) for each in value] if isinstance(value, list) else value

    made = operator(*map(argument, node["args"]), **{name: argument(value) for name, value in node["kwargs"].items()})
    return list(made) if isinstance(made, (tuple, list)) else [made]


@tvm.register_global_func(FUNCTION, override=True)
def _evaluate(text: str, *tensors: tvm.runtime.Tensor) -> Any:  # noqa: ANN401 (a tensor, or several)
    import torch

    with torch.no_grad():
        found = call_operator(str(text), [torch.from_numpy(tensor.numpy().copy()) for tensor in tensors])
    made = [tvm.runtime.tensor(np.ascontiguousarray(each.numpy())) for each in found]
    return made[0] if len(made) == 1 else made
