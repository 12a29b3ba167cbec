"""How code for the host is compiled: with what its processor can do, and no longer than running it is worth."""

from __future__ import annotations

import functools
from pathlib import Path

import tvm
from tvm import relax, s_tir, tirx

from tvm_spm.lowering.blocks import ARRAY_LEVELS
from tvm_spm.units import ceil_div

_CPU_INFO = Path("/proc/cpuinfo")

_MAX_QUICK_STEPS = 1 << 26
"""Steps of a function up to which LLVM's optimisations take longer than they save: some tenths of a second."""

_LANES = 16
"""Steps of the array that vectors do at once, whatever LLVM optimises."""

_UNKNOWN_EXTENT = 16
"""Taken for iterations that are no number."""


@functools.cache
def _converts_halves() -> bool:
    """Whether an x86 processor widens and rounds float16 itself; others that Linux runs on do as LLVM assumes."""
    try:
        return "f16c" in _CPU_INFO.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False


def compiled_for(target: tvm.target.Target, mod: tvm.IRModule) -> tvm.target.Target:
    """A target whose host code for this module is soon there and fast.

    Without the processor's own conversions every float16 number goes through a library function, which makes a network
    thirty times slower. They round alike, so results are the same. The code of an accelerator has its vectors before
    LLVM sees it; unless there is much else to do, optimising it takes several times longer than running it.

    Args:
        target: The host, or an accelerator, which has a host.
        mod: What is compiled.
    """
    changes: dict[str, object] = {}
    if _converts_halves() and any(_has_halves(func) for func in mod.functions.values()):
        changes["mattr"] = ["+f16c"]
    funcs = [func for func in mod.functions.values() if isinstance(func, tirx.PrimFunc)]
    if target.host is not None and sum(map(_num_steps, funcs)) <= _MAX_QUICK_STEPS * len(funcs):
        changes["opt-level"] = 0
    if not changes:
        return target
    host = target if target.host is None else target.host
    chosen = tvm.target.Target({**host.export(), **changes})
    return chosen if target.host is None else target.with_host(chosen)


def _num_steps(func: tirx.PrimFunc) -> int:
    """About how many scalar steps a function takes."""
    return _steps_of(func.body, is_in_array=False)


def _steps_of(stmt: tirx.Stmt, *, is_in_array: bool) -> int:
    if isinstance(stmt, tirx.For):
        extent = int(stmt.extent) if isinstance(stmt.extent, tirx.IntImm) else _UNKNOWN_EXTENT
        is_array = str(stmt.annotations.get("spm.level", "")) in ARRAY_LEVELS
        steps = extent * _steps_of(stmt.body, is_in_array=is_in_array or is_array)
        return ceil_div(steps, _LANES) if is_array and not is_in_array else steps
    if isinstance(stmt, tirx.SeqStmt):
        return sum(_steps_of(inner, is_in_array=is_in_array) for inner in stmt.seq)
    if isinstance(stmt, s_tir.SBlockRealize):
        return _steps_of(stmt.block.body, is_in_array=is_in_array)
    if isinstance(stmt, tirx.IfThenElse):
        cases = (case for case in (stmt.then_case, stmt.else_case) if case is not None)
        return max(_steps_of(case, is_in_array=is_in_array) for case in cases)
    body = getattr(stmt, "body", None)
    return 1 if body is None else _steps_of(body, is_in_array=is_in_array)


def _has_halves(func: tvm.ir.BaseFunc) -> bool:
    if isinstance(func, tirx.PrimFunc):
        return any(str(getattr(param, "dtype", "")) == "float16" for param in func.params)
    if isinstance(func, relax.Function):
        return any(str(getattr(param.ty, "dtype", "")) == "float16" for param in func.params)
    return False
