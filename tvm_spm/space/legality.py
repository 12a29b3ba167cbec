"""Every reason to refuse a mapping, one function each; they run in the order of ``rejection.REASONS``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from tvm_spm.arch import Arch
from tvm_spm.errors import MappingError
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import Rejection
from tvm_spm.units import bits_to_bytes, ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Workload

Rule = Callable[[Workload, Arch, Mapping], "Rejection | None"]


def check(workload: Workload, arch: Arch, mapping: Mapping) -> Rejection | None:
    """The first broken rule, or ``None`` for a legal mapping."""
    for rule in RULES.values():
        rejection = rule(workload, arch, mapping)
        if rejection is not None:
            return rejection
    return None


def require(workload: Workload, arch: Arch, mapping: Mapping) -> None:
    """Refuse an illegal mapping.

    Raises:
        MappingError: Says which rule it breaks.
    """
    rejection = check(workload, arch, mapping)
    if rejection is not None:
        raise MappingError(f"illegal mapping for {workload} on {arch.name}: {rejection}")


def refuse_cores(workload: Workload, arch: Arch, mapping: Mapping) -> Rejection | None:
    """More cores than there are."""
    return _refuse_product("cores", "cores", mapping.cores, arch.cores.count, workload.dims)


def refuse_core_reduction(workload: Workload, arch: Arch, mapping: Mapping) -> Rejection | None:
    """A summed dim across cores: no network adds up their partial sums."""
    for name in REDUCTION_DIMS:
        if mapping.cores[name] > 1:
            return Rejection(
                reason="core-reduction", subject=f"reduction dim {name} across cores", needed=mapping.cores[name],
                available=1, unit="cores", nearest=f"cores {name} = 1 is legal",
            )  # fmt: skip
    return None


def refuse_idle_core(workload: Workload, arch: Arch, mapping: Mapping) -> Rejection | None:
    """Cores without any work, because a chunk is rounded up to whole elements."""
    core_tile = mapping.core_tile(workload.dims)
    for name in DIM_NAMES:
        busy = ceil_div(workload.dims[name], core_tile[name])
        if busy != mapping.cores[name]:
            return Rejection(
                reason="idle-core", needed=mapping.cores[name], available=busy, unit="cores",
                subject=f"{name} = {workload.dims[name]} in chunks of {core_tile[name]} across cores",
                nearest=f"cores {name} = {busy} fits",
            )  # fmt: skip
    return None


def refuse_rows(workload: Workload, arch: Arch, mapping: Mapping) -> Rejection | None:
    """More PE rows than there are."""
    return _refuse_product("rows", "PEs", mapping.rows, arch.pe.rows, None)


def refuse_cols(workload: Workload, arch: Arch, mapping: Mapping) -> Rejection | None:
    """More PE columns than there are."""
    return _refuse_product("cols", "PEs", mapping.cols, arch.pe.cols, None)


def refuse_idle_pe(workload: Workload, arch: Arch, mapping: Mapping) -> Rejection | None:
    """PEs without any work even in a full SPM tile."""
    for name in DIM_NAMES:
        num_pes = mapping.rows[name] * mapping.cols[name]
        busy = ceil_div(mapping.spm[name], mapping.rf[name])
        if num_pes > busy:
            largest = (mapping.spm[name] - 1) // (num_pes - 1)
            way_out = f"RF tile {name} <= {largest}" if largest else f"rows x cols of {name} <= {busy}"
            return Rejection(
                reason="idle-pe", needed=num_pes, available=busy, unit="PEs", nearest=f"{way_out} fits",
                subject=f"{name} unrolled over an SPM tile of {mapping.spm[name]} by {mapping.rf[name]}",
            )  # fmt: skip
    return None


def refuse_tile(workload: Workload, arch: Arch, mapping: Mapping) -> Rejection | None:
    """A tile larger than the tile around it."""
    core_tile = mapping.core_tile(workload.dims)
    for inner, tile, outer, around in (
        ("SPM", mapping.spm, "a core's share", core_tile),
        ("RF", mapping.rf, "the SPM tile", mapping.spm),
    ):
        for name in DIM_NAMES:
            if tile[name] > around[name]:
                return Rejection(
                    reason="tile", subject=f"{inner} tile of {name} exceeds {outer}", needed=tile[name],
                    available=around[name], unit="elements", nearest=f"{inner} tile {name} <= {around[name]} fits",
                )  # fmt: skip
    return None


def refuse_order(workload: Workload, arch: Arch, mapping: Mapping) -> Rejection | None:
    """A dim that must iterate at a level whose order does not name it."""
    for level, factors, order in (
        ("DRAM", mapping.dram_factors(workload.dims), mapping.dram_order),
        ("SPM", mapping.spm_factors(), mapping.spm_order),
    ):
        for name in DIM_NAMES:
            if factors[name] > 1 and name not in order:
                return Rejection(
                    reason="order", subject=f"{level} order without {name}", needed=factors[name], available=1,
                    unit="iterations", nearest=f"add {name} to the {level} order",
                )  # fmt: skip
    return None


def refuse_spm_capacity(workload: Workload, arch: Arch, mapping: Mapping) -> Rejection | None:
    """Tiles with their buffers, in whole banks, that exceed the scratchpad."""
    spm = arch.levels.SPM
    terms = spm_terms(workload, arch, mapping, mapping.spm)
    if not spm.is_split:
        return _refuse_capacity("spm-capacity", "tile does not fit SPM", terms, spm.capacity_of(Operand.I),
                                _largest_spm_tile(workload, arch, mapping))  # fmt: skip
    for operand in Operand:
        needed, available = terms[operand.value][1], spm.capacity_of(operand)
        if needed > available:
            return Rejection(
                reason="spm-capacity", subject=f"tile of {operand.name} does not fit its SPM", needed=needed,
                available=available, unit="B", terms=(terms[operand.value],),
                nearest=str(_largest_spm_tile(workload, arch, mapping)),
            )  # fmt: skip
    return None


def refuse_rf_capacity(workload: Workload, arch: Arch, mapping: Mapping) -> Rejection | None:
    """Tiles with their buffers that exceed the memory of one PE."""
    capacity = arch.levels.RF.capacity_bytes

    def fits(tile: Dims) -> bool:
        return sum(needed for _, needed in rf_terms(workload, mapping, tile)) <= capacity

    terms = rf_terms(workload, mapping, mapping.rf)
    return _refuse_capacity("rf-capacity", "tile does not fit RF", terms, capacity, _Largest(mapping.rf, Dims(), fits))


def refuse_spill(workload: Workload, arch: Arch, mapping: Mapping) -> Rejection | None:
    """An order that evicts unfinished outputs from SPM, in a mapping that does not allow it."""
    loops = spilling_loops(workload, mapping)
    if mapping.spill or not loops:
        return None
    factors = mapping.dram_factors(workload.dims)
    outputs = [d for d in mapping.dram_order if factors[d] > 1 and d in workload.O.relevant_dims]
    return Rejection(
        reason="spill", subject=f"unfinished outputs leave SPM inside the DRAM loop over {' '.join(loops)}",
        needed=math.prod(factors[name] for name in loops), available=1, unit="iterations",
        nearest=f"move {' '.join(loops)} inside {outputs[-1]}, or allow spill",
    )  # fmt: skip


RULES: dict[str, Rule] = {
    "cores": refuse_cores, "core-reduction": refuse_core_reduction, "idle-core": refuse_idle_core,
    "rows": refuse_rows, "cols": refuse_cols, "idle-pe": refuse_idle_pe, "tile": refuse_tile, "order": refuse_order,
    "spm-capacity": refuse_spm_capacity, "rf-capacity": refuse_rf_capacity, "spill": refuse_spill,
}  # fmt: skip
"""One rule per reason that does not come from a user's constraints."""


