"""What the learned model sees of a mapping: named numbers with units, for many mappings at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.arch import Arch
from tvm_spm.space.mapping_batch import NO_DIM, MappingBatch
from tvm_spm.tile import spanned_elems
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Operand, Projection, Workload

NO_LOOP_RANK = -1.0
"""Rank of a dim that does not loop at a level."""


class Estimate(NamedTuple):
    """What another model predicts for each mapping of a batch."""

    cycles: NDArray[np.float64]
    energy_pj: NDArray[np.float64]


Estimator = Callable[[MappingBatch], Estimate]


def feature_names(*, with_estimate: bool = True) -> tuple[str, ...]:
    """Names in the order of the columns, each with its unit.

    Args:
        with_estimate: Whether the columns of an ``Estimate`` are there.
    """
    names = [f"log2_{what}_{name}_elems" for what in ("extent", "spm_tile", "rf_tile") for name in DIM_NAMES]
    names += [f"log2_{what}_{name}_factor" for what in ("core", "dram", "spm", "row", "col") for name in DIM_NAMES]
    names += [f"{level}_rank_{name}_loops" for level in ("dram", "spm") for name in DIM_NAMES]
    for operand in Operand:
        names += [f"log2_{level}_footprint_{operand.name}_bytes" for level in ("spm", "array", "rf")]
        names += [f"log2_{level}_fetch_{operand.name}_count" for level in ("spm", "rf")]
        names += [f"log2_{level}_reuse_{operand.name}_iterations" for level in ("dram", "spm")]
        names += [f"{level}_buffers_{operand.name}_count" for level in ("spm", "rf")]
        names += [f"log2_dram_traffic_{operand.name}_bytes"]
    names += [
        "log2_macs", "log2_macs_per_dram_byte", "log2_busy_pes", "busy_pes_ratio", "spm_filled_ratio",
        "rf_filled_ratio", "spill_flag", "log2_reduction_pes", "log2_halo_ratio", "log2_passes_count",
        "log2_steps_count", "log2_step_macs",
    ]  # fmt: skip
    names += [f"log2_arch_{what}" for what in (
        "cores", "pes", "dma_bytes_per_cycle", "burst_startup_cycles", "noc_elems_per_cycle", "dram_channels",
    )]  # fmt: skip
    if with_estimate:
        names += ["log2_estimated_cycles", "log2_estimated_energy_pj", "log2_cycles_per_ideal_cycle"]
    return tuple(names)


def features(
    workload: Workload, arch: Arch, batch: MappingBatch, estimate: Estimate | None = None
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
    """
    nest = _Nest(workload, batch)
    columns: list[NDArray[np.float64]] = [np.broadcast_to(nest.extents, nest.spm.shape), nest.spm, nest.rf]
    columns += [nest.cores, nest.dram_factors, nest.spm_factors, nest.rows, nest.cols]
    blocks: list[NDArray[np.float64]] = [_log2(column) for column in columns]
    blocks += [_ranks(batch.dram_order, nest.dram_factors), _ranks(batch.spm_order, nest.spm_factors)]
    traffic = np.zeros(batch.num_mappings)
    for operand in Operand:
        columns_of_operand, bytes_moved = _operand_columns(workload, nest, batch, operand)
        blocks += columns_of_operand
        traffic += bytes_moved
    blocks += _whole_columns(workload, arch, nest, batch, traffic)
    if estimate is not None:
        ideal = workload.macs / arch.peak_macs_per_cycle
        blocks += [_log2(estimate.cycles), _log2(estimate.energy_pj), _log2(estimate.cycles / ideal)]
    return np.column_stack(blocks).astype(np.float32)


class _Nest:
    """Tiles and factors of a batch as float64 ``(n, 8)``."""

    def __init__(self, workload: Workload, batch: MappingBatch) -> None:
        self.extents = np.array(workload.dims.as_tuple(), dtype=np.float64)
        self.cores, self.spm, self.rows, self.cols, self.rf = (
            column.astype(np.float64) for column in (batch.cores, batch.spm, batch.rows, batch.cols, batch.rf)
        )
        self.array = self.rf * self.rows * self.cols
        self.dram_factors = np.ceil(np.ceil(self.extents / self.cores) / self.spm)
        self.spm_factors = np.ceil(self.spm / self.array)


def _log2(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log2(np.maximum(values, 2.0**-20)))


