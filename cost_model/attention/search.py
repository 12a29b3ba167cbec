"""The best tiles for attention with an online softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from cost_model.attention.model import Pricing
from cost_model.attention.stages import best_inner
from tvm_spm.arch import Arch
from tvm_spm.attention import Attention, AttentionMapping, fits, refuse_attention
from tvm_spm.cost import Cost
from tvm_spm.errors import NoMappingError
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.units import ceil_div

_LEAST_TILE = 16
_MAX_TILE_PARTS = 4
"""Tiles tried are powers of two from the least, and the extent cut into up to so many equal parts."""

_BUFFERS = ((True, False), (False, False), (True, True))
"""Whether tiles that come and go have two buffers, and whether the vector unit works beside the array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionResult:
    """The best tiles found.

    Attributes:
        mapping: Of equally good ones always the same.
        cost: Its cost.
        num_legal: Mappings whose tiles fit.
        num_evaluated: Of them, those whose timeline was walked; the others are worse by a bound.
        is_complete: Whether the search ended by itself.
    """

    mapping: AttentionMapping
    cost: Cost
    num_legal: int
    num_evaluated: int
    is_complete: bool = True


def attention_search(
    work: Attention,
    arch: Arch,
    *,
    objective: str = "edp",
    whole_rows: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> AttentionResult:
    """The best tiles of a list, with the best way below SPM for each stage on its own.

    The list: shares of cores that leave no more cores unused than they must, tiles of powers of two or equal parts,
    one or two buffers, with two the softmax between or beside the products. Over it the result is exact: what is not
    walked is worse by a bound.

    Args:
        work: What is computed.
        arch: The accelerator.
        objective: ``edp``, ``energy`` or ``latency``.
        whole_rows: All keys in one chunk, so that nothing is corrected.
        should_stop: Asked between mappings; once true, the result is the best of those so far, one at least.

    Raises:
        SpmError: An unknown objective.
        NoMappingError: No tile fits.
    """
    aim = Objective.of(objective)
    bounded, is_complete = [], True
    for position, mapping in enumerate(_candidates(work, arch, aim, whole_rows=whole_rows)):
        pricing = Pricing(work=work, arch=arch, mapping=mapping)
        bounded.append((pricing.bound(aim), position, pricing))
        if should_stop():
            is_complete = False
            break
    if not bounded:
        tiny = AttentionMapping(query_tile=1, key_tile=work.keys if whole_rows else 1, double=False)
        raise NoMappingError(f"{work} on {arch.name}: no tile fits; {refuse_attention(work, arch, tiny)}")
    best: tuple[float, int, Cost, AttentionMapping] | None = None
    num_evaluated = 0
    for bound, position, pricing in sorted(bounded, key=lambda entry: entry[:2]):
        if best is not None and bound > best[0]:
            break
        cost = pricing.cost()
        num_evaluated += 1
        found = (cost.objective(aim), position, cost, pricing.mapping)
        if best is None or found[:2] < best[:2]:
            best = found
        if should_stop():
            is_complete = False
            break
    if best is None:
        raise AssertionError("unreachable")
    return AttentionResult(
        mapping=best[3], cost=best[2], num_legal=len(bounded), num_evaluated=num_evaluated, is_complete=is_complete
    )


def _tiles(extent: int) -> tuple[int, ...]:
    powers = {1 << i for i in range(_LEAST_TILE.bit_length() - 1, extent.bit_length()) if 1 << i <= extent}
    return tuple(sorted(powers | {ceil_div(extent, parts) for parts in range(1, _MAX_TILE_PARTS + 1)}))


def _core_parts(work: Attention, arch: Arch) -> Iterator[tuple[int, int]]:
    """Shares without idle cores that cannot be made finer along either axis."""
    found = set()
    for heads in range(1, min(arch.cores.count, work.heads) + 1):
        heads = ceil_div(work.heads, ceil_div(work.heads, heads))
        most = min(arch.cores.count // heads, work.queries)
        found.add((heads, ceil_div(work.queries, ceil_div(work.queries, most))))
    yield from sorted({(1, 1), *found})


def _candidates(work: Attention, arch: Arch, objective: str, *, whole_rows: bool) -> Iterator[AttentionMapping]:
    if arch.levels.SPM.is_split:
        return
    for cores in _core_parts(work, arch):
        queries = ceil_div(work.queries, cores[1])
        for query_tile, key_tile, (double, beside) in product(_tiles(queries), _tiles(work.keys), _BUFFERS):
            mapping = AttentionMapping(
                cores=cores, query_tile=query_tile, key_tile=key_tile, double=double, beside=beside
            )
            if not fits(work, arch, mapping) or (whole_rows and key_tile < work.keys):
                continue
            inner = inner_mappings(work, arch, mapping, objective)
            if inner is not None:
                yield replace(mapping, inner=inner)


def inner_mappings(
    work: Attention, arch: Arch, mapping: AttentionMapping, objective: str
) -> tuple[Mapping, Mapping] | None:
    """The best way below SPM for a full tile of each product, or None if there is none."""
    scores, context = mapping.stage_dims(mapping.query_tile, mapping.key_tile, work)
    accumulates = mapping.num_chunks(work) > 1
    first = best_inner(work.scores, arch, scores, accumulates=False, objective=objective)
    second = best_inner(work.context, arch, context, accumulates=accumulates, objective=objective)
    return None if first is None or second is None else (first, second)
