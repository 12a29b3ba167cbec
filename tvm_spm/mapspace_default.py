"""The untuned baseline: one sensible mapping per task, found by fixed rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tvm_spm import legality
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.mapspace_repair import Knobs
from tvm_spm.mapspace_tiles import snap_factor, snap_rf, snap_tile, tile_above
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Workload

CORES_FIRST = ("N", "G", "OY", "K", "OX")
COLS_FIRST = ("K", "G", "OX", "OY", "N", "C", "FX", "FY")
ROWS_FIRST = ("C", "OX", "OY", "G", "N", "K", "FX", "FY")
GROW_FIRST = ("FX", "FY", "C", "OX", "OY", "K", "N", "G")
ORDER = ("N", "G", "K", "OY", "OX", "C", "FY", "FX")

_BUFFERINGS = (
    (tuple(Operand), (Operand.I, Operand.W)),
    (tuple(Operand), ()),
    ((Operand.I, Operand.W), ()),
    ((), ()),
)
"""(SPM, RF) double buffers, the first that fits the smallest tiles is taken."""


def smallest_mapping(workload: Workload) -> Mapping:
    """One element at a time and single buffers: if this does not fit, nothing does."""
    return _ordered(workload, Mapping())


def default_mapping(workload: Workload, arch: Arch, knobs: Knobs) -> Mapping | None:
    """Output channels on columns, input channels on rows, the largest tiles that greedy doubling finds.

    Args:
        workload: What is computed.
        arch: On what.
        knobs: Of the map space the mapping should belong to.

    Returns:
        A legal mapping that keeps its outputs in SPM until they are finished; ``None`` if not even one element of
        each operand fits.
    """
    for start in (_unrolled(workload, arch, knobs), smallest_mapping(workload)):
        for spm_double, rf_double in _BUFFERINGS:
            mapping = replace(start, spm_double=spm_double, rf_double=rf_double)
            if legality.check(workload, arch, mapping) is None:
                grown = _grow(mapping, lambda m: _grow_spm(workload, knobs, m), workload, arch)
                return _grow(grown, lambda m: _grow_rf(workload, knobs, m), workload, arch)
    return None


def _ordered(workload: Workload, mapping: Mapping) -> Mapping:
    dram, inner = mapping.dram_factors(workload.dims), mapping.spm_factors()
    return replace(
        mapping,
        dram_order=tuple(name for name in ORDER if dram[name] > 1),
        spm_order=tuple(name for name in ORDER if inner[name] > 1),
    )


def _fill(extents: Dims, dims: list[str], available: int, *, perfect: bool) -> Dims:
    """Factors with a product of at most ``available``, each as large as the earlier ones leave room for."""
    factors = Dims()
    for name in dims:
        factor = int(snap_factor(extents[name], available, perfect))
        factors = factors.with_dim(name, factor)
        available //= factor
    return factors


def _unrolled(workload: Workload, arch: Arch, knobs: Knobs) -> Mapping:
    may_rows = {name for name, may in zip(DIM_NAMES, knobs.may_rows, strict=True) if may}
    may_cols = {name for name, may in zip(DIM_NAMES, knobs.may_cols, strict=True) if may}
    spread = [name for name in CORES_FIRST if name not in REDUCTION_DIMS]
    cores = _fill(workload.dims, spread, arch.cores.count, perfect=knobs.perfect)
    share = workload.dims.combine(cores, ceil_div)
    cols = _fill(share, [name for name in COLS_FIRST if name in may_cols], arch.pe.cols, perfect=knobs.perfect)
    rest = share.combine(cols, lambda extent, factor: extent // factor)
    rows = _fill(rest, [name for name in ROWS_FIRST if name in may_rows], arch.pe.rows, perfect=knobs.perfect)
    tiles = []
    for name in DIM_NAMES:
        num_pes = rows[name] * cols[name]
        tiles.append(int(snap_tile(share[name], num_pes, num_pes, knobs.perfect)))
    return _ordered(workload, Mapping(cores=cores, spm=Dims.of(tiles), rows=rows, cols=cols))


def _grow(mapping: Mapping, steps: Callable[[Mapping], list[Mapping]], workload: Workload, arch: Arch) -> Mapping:
    """Take one step after the other, in turns, as long as one of them is legal."""
    grew = True
    while grew:
        grew = False
        for position in range(len(GROW_FIRST)):
            larger = steps(mapping)[position]
            if larger != mapping and legality.check(workload, arch, larger) is None:
                mapping, grew = larger, True
    return mapping


def _grow_spm(workload: Workload, knobs: Knobs, mapping: Mapping) -> list[Mapping]:
    share = mapping.core_tile(workload.dims)
    grown = []
    for name in GROW_FIRST:
        step, tile = mapping.rows[name] * mapping.cols[name], mapping.spm[name]
        larger = int(snap_tile(share[name], 2 * tile, step, knobs.perfect))
        if larger <= tile:
            larger = int(tile_above(share[name], tile, step, knobs.perfect))
        grown.append(_ordered(workload, replace(mapping, spm=mapping.spm.with_dim(name, larger))))
    return grown


def _grow_rf(workload: Workload, knobs: Knobs, mapping: Mapping) -> list[Mapping]:
    grown = []
    for name in GROW_FIRST:
        num_pes, tile = mapping.rows[name] * mapping.cols[name], mapping.rf[name]
        larger = int(snap_rf(mapping.spm[name], num_pes, 2 * tile, knobs.perfect))
        if larger <= tile:
            above = tile_above(ceil_div(mapping.spm[name], num_pes), tile, 1, knobs.perfect)
            larger = int(snap_rf(mapping.spm[name], num_pes, int(above), knobs.perfect))
        grown.append(_ordered(workload, replace(mapping, rf=mapping.rf.with_dim(name, larger))))
    return grown