def _ranks(order: NDArray[np.int8], factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Per dim how many loops run inside its own at this level, ``NO_LOOP_RANK`` without a loop."""
    ranks = np.full(factors.shape, NO_LOOP_RANK)
    inside = np.zeros(len(order))
    rows = np.arange(len(order))
    for position in range(order.shape[1] - 1, -1, -1):
        dim = order[:, position]
        loops = (dim != NO_DIM) & (factors[rows, dim] > 1)
        ranks[rows[loops], dim[loops]] = inside[loops]
        inside += loops
    return ranks


def _tile_elems(projection: Projection, tile: NDArray[np.float64]) -> NDArray[np.float64]:
    by_dim = dict(zip(DIM_NAMES, tile.T, strict=True))
    elems = np.ones(len(tile))
    for axis in projection.axes:
        elems *= spanned_elems(axis.dims, axis.coefficients, range(len(axis.terms)), by_dim)
    return elems


def _inner_reuse(
    order: NDArray[np.int8], factors: NDArray[np.float64], relevant: NDArray[np.bool_], open_rows: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Iterations of the loops inside the innermost relevant one, for rows without a relevant loop further in.

    Returns:
        The iterations, and the rows that are still without a relevant loop.
    """
    reuse = np.ones(len(order))
    rows = np.arange(len(order))
    still_open = open_rows.copy()
    for position in range(order.shape[1] - 1, -1, -1):
        dim = order[:, position]
        loops = (dim != NO_DIM) & (factors[rows, dim] > 1)
        still_open &= ~(loops & relevant[dim])
        reuse = np.where(still_open & loops, reuse * factors[rows, dim], reuse)
    return reuse, still_open


def _operand_columns(
    workload: Workload, nest: _Nest, batch: MappingBatch, operand: Operand
) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    projection = workload.projection(operand)
    relevant = np.array([name in projection.relevant_dims for name in DIM_NAMES])
    elem_bytes = projection.elem_bits / 8
    everywhere = np.ones(batch.num_mappings, dtype=np.bool_)
    spm_reuse, no_spm_loop = _inner_reuse(batch.spm_order, nest.spm_factors, relevant, everywhere)
    through_dram, _ = _inner_reuse(batch.dram_order, nest.dram_factors, relevant, no_spm_loop)
    dram_reuse, _ = _inner_reuse(batch.dram_order, nest.dram_factors, relevant, everywhere)
    passes, steps = nest.dram_factors.prod(axis=1), nest.spm_factors.prod(axis=1)
    spm_fetches = passes / dram_reuse
    rf_fetches = passes * steps / (spm_reuse * through_dram)
    footprints = [_tile_elems(projection, tile) * elem_bytes for tile in (nest.spm, nest.array, nest.rf)]
    traffic = footprints[0] * spm_fetches * nest.cores.prod(axis=1)
    buffers = [1 + (bits >> operand.value & 1).astype(np.float64) for bits in (batch.spm_double, batch.rf_double)]
    logs = [_log2(v) for v in (*footprints, spm_fetches, rf_fetches, dram_reuse, spm_reuse)]
    return [*logs, *buffers, _log2(traffic)], traffic


def _whole_columns(
    workload: Workload, arch: Arch, nest: _Nest, batch: MappingBatch, traffic: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    ones = np.ones(batch.num_mappings)
    reduction = np.array([name in REDUCTION_DIMS for name in DIM_NAMES])
    unrolled = nest.rows * nest.cols
    busy_pes = (unrolled * nest.cores).prod(axis=1)
    spm_bytes, rf_bytes = np.zeros(batch.num_mappings), np.zeros(batch.num_mappings)
    for operand in Operand:
        projection = workload.projection(operand)
        for flags, tile, total in ((batch.spm_double, nest.spm, spm_bytes), (batch.rf_double, nest.rf, rf_bytes)):
            total += (1 + (flags >> operand.value & 1)) * _tile_elems(projection, tile) * (projection.elem_bits / 8)
    spm = arch.levels.SPM
    capacity = sum(spm.capacity_of(o) for o in Operand) if spm.is_split else spm.capacity_of(Operand.I)
    own_outputs = np.prod(nest.spm[:, [name in workload.I.relevant_dims for name in DIM_NAMES]], axis=1)
    columns = [
        _log2(ones * workload.macs), _log2(workload.macs / traffic), _log2(busy_pes),
        busy_pes / arch.peak_macs_per_cycle, spm_bytes / capacity, rf_bytes / arch.levels.RF.capacity_bytes,
        batch.spill.astype(np.float64),
        _log2(unrolled[:, reduction].prod(axis=1)), _log2(_tile_elems(workload.I, nest.spm) / own_outputs),
        _log2(nest.dram_factors.prod(axis=1)), _log2(nest.spm_factors.prod(axis=1)), _log2(nest.rf.prod(axis=1)),
    ]  # fmt: skip
    numbers = (
        arch.cores.count, arch.num_pes, arch.dma_bytes_per_cycle, arch.burst_startup_cycles, arch.noc.elems_per_cycle,
        arch.levels.DRAM.channels,
    )  # fmt: skip
    return columns + [_log2(ones * number) for number in numbers]
