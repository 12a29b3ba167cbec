"""The first run compiles: half of it in a second process, so that two cores share the wait.

Compiled code is kept on disk (numba's cache), so later runs only load it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from cost_model import batched
from cost_model.simulator import events, simulate_batch
from tvm_spm.arch import load_arch
from tvm_spm.exact import exact_search, kernel
from tvm_spm.mapspace import MapSpace
from tvm_spm.workload import Workload


class _CacheStats(Protocol):
    cache_path: str


class _Dispatcher(Protocol):
    stats: _CacheStats


def is_compiled() -> bool:
    """Whether the code of an earlier run is on disk."""
    return all(
        any(Path(cast(_Dispatcher, function).stats.cache_path).glob(f"*.{name}-*.nbi"))
        for name, function in (
            ("evaluate_rows", batched.evaluate_rows),
            ("simulate_rows", events.simulate_rows),
            ("search_floors", kernel.search_floors),
        )
    )


def compile_all(report: Callable[[str], None] = lambda text: None) -> None:
    """Compile, or load, everything that a search calls.

    Args:
        report: Told when a part is ready.
    """
    # From the folder this package is in: the cache belongs to that copy, and the working directory may hold another.
    other = subprocess.Popen([sys.executable, "-m", "tvm_spm.warm_up"], cwd=Path(__file__).parents[1])
    try:
        _compile_exact()
        report("exact search compiled")
        other.wait()
        report("models compiled")
    finally:
        if other.poll() is None:
            other.kill()


def _compile_exact() -> None:
    exact_search(_toy(), load_arch("edge-256"))


def _compile_models() -> None:
    workload, arch = _toy(), load_arch("edge-256")
    space, rng = MapSpace(workload=workload, arch=arch), np.random.default_rng(0)
    default = space.default_mapping()
    assert default is not None
    batch = space.sample(rng, 4)
    space.check(space.cross(space.mutate(batch, rng), batch, rng))
    batched.evaluate_batch(workload, arch, batch)
    simulate_batch(workload, arch, [default])


def _toy() -> Workload:
    return Workload.conv2d(K=4, C=4, OY=4, OX=4, FY=3, FX=3, padding=1)


if __name__ == "__main__":
    _compile_models()
