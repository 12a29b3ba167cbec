"""What the host's processor can do beyond what LLVM assumes of every one of its kind."""

from __future__ import annotations

import functools
from pathlib import Path

import tvm
from tvm import relax, tirx

_CPU_INFO = Path("/proc/cpuinfo")


@functools.cache
def _converts_halves() -> bool:
    """Whether an x86 processor widens and rounds float16 itself; others that Linux runs on do as LLVM assumes."""
    try:
        return "f16c" in _CPU_INFO.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False


def compiled_for(target: tvm.target.Target, mod: tvm.IRModule) -> tvm.target.Target:
    """A target whose host code for this module is fast.

    Without the processor's own conversions every float16 number goes through a library function, which makes a network
    thirty times slower. They round alike, so results are the same. Modules without float16 are compiled as ever.

    Args:
        target: The host, or one that has a host.
        mod: What is compiled.
    """
    if not _converts_halves() or not any(_has_halves(func) for func in mod.functions.values()):
        return target
    host = target if target.host is None else target.host
    fast = tvm.target.Target({**host.export(), "mattr": ["+f16c"]})
    return fast if target.host is None else target.with_host(fast)


def _has_halves(func: tvm.ir.BaseFunc) -> bool:
    if isinstance(func, tirx.PrimFunc):
        return any(str(getattr(param, "dtype", "")) == "float16" for param in func.params)
    if isinstance(func, relax.Function):
        return any(str(getattr(param.ty, "dtype", "")) == "float16" for param in func.params)
    return False
