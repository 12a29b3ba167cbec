"""Layers and machines so small that every mapping of a space can be priced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cost_model.analytical.model import BatchCost, evaluate_batch
from tests.analytical_cases import draw_arch, draw_workload
from tvm_spm.arch import Arch, SplitBytes
from tvm_spm.mapping import Mapping
from tvm_spm.space.mapping_batch import encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Operand, Workload


def draw_machine(rng: Generator, cores: int) -> Arch:
    """A machine so small that every limit matters."""
    arch = draw_arch(rng, cores=cores)
    capacity: int | SplitBytes = int(rng.integers(8, 400))
    if rng.random() < 0.4:
        capacity = SplitBytes(**{operand.name: int(rng.integers(4, 200)) for operand in Operand})
    spm = replace(arch.levels.SPM, capacity_bytes=capacity, bank_bytes=int(rng.choice([1, 4, 16])))
    rf = replace(arch.levels.RF, capacity_bytes=int(rng.integers(6, 60)))
    return replace(
        arch,
        pe=replace(arch.pe, rows=int(rng.integers(1, 4)), cols=int(rng.integers(1, 4))),
        levels=replace(arch.levels, RF=rf, SPM=spm),
    )


def draw_small(
    seed: int, *, most_mappings: int, least_mappings: int = 128, perfect: bool = True
) -> tuple[Workload, Arch]:
    """A layer and a machine of one to four cores with at most so many mappings, capacities not regarded."""
    rng = np.random.default_rng(seed)
    while True:
        workload = draw_workload(rng, most=int(rng.integers(2, 7)))
        arch = draw_machine(rng, int(rng.choice([1, 1, 2, 4])))
        if least_mappings <= MapSpace(workload=workload, arch=arch, perfect=perfect).num_mappings <= most_mappings:
            return workload, arch


def price_all(workload: Workload, arch: Arch, *, perfect: bool = True) -> tuple[list[Mapping], BatchCost]:
    """Every legal mapping, perfect or with any factors, and its cost."""
    mappings = list(MapSpace(workload=workload, arch=arch, perfect=perfect).enumerate())
    return mappings, evaluate_batch(workload, arch, encode(mappings), num_threads=1)


def objectives(cost: BatchCost, objective: str) -> NDArray[np.float64]:
    """One number per mapping, smaller is better."""
    return {"edp": cost.energy_pj * cost.cycles, "energy": cost.energy_pj, "latency": cost.cycles.astype(np.float64)}[
        objective
    ]
