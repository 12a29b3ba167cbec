"""Tune, verify and time neural networks for accelerators with scratchpad memory.

Names are loaded on first use (PEP 562), so that ``import tvm_spm`` stays fast and does not load TVM.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm_spm.arch import Arch, archs, load_arch
    from tvm_spm.cost import Cost
    from tvm_spm.errors import SpmError
    from tvm_spm.mapping import Mapping
    from tvm_spm.rejection import Rejection
    from tvm_spm.result import SearchResult
    from tvm_spm.space.mapspace import MapSpace
    from tvm_spm.trial import Trial
    from tvm_spm.tuner import evaluate, search, tune
    from tvm_spm.tuning.parts import TaskResult
    from tvm_spm.tuning.result import TuningResult
    from tvm_spm.workload import Dims, Operand, Task, Workload

__version__ = "0.1.0"

_HOME = {
    "Arch": "arch",
    "Cost": "cost",
    "Dims": "workload",
    "MapSpace": "space.mapspace",
    "Mapping": "mapping",
    "Operand": "workload",
    "Rejection": "rejection",
    "SearchResult": "result",
    "SpmError": "errors",
    "Task": "workload",
    "TaskResult": "tuning.parts",
    "Trial": "trial",
    "TuningResult": "tuning.result",
    "Workload": "workload",
    "archs": "arch",
    "evaluate": "tuner",
    "load_arch": "arch",
    "search": "tuner",
    "tune": "tuner",
}

__all__ = [
    "Arch",
    "Cost",
    "Dims",
    "MapSpace",
    "Mapping",
    "Operand",
    "Rejection",
    "SearchResult",
    "SpmError",
    "Task",
    "TaskResult",
    "Trial",
    "TuningResult",
    "Workload",
    "archs",
    "evaluate",
    "load_arch",
    "search",
    "tune",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'tvm_spm' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tvm_spm.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
