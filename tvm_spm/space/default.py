"""The untuned baseline: one sensible mapping per task, found by fixed rules."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.space import legality
from tvm_spm.space.estimate import Orders, rough_cycles
from tvm_spm.space.knobs import Knobs
from tvm_spm.space.legality_batch import check_rows
from tvm_spm.space.mapping_batch import MappingBatch, concat, decode, encode
from tvm_spm.space.tiles import snap_factor, snap_rf, snap_tile, tile_above
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Workload

CORES_FIRST = ("N", "G", "OY", "K", "OX")
UNROLLINGS = (
    (("C", "OX", "OY", "G", "N", "K", "FX", "FY"), ("K", "G", "OX", "OY", "N", "C", "FX", "FY")),
    (("OY", "OX", "G", "N", "C", "K", "FX", "FY"), ("K", "G", "OX", "OY", "N", "C", "FX", "FY")),
    (("OY", "G", "N", "K", "C", "OX", "FX", "FY"), ("OX", "G", "K", "OY", "N", "C", "FX", "FY")),
)
"""Dims in the order in which they fill (rows, columns): channels, outputs by channels, outputs."""

GROUPS = (("K",), ("OY", "OX"), ("C", "FY", "FX"))
"""Dims that move in an order together; ``N`` and ``G`` stay outside."""

_BUFFERINGS = (
    (tuple(Operand), (Operand.I, Operand.W)),
    (tuple(Operand), ()),
    ((Operand.I, Operand.W), ()),
    ((), ()),
)
"""(SPM, RF) double buffers, the first that fits the smallest tiles is taken."""


def _all_orders() -> tuple[Orders, Orders]:
    """Pairs of orders (DRAM, SPM) that keep outputs in SPM until they are finished, each (1, pairs, dims)."""
    dram, spm = [], []
    for first, second in (GROUPS[:2], GROUPS[1::-1]):
        for groups in itertools.permutations(GROUPS):
            dram.append([DIM_NAMES.index(name) for name in ("N", "G", *first, *second, *GROUPS[2])])
            spm.append([DIM_NAMES.index(name) for name in ("N", "G", *itertools.chain(*groups))])
    return np.array([dram], dtype=np.int8), np.array([spm], dtype=np.int8)


_DRAM_ORDERS, _SPM_ORDERS = _all_orders()

Larger = Callable[[Knobs, MappingBatch], Iterator[MappingBatch]]
"""Mappings with one tile larger than those of a batch of one."""


def smallest_mapping(workload: Workload) -> Mapping:
    """One element at a time and single buffers: if this does not fit, nothing does."""
    return _in_first_order(workload, Mapping())


def _in_first_order(workload: Workload, mapping: Mapping) -> Mapping:
    dram, spm = (tuple(DIM_NAMES[d] for d in orders[0, 0]) for orders in (_DRAM_ORDERS, _SPM_ORDERS))
    return replace(mapping, dram_order=dram, spm_order=spm).canonical(workload)


def default_mapping(workload: Workload, arch: Arch, knobs: Knobs) -> Mapping | None:
    """A full array and the largest tiles, grown step by step where a rough count of cycles gains most.

    Args:
        workload: What is computed.
        arch: On what.
        knobs: Of the map space the mapping should belong to.

    Returns:
        A legal mapping that keeps its outputs in SPM until they are finished; ``None`` if not even one element of
        each operand fits.
    """
    unrolled = [_unrolled(workload, arch, knobs, rows_first, cols_first) for rows_first, cols_first in UNROLLINGS]
    # Growth takes one step at a time and never looks back: filters that stay cut cost a load of the input per row.
    starts = unrolled + [_with_whole_filter(workload, start, knobs) for start in unrolled]
    found = [buffered for start in dict.fromkeys(starts) if (buffered := _double_buffered(workload, arch, start))]
    if not found:
        smallest = _double_buffered(workload, arch, smallest_mapping(workload))
        if smallest is None:
            return None
        found = [smallest]
    growth = _Growth(workload, arch, knobs, encode(found))
    growth.enlarge(_larger_spm)
    growth.enlarge(_larger_rf)
    return growth.best().canonical(workload)


def _with_whole_filter(workload: Workload, mapping: Mapping, knobs: Knobs) -> Mapping:
    """The same unrolling with all rows and columns of the filter in SPM."""
    spm, rf = mapping.spm, mapping.rf
    for name in ("FY", "FX"):
        spm = spm.with_dim(name, workload.dims[name])
        num_pes = mapping.rows[name] * mapping.cols[name]
        rf = rf.with_dim(name, int(snap_rf(spm[name], num_pes, rf[name], knobs.perfect)))
    return _in_first_order(workload, replace(mapping, spm=spm, rf=rf))


def _double_buffered(workload: Workload, arch: Arch, mapping: Mapping) -> Mapping | None:
    for spm_double, rf_double in _BUFFERINGS:
        buffered = replace(mapping, spm_double=spm_double, rf_double=rf_double)
        if legality.check(workload, arch, buffered) is None:
            return buffered
    return None


def _fill(extents: Dims, dims: list[str], available: int, *, perfect: bool) -> Dims:
    """Factors with a product of at most ``available``, each as large as the earlier ones leave room for."""
    factors = Dims()
    for name in dims:
        factor = int(snap_factor(extents[name], available, perfect))
        factors = factors.with_dim(name, factor)
        available //= factor
    return factors


def _unrolled(
    workload: Workload, arch: Arch, knobs: Knobs, rows_first: tuple[str, ...], cols_first: tuple[str, ...]
) -> Mapping:
    may_rows = {name for name, may in zip(DIM_NAMES, knobs.may_rows, strict=True) if may}
    may_cols = {name for name, may in zip(DIM_NAMES, knobs.may_cols, strict=True) if may}
    spread = [name for name in CORES_FIRST if name not in REDUCTION_DIMS]
    cores = _fill(workload.dims, spread, arch.cores.count, perfect=knobs.perfect)
    share = workload.dims.combine(cores, ceil_div)
    cols = _fill(share, [name for name in cols_first if name in may_cols], arch.pe.cols, perfect=knobs.perfect)
    rest = share.combine(cols, lambda extent, factor: extent // factor)
    rows = _fill(rest, [name for name in rows_first if name in may_rows], arch.pe.rows, perfect=knobs.perfect)
    tiles = []
    for name in DIM_NAMES:
        num_pes = rows[name] * cols[name]
        tiles.append(int(snap_tile(share[name], num_pes, num_pes, knobs.perfect)))
    return _in_first_order(workload, Mapping(cores=cores, spm=Dims.of(tiles), rows=rows, cols=cols))


class _Growth:
    """Some mappings that grow side by side, each one tile at a time."""

    def __init__(self, workload: Workload, arch: Arch, knobs: Knobs, start: MappingBatch) -> None:
        self._workload, self._arch, self._knobs = workload, arch, knobs
        self._best = start
        self._cycles = self._price(start, (start.dram_order[:, None], start.spm_order[:, None]))[:, 0]

    def best(self) -> Mapping:
        """The one with the fewest cycles; of equal ones the first."""
        return decode(self._best, int(np.argmin(self._cycles)))

    def enlarge(self, larger: Larger) -> None:
        """Take the larger tile with the fewest cycles until none fits; what had the fewest on the way stays."""
        now = [self._best.take(slice(row, row + 1)) for row in range(self._best.num_mappings)]
        best, growing = list(now), set(range(len(now)))
        while growing:
            choices = [(row, choice) for row in sorted(growing) for choice in larger(self._knobs, now[row])]
            growing = set()
            if not choices:
                break
            batch = concat([choice for _, choice in choices])
            legal = np.flatnonzero(check_rows(self._knobs.limits, batch) == 0)
            cycles = self._price(batch.take(legal), (_DRAM_ORDERS, _SPM_ORDERS))
            owners = np.array([row for row, _ in choices])[legal]
            for row in set(owners.tolist()):
                own = np.flatnonzero(owners == row)
                chosen, order = divmod(int(np.argmin(cycles[own])), cycles.shape[1])
                now[row] = batch.take(legal[own[chosen : chosen + 1]])._replace(
                    dram_order=_DRAM_ORDERS[:, order], spm_order=_SPM_ORDERS[:, order]
                )
                growing.add(row)
                if cycles[own[chosen], order] <= self._cycles[row]:
                    best[row], self._cycles[row] = now[row], cycles[own[chosen], order]
        self._best = concat(best)

    def _price(self, batch: MappingBatch, orders: tuple[Orders, Orders]) -> NDArray[np.float64]:
        return rough_cycles(self._workload, self._arch, batch, orders)


@functools.lru_cache(maxsize=4096)
def _next_spm(share: int, tile: int, num_pes: int, perfect: bool) -> int:
    """About twice an SPM tile, or the next larger one."""
    larger = int(snap_tile(share, 2 * tile, num_pes, perfect))
    return larger if larger > tile else int(tile_above(share, tile, num_pes, perfect))


@functools.lru_cache(maxsize=4096)
def _next_rf(spm: int, tile: int, num_pes: int, perfect: bool) -> int:
    """About twice an RF tile, or the next larger one."""
    larger = int(snap_rf(spm, num_pes, 2 * tile, perfect))
    if larger > tile:
        return larger
    return int(snap_rf(spm, num_pes, int(tile_above(ceil_div(spm, num_pes), tile, 1, perfect)), perfect))


def _larger_spm(knobs: Knobs, one: MappingBatch) -> Iterator[MappingBatch]:
    for d, extent in enumerate(knobs.limits.extents.tolist()):
        cores, num_pes, tile = int(one.cores[0, d]), int(one.rows[0, d] * one.cols[0, d]), int(one.spm[0, d])
        larger = _next_spm(ceil_div(extent, cores), tile, num_pes, knobs.perfect)
        if larger > tile:
            spm, rf = one.spm.copy(), one.rf.copy()
            spm[0, d], rf[0, d] = larger, snap_rf(larger, num_pes, int(rf[0, d]), knobs.perfect)
            yield one._replace(spm=spm, rf=rf, dram_order=_DRAM_ORDERS[:, 0], spm_order=_SPM_ORDERS[:, 0])


def _larger_rf(knobs: Knobs, one: MappingBatch) -> Iterator[MappingBatch]:
    for d in range(len(DIM_NAMES)):
        num_pes, tile = int(one.rows[0, d] * one.cols[0, d]), int(one.rf[0, d])
        larger = _next_rf(int(one.spm[0, d]), tile, num_pes, knobs.perfect)
        if larger > tile:
            rf = one.rf.copy()
            rf[0, d] = larger
            yield one._replace(rf=rf, dram_order=_DRAM_ORDERS[:, 0], spm_order=_SPM_ORDERS[:, 0])