def spilling_loops(workload: Workload, mapping: Mapping) -> tuple[str, ...]:
    """Reduction dims whose DRAM loop runs outside the innermost DRAM loop that moves the output tile.

    The output tile changes before such a loop has added everything up, so partial sums leave SPM and come back.
    """
    factors = mapping.dram_factors(workload.dims)
    loops = [name for name in mapping.dram_order if factors[name] > 1]
    positions = [i for i, name in enumerate(loops) if name in workload.O.relevant_dims]
    innermost = positions[-1] if positions else 0
    return tuple(name for name in loops[:innermost] if name in REDUCTION_DIMS)


def spm_terms(workload: Workload, arch: Arch, mapping: Mapping, tile: Dims) -> tuple[tuple[str, int], ...]:
    """Bytes of SPM per operand for one tile, in whole banks and times the number of buffers."""
    bank = arch.levels.SPM.bank_bytes
    terms = []
    for operand in Operand:
        projection = workload.projection(operand)
        bits = max(projection.elem_bits, workload.out_bits) if operand is Operand.O else projection.elem_bits
        tile_bytes = bits_to_bytes(projection.tile_elems(tile) * bits)
        terms.append((operand.name, mapping.num_buffers("SPM", operand) * ceil_div(tile_bytes, bank) * bank))
    return tuple(terms)


