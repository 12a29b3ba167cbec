"""The untuned baseline: one sensible mapping per task, found by fixed rules."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.space import legality
from tvm_spm.space.estimate import rough_cycles
from tvm_spm.space.knobs import Knobs
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


def smallest_mapping(workload: Workload) -> Mapping:
    """One element at a time and single buffers: if this does not fit, nothing does."""
    return next(_ordered(workload, Mapping()))


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
    found = []
    for rows_first, cols_first in UNROLLINGS:
        start = _double_buffered(workload, arch, _unrolled(workload, arch, knobs, rows_first, cols_first))
        if start is not None:
            found.append(_grow(workload, arch, knobs, start))
    if not found:
        start = _double_buffered(workload, arch, smallest_mapping(workload))
        return None if start is None else _grow(workload, arch, knobs, start)
    return min(found, key=lambda mapping: rough_cycles(workload, arch, mapping))


def _double_buffered(workload: Workload, arch: Arch, mapping: Mapping) -> Mapping | None:
    for spm_double, rf_double in _BUFFERINGS:
        buffered = replace(mapping, spm_double=spm_double, rf_double=rf_double)
        if legality.check(workload, arch, buffered) is None:
            return buffered
    return None


def _ordered(workload: Workload, mapping: Mapping) -> Iterator[Mapping]:
    """The mapping with each order of the groups that keeps outputs in SPM until they are finished."""
    dram, inner = mapping.dram_factors(workload.dims), mapping.spm_factors()
    seen = set()
    for first, second in (GROUPS[:2], GROUPS[1::-1]):
        for groups in itertools.permutations(GROUPS):
            dram_order = tuple(d for d in ("N", "G", *first, *second, *GROUPS[2]) if dram[d] > 1)
            spm_order = tuple(d for d in ("N", "G", *itertools.chain(*groups)) if inner[d] > 1)
            if (dram_order, spm_order) not in seen:
                seen.add((dram_order, spm_order))
                yield replace(mapping, dram_order=dram_order, spm_order=spm_order)


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
    return next(_ordered(workload, Mapping(cores=cores, spm=Dims.of(tiles), rows=rows, cols=cols)))


def _grow(workload: Workload, arch: Arch, knobs: Knobs, mapping: Mapping) -> Mapping:
    """Enlarge the SPM tile and then the RF tile until nothing more fits."""

    def better(candidates: Iterator[Mapping]) -> Mapping | None:
        legal = [m for m in candidates if legality.check(workload, arch, m) is None]
        ordered = [candidate for larger in legal for candidate in _ordered(workload, larger)]
        return min(ordered, key=lambda candidate: rough_cycles(workload, arch, candidate), default=None)

    grown: Callable[[Workload, Knobs, Mapping], Iterator[Mapping]]
    for grown in (_larger_spm, _larger_rf):
        best = mapping
        while (larger := better(grown(workload, knobs, mapping))) is not None:
            mapping = larger
            if rough_cycles(workload, arch, mapping) <= rough_cycles(workload, arch, best):
                best = mapping
        mapping = best
    return mapping


def _larger_spm(workload: Workload, knobs: Knobs, mapping: Mapping) -> Iterator[Mapping]:
    share = mapping.core_tile(workload.dims)
    for name in DIM_NAMES:
        num_pes, tile = mapping.rows[name] * mapping.cols[name], mapping.spm[name]
        larger = int(snap_tile(share[name], 2 * tile, num_pes, knobs.perfect))
        if larger <= tile:
            larger = int(tile_above(share[name], tile, num_pes, knobs.perfect))
        if larger > tile:
            rf = mapping.rf.with_dim(name, int(snap_rf(larger, num_pes, mapping.rf[name], knobs.perfect)))
            yield next(_ordered(workload, replace(mapping, spm=mapping.spm.with_dim(name, larger), rf=rf)))


def _larger_rf(workload: Workload, knobs: Knobs, mapping: Mapping) -> Iterator[Mapping]:
    for name in DIM_NAMES:
        num_pes, tile = mapping.rows[name] * mapping.cols[name], mapping.rf[name]
        larger = int(snap_rf(mapping.spm[name], num_pes, 2 * tile, knobs.perfect))
        if larger <= tile:
            above = tile_above(ceil_div(mapping.spm[name], num_pes), tile, 1, knobs.perfect)
            larger = int(snap_rf(mapping.spm[name], num_pes, int(above), knobs.perfect))
        if larger > tile:
            yield next(_ordered(workload, replace(mapping, rf=mapping.rf.with_dim(name, larger))))
