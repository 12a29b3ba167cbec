"""No model reads memory that was given away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def walk(num_layers: int, **environment: str) -> subprocess.CompletedProcess[str]:
    """``tests.memory_walk`` in a process that overwrites what it frees."""
    return subprocess.run(
        [sys.executable, "-m", "tests.memory_walk", str(num_layers)],
        cwd=ROOT, env={**os.environ, "MALLOC_PERTURB_": "165", **environment}, capture_output=True, text=True,
    )  # fmt: skip


def test_models_equal_their_walks_where_freed_memory_is_overwritten():
    done = walk(2000, GLIBC_TUNABLES="glibc.malloc.tcache_count=0")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("2000 layers and ")
