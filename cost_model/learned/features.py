"""The features of a batch as a matrix."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.learned.columns import feature_names
from cost_model.learned.rows import MachineNumbers, feature_rows
from cost_model.problem import problem_of
from tvm_spm.arch import Arch
from tvm_spm.space.mapping_batch import MappingBatch
from tvm_spm.workload import Operand, Workload

ROWS_PER_THREAD = 4096
"""Fewer are not worth a thread."""


class Estimate(NamedTuple):
    """What another model predicts for each mapping of a batch."""

    cycles: NDArray[np.float64]
    energy_pj: NDArray[np.float64]


Estimator = Callable[[MappingBatch], Estimate]


def features(
    workload: Workload,
    arch: Arch,
    batch: MappingBatch,
    estimate: Estimate | None = None,
    *,
    num_threads: int | None = None,
) -> NDArray[np.float32]:
    """One row per mapping, one column per name of ``feature_names``.

    Fetches and reuse follow the static load positions: a tile stays as long as only loops iterate that lie inside the
    innermost loop relevant to its operand. Sizes are those of full tiles; edges, and what whole bursts add, are in the
    columns of an ``Estimate`` only.

    Args:
        workload: What is computed.
        arch: On what.
        batch: Legal mappings.
        estimate: Adds the columns of another model's prediction.
        num_threads: At most so many; default one per CPU. Results do not depend on it.
    """
    fill = filler(workload, arch, batch, estimate)
    out = np.zeros((batch.num_mappings, len(feature_names(with_estimate=estimate is not None))), dtype=np.float32)
    in_threads(lambda begin, end: fill(begin, out[begin:end]), batch.num_mappings, num_threads)
    return out


def filler(
    workload: Workload, arch: Arch, batch: MappingBatch, estimate: Estimate | None
) -> Callable[[int, NDArray[np.float32]], None]:
    """Fills a matrix with the features of a mapping and of those that follow it."""
    columns: list[NDArray[Any]] = [np.require(column, requirements=("C", "W")) for column in batch]
    rows, problems, machine = MappingBatch(*columns), problem_of(workload, arch), _machine(arch)
    given = (np.empty(0), np.empty(0)) if estimate is None else (_floats(estimate.cycles), _floats(estimate.energy_pj))
    return lambda begin, out: feature_rows(problems, machine, rows, begin, given, out)


def in_threads(work: Callable[[int, int], None], count: int, num_threads: int | None = None) -> None:
    """Work on the mappings from the first to before the second number, in as many parts as are worth a thread."""
    threads = max(1, min(num_threads or os.cpu_count() or 1, count // ROWS_PER_THREAD))
    step = -(-count // threads) if count else 1
    parts = [(begin, min(count, begin + step)) for begin in range(0, count, step)]
    if threads == 1:
        for part in parts:
            work(*part)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: work(*part), parts))


@lru_cache(maxsize=8)
def _machine(arch: Arch) -> MachineNumbers:
    spm = arch.levels.SPM
    numbers = (
        arch.cores.count, arch.num_pes, arch.dma_bytes_per_cycle, arch.burst_startup_cycles, arch.noc.elems_per_cycle,
        arch.levels.DRAM.channels, spm.bytes_per_cycle or 1.0, arch.pe.mac_stages,
    )  # fmt: skip
    return MachineNumbers(
        num_cores=arch.cores.count, num_pes=arch.num_pes,
        spm_bytes=sum(spm.capacity_of(o) for o in Operand) if spm.is_split else spm.capacity_of(Operand.I),
        rf_bytes=arch.levels.RF.capacity_bytes, numbers=np.log2(np.maximum(numbers, 2.0**-20)),
    )  # fmt: skip


def _floats(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)
