"""What every template shares: a mapping becomes a schedule of one multiply-accumulate nest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from schedules.layer import primitives
from schedules.layer.axes import needs_padding, outer_first
from schedules.layer.footprint import LoadPositions, Loop, load_positions
from schedules.layer.primitives import Loops
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.tir.nest import TirNest
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import Rejection
from tvm_spm.workload import REDUCTION_DIMS, Operand, Projection, Workload


def refuse(workload: Workload, mapping: Mapping) -> Rejection | None:
    """Partial sums that leave SPM although the mapping does not say ``spill``."""
    positions = load_positions(workload, mapping)
    if mapping.spill or not positions.evicts_partial("SPM"):
        return None
    factors = mapping.dram_factors(workload.dims)
    last = positions.loops.index(positions.spm[Operand.O.value])
    outside = [name for _, name in positions.loops[:last] if name in REDUCTION_DIMS]
    name = outside[0]
    return Rejection(
        reason="spill", subject=f"DRAM order {' '.join(mapping.dram_order)} evicts unfinished outputs without spill",
        needed=factors[name], available=1, unit="iterations",
        nearest=f"SPM tile {name} = {mapping.core_tile(workload.dims)[name]}, or {name} inside all output dims, works",
    )  # fmt: skip


def schedule(func: tirx.PrimFunc, nest: TirNest, mapping: Mapping) -> s_tir.Schedule:
    """Rewrite a function so that it runs as a mapping says.

    Args:
        nest: Of ``func``, as ``read_nest`` gives it.
        mapping: Legal for the nest's workload; not checked again here.

    Raises:
        ScheduleError: Partial sums would leave SPM without ``spill``, the nest pads inside its own block, or TVM cannot
            rewrite a block, for example because one behind the sum does not merge into the last one; the text has
            TVM's reason.
    """
    sch = s_tir.Schedule(func)
    rewrite(sch, nest, mapping)
    return sch


def rewrite(sch: s_tir.Schedule, nest: TirNest, mapping: Mapping) -> None:
    """Rewrite the only function of a schedule, as ``schedule`` does; after an error the schedule is of no more use.

    Args:
        sch: Of the function that ``nest`` was read from; blocks and loops may carry annotations, nothing else.
        nest: Of that function.
        mapping: Legal for the nest's workload; not checked again here.

    Raises:
        ScheduleError: As ``schedule`` does.
    """
    refused = refuse(nest.workload, mapping)
    if refused is not None:
        raise ScheduleError(str(refused))
    if nest.pad_block is None and needs_padding(nest.workload):
        raise ScheduleError(f"block {nest.block} pads its input itself; a block of its own for the padding is expected")
    try:
        _rewrite(sch, nest, mapping)
    except s_tir.ScheduleError as error:
        raise ScheduleError(f"block {nest.block}: {_reason(error)}") from error


def _rewrite(sch: s_tir.Schedule, nest: TirNest, mapping: Mapping) -> None:
    params = sch.mod["main"].params
    mac = sch.get_sblock(nest.block)
    last = _merge_epilogue(sch, nest)
    positions = load_positions(nest.workload, mapping)
    output = _stage_output(sch, nest, mapping, positions, mac, last, [params[at] for at in nest.extra_params])
    _stage_inputs(sch, nest, mapping, positions, mac, output)
    inside = output.order[output.num_outside :]
    if inside and not positions.evicts_partial("RF"):
        sch.decompose_reduction(mac, output.loops[inside[0]])
    primitives.annotate_loops(sch, output.loops)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tiled:
    """The nest once its output is staged; ``num_outside`` loops stand outside the tile that sums up."""

    loops: Loops
    order: list[Loop]
    num_cores: int
    num_outside: int

    def at(self, position: Loop | None) -> LoopRV | None:
        """The loop of a load position; before all DRAM loops is inside the loops over cores."""
        if position is not None:
            return self.loops[position]
        return self.loops[self.order[self.num_cores - 1]] if self.num_cores else None


def _merge_epilogue(sch: s_tir.Schedule, nest: TirNest) -> SBlockRV | None:
    if not nest.epilogue:
        return None
    for name in nest.epilogue[:-1]:
        try:
            sch.compute_inline(sch.get_sblock(name))
        except s_tir.ScheduleError as error:
            raise ScheduleError(
                f"block {name} behind the sum cannot be merged into {nest.epilogue[-1]}: {_reason(error)}"
            ) from error
    return sch.get_sblock(nest.epilogue[-1])


def _reason(error: s_tir.ScheduleError) -> str:
    return str(error).strip().rpartition("Error message:")[2].strip()


def _stage_output(
    sch: s_tir.Schedule, nest: TirNest, mapping: Mapping, positions: LoadPositions, mac: SBlockRV,
    last: SBlockRV | None, extras: Sequence[tirx.Buffer],
) -> _Tiled:  # fmt: skip
    extents = nest.workload.dims
    store = primitives.stage_output(sch, mac, last)
    in_rf = not positions.evicts_partial("RF")
    writes = primitives.accumulate_in_rf(sch, mac) if in_rf else None
    spills = positions.evicts_partial("SPM")
    if not in_rf:
        primitives.accumulate_outside_rf(sch, mac, "DRAM" if spills else "SPM")
    for block, doubled in ((store, mapping.spm_double), (writes or mac, mapping.rf_double)):
        if Operand.O in doubled:
            primitives.mark_double(sch, block)
    iterating, units = primitives.separate_dims(sch, mac, nest.iter_dims, extents)
    loops = primitives.tile_dims(sch, iterating, mapping, extents)
    order = primitives.order_loops(sch, loops, nest.workload, mapping, units)
    num_cores = sum(level == "cores" for level, _ in order)

    def outside(position: Loop | None) -> list[Loop]:
        return order[: order.index(position) + 1] if position else order[:num_cores]

    axes = [tuple(name for name, _ in outer_first(axis)) for axis in nest.workload.O.axes]
    nests = [loops]
    for block, position, deepest in ((writes, positions.rf[2], "spm"), (store, positions.spm[2], "dram")):
        if block is None:
            continue
        shared = outside(position)
        if spills:
            shared = [loop for loop in shared if loop[1] not in REDUCTION_DIMS]
        dims, other = primitives.separate_dims(sch, block, axes, extents)
        tiled = primitives.tile_dims(sch, dims, mapping, extents, deepest=deepest)
        # What is left of every dim below its last loop runs inside, whatever its order.
        primitives.lift_loops(sch, shared, tiled, other)
        if spills:
            # It stands apart until lowering moves it to the last visit of each tile.
            primitives.annotate_loops(sch, {loop: tiled[loop] for loop in shared})
        else:
            nests.append({loop: tiled[loop] for loop in shared})
    spm_shared, rf_shared = outside(positions.spm[2]), outside(positions.rf[2])
    primitives.merge_loops(sch, spm_shared, nests)
    primitives.merge_loops(sch, rf_shared[len(spm_shared) :], nests[:2] if in_rf else nests[:1])
    # The last one tiled is the store.
    at_tile = (tiled if spills else loops)[spm_shared[-1]] if spm_shared else None
    own = {loop[1]: handle for loop, handle in tiled.items() if loop not in shared}
    for number, (param, extra) in enumerate(zip(extras, nest.workload.epilogue.extras, strict=True)):
        if sum(param.same_as(other) for other in extras) == 1:
            at = list(own.values())[-1] if _passes_by(extra, own) else at_tile
            primitives.stream_extra(sch, store, param, number, at)
    if num_cores:
        sch.parallel(loops[order[0]])
    return _Tiled(loops=loops, order=order, num_cores=num_cores, num_outside=len(rf_shared if in_rf else spm_shared))


def _passes_by(extra: Projection, own: Collection[str]) -> bool:
    """Whether every output of a tile, which runs over the dims ``own``, needs an element of its own.

    It is then read where it is needed. Otherwise the box of the tile is held, with what lies between its elements.
    """
    walked = [[term for term in axis.terms if term[0] in own] for axis in extra.axes]
    is_dense = all(len(terms) <= 1 and all(coefficient == 1 for _, coefficient in terms) for terms in walked)
    return bool(own) and is_dense and {name for terms in walked for name, _ in terms} == set(own)


def _stage_inputs(
    sch: s_tir.Schedule, nest: TirNest, mapping: Mapping, positions: LoadPositions, mac: SBlockRV, tiled: _Tiled
) -> None:
    for operand, read_index in ((Operand.I, nest.input_read), (Operand.W, nest.weight_read)):
        at = operand.value
        spm_at, rf_at = tiled.at(positions.spm[at]), tiled.at(positions.rf[at])
        spm, rf = primitives.stage_input(sch, mac, read_index, operand, spm_at, rf_at)
        for block, doubled in ((spm, mapping.spm_double), (rf, mapping.rf_double)):
            if operand in doubled:
                primitives.mark_double(sch, block)
        before = nest.pad_block if operand is Operand.I else nest.unpack_block
        if before is not None:
            primitives.compute_in_copy(sch, before)