def rf_terms(workload: Workload, mapping: Mapping, tile: Dims) -> tuple[tuple[str, int], ...]:
    """Bytes of RF per operand for one tile, times the number of buffers."""
    return tuple((o.name, mapping.num_buffers("RF", o) * workload.projection(o).tile_bytes(tile)) for o in Operand)


def _refuse_product(reason: str, unit: str, factors: Dims, available: int, extents: Dims | None) -> Rejection | None:
    needed = factors.product()
    if needed <= available:
        return None

    def usable(name: str, factor: int) -> bool:
        return extents is None or ceil_div(extents[name], ceil_div(extents[name], factor)) == factor

    best: tuple[float, str] | None = None
    for name in DIM_NAMES:
        limit = available // (needed // factors[name])
        while limit > 1 and not usable(name, limit):
            limit -= 1
        if 1 <= limit < factors[name] and (best is None or limit / factors[name] > best[0]):
            best = (limit / factors[name], f"{reason} {name} <= {limit} fits")
    return Rejection(
        reason=reason, subject=f"{reason} {' x '.join(f'{n}={factors[n]}' for n in DIM_NAMES if factors[n] > 1)}",
        needed=needed, available=available, unit=unit, nearest=best[1] if best else "no single dim alone is enough",
    )  # fmt: skip


class _Largest:
    """Looks for the one dim of a tile that needs to shrink least; called only once a tile is known not to fit."""

    def __init__(self, tile: Dims, least: Dims, fits: Callable[[Dims], bool]) -> None:
        self._tile, self._least, self._fits = tile, least, fits

    def __str__(self) -> str:
        best = max(self._choices(), default=None)
        return f"{best[1]} <= {best[2]} fits" if best else "shrinking one dim alone is not enough"

    def _choices(self) -> Iterator[tuple[float, str, int]]:
        for name in DIM_NAMES:
            low, high = self._least[name], self._tile[name]
            if low >= high or not self._fits(self._tile.with_dim(name, low)):
                continue
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if self._fits(self._tile.with_dim(name, middle)) else (low, middle)
            yield low / self._tile[name], name, low


def _largest_spm_tile(workload: Workload, arch: Arch, mapping: Mapping) -> _Largest:
    spm = arch.levels.SPM

    def fits(tile: Dims) -> bool:
        terms = [needed for _, needed in spm_terms(workload, arch, mapping, tile)]
        if spm.is_split:
            return all(needed <= spm.capacity_of(operand) for needed, operand in zip(terms, Operand, strict=True))
        return sum(terms) <= spm.capacity_of(Operand.I)

    # Every PE keeps at least one element, as the unrolling asks for.
    least = [t * (r * c - 1) + 1 for t, r, c in zip(mapping.rf, mapping.rows, mapping.cols, strict=True)]
    return _Largest(mapping.spm, Dims.of(least).combine(mapping.rf, max), fits)


def _refuse_capacity(
    reason: str, subject: str, terms: tuple[tuple[str, int], ...], available: int, nearest: _Largest
) -> Rejection | None:
    needed = sum(value for _, value in terms)
    if needed <= available:
        return None
    return Rejection(
        reason=reason, subject=subject, needed=needed, available=available, unit="B", terms=terms, nearest=str(nearest)
    )
