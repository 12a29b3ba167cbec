"""Accelerator files, damaged: what is read has numbers in their ranges, and small layers can be searched on it."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from random import Random

import tvm_spm
from tests.fuzz.mutate import damaged_bytes, damaged_text
from tests.fuzz.outcome import REFUSED, RIGHT
from tvm_spm.arch import archs, load_arch
from tvm_spm.errors import SpmError
from tvm_spm.tuner import evaluate, search
from tvm_spm.workload import Workload

PRESETS = [Path(tvm_spm.__file__).parent / "archs" / f"{name}.toml" for name in archs()]
LAYER = Workload.matmul(m=4, k=6, n=4)


def warm_up() -> None:
    """Compile before the clock of a case starts."""
    found = search(LAYER, "edge-256", objective="latency")
    evaluate(LAYER, "edge-256", found.mapping)


def run(random: Random) -> str:
    """One case."""
    content = random.choice(PRESETS).read_bytes()
    if random.random() < 0.8:
        content = damaged_text(content.decode(), random).encode("utf-8", "replace")
    else:
        content = damaged_bytes(content, random)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.toml"
        path.write_bytes(content)
        try:
            arch = load_arch(path)
        except SpmError:
            return REFUSED
    assert str(arch)
    assert all(math.isfinite(float(value)) and value >= 0 for _, value in arch.numbers())
    assert len(arch.sha256()) == 64
    try:
        found = search(LAYER, arch, objective="latency", time_limit_s=5)
    except SpmError:
        return REFUSED
    again = evaluate(LAYER, arch, found.mapping, model="simulator")
    assert found.cost.cycles >= LAYER.macs / arch.peak_macs_per_cycle
    assert math.isclose(again.energy_pj, found.cost.energy_pj, rel_tol=1e-9)
    if arch.levels.DRAM.channels >= arch.cores.count:
        assert again.cycles == found.cost.cycles
    return RIGHT
