"""The published model of Dave et al. under our nouns: its best tiling as a ``Mapping``, its prices as a ``Cost``.

Conventions of the translation:

- The published model knows how many PEs a loop takes, not where they are. Factors are split over rows and columns so
  that as few dims as possible take both; if no split fits the grid, all PEs are put on the rows (and the mapping is
  then not legal here).
- It knows what an order reuses, not the order: the loops that reuse the operand go innermost, a loop that the operand
  depends on right outside them, and all others outside, output loops first.
- SPM is double-buffered. RF is too, but not paid for; here second RF buffers are given to as many operands as fit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

from cost_model.published.model import OrderClass, PerOperand, TilingFacts, order_classes, tiling_facts
from cost_model.published.nest import PublishedNest, published_factors, published_machine, published_nest
from cost_model.published.search import pruned_search, published_exact
from cost_model.published.space import divisors
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost, Energy
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.result import SearchResult
from tvm_spm.space import legality
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Workload

MODEL_NAME = "dmazerunner"

NamedFactors = dict[str, dict[str, int]]
"""Trip counts at ``DRAM``, ``SPM``, ``RF`` and ``spatial`` by dim name; 1 where not named."""


def published_search(
    workload: Workload,
    arch: Arch,
    *,
    objective: str = "edp",
    pruned: bool = False,
    should_stop: Callable[[], bool] | None = None,
) -> SearchResult:
    """The best tiling and order by the published model.

    Args:
        workload: Convolution, depthwise convolution or matrix product.
        arch: One core with a unified SPM.
        objective: ``edp``, ``energy`` or ``latency``.
        pruned: As the authors search: price all that their automatic prunes leave. Otherwise all tilings, with bounds.
        should_stop: Asked now and then unless ``pruned``; the result so far is then not certified.

    Raises:
        NoMappingError: No tiling is left, or none was found before the stop.
        SpmError: An unknown objective.
        WorkloadError: The published model cannot describe the workload.
        ArchError: The published model cannot describe the accelerator.
    """
    goal = Objective.of(objective)
    if pruned:
        found = pruned_search(workload, arch, objective=objective)
        shares = f"PEs {found.prunes.min_pe_share:.0%}, RF {found.prunes.min_rf_share:.0%}"
        space = (
            f"the {found.num_evaluated:,} tilings that the prunes of Dave et al. leave (at least {shares}, "
            f"SPM {found.prunes.min_spm_share:.0%} in use), in all loop orders, by their published model"
        )
    else:
        found = published_exact(workload, arch, objective, should_stop=should_stop)
        space = f"all {found.num_tilings:,} perfect tilings in all loop orders, by the published model of Dave et al."
    mapping, cost = published_mapping(workload, arch, found.named_factors(), objective=objective)
    value = cost.objective(objective)
    lower_bound = value if pruned else found.lower_bound
    return SearchResult(
        mapping=mapping,
        cost=cost,
        default_cost=published_mapping(workload, arch, _default_factors(workload, arch), objective=objective)[1],
        objective=goal,
        lower_bound=lower_bound,
        certified=value <= lower_bound,
        num_evaluated=found.num_evaluated,
        space=space,
    )


def published_mapping(workload: Workload, arch: Arch, factors: NamedFactors, *, objective: str) -> tuple[Mapping, Cost]:
    """A tiling in the order the published model likes best, and what that costs by it.

    Args:
        workload: What runs.
        arch: On what.
        factors: Perfect; capacity is not checked.
        objective: ``edp``, ``energy`` or ``latency``; decides the order.

    Raises:
        MappingError: A name is unknown or the factors of a dim do not multiply to its extent.
        WorkloadError: The published model cannot describe the workload.
        ArchError: The published model cannot describe the accelerator.
    """
    nest, machine = published_nest(workload), published_machine(arch)
    table = published_factors(nest, factors)
    named = nest.named(table)
    chosen = min(order_classes(workload, arch, named), key=lambda order: order.value(Objective.of(objective)))
    rf, spatial = Dims(**named["RF"]), Dims(**named["spatial"])
    rows, cols = split_over_array(spatial, arch.pe.rows, arch.pe.cols)
    array = rf.combine(spatial, lambda a, b: a * b)
    mapping = Mapping(
        rows=rows,
        cols=cols,
        rf=rf,
        spm=array.combine(Dims(**named["SPM"]), lambda a, b: a * b),
        dram_order=order_with_reuse(nest, named["DRAM"], chosen.reuse_dram),
        spm_order=order_with_reuse(nest, named["SPM"], chosen.reuse_spm),
        spm_double=tuple(Operand),
        rf_double=_affordable_rf_buffers(workload, arch, rf),
    )
    mapping = replace(mapping, spill=bool(legality.spilling_loops(workload, mapping)))
    return mapping, published_cost(workload, arch, tiling_facts(nest, machine, table), chosen)


def published_cost(workload: Workload, arch: Arch, facts: TilingFacts, order: OrderClass) -> Cost:
    """Prices of the published model as a ``Cost``.

    ``cycles`` and the total energy are the model's own, the energy rounded to whole pJ as there (the rounding is in
    ``dram_pj``). The breakdown is read off its terms: compute is one MAC per PE and cycle, NoC stall the rest of the
    SPM passes, DMA stall what is left; nothing is overhead. The DMA is busy with a load and a store per output tile
    as the model's cycles have it, while ``dram_bytes`` counts only the transfers that its energy counts.

    Args:
        workload: What runs.
        arch: On what.
        facts: Of the tiling.
        order: Of the loops.
    """
    parts = order.energy
    inside_pj = parts.mac_pj + parts.rf_pj + parts.noc_pj + parts.spm_pj
    fetches = [facts.num_spm_passes // reuse for reuse in order.reuse_dram]
    reloads = fetches[2] - facts.output_spm_passes if fetches[2] > 1 else 0
    num_bytes = [
        bursts * elems * count * (arch.word_bits // 8)
        for bursts, elems, count in zip(
            facts.num_bursts, facts.burst_elems, (fetches[0], fetches[1], fetches[2] + reloads), strict=True
        )
    ]
    compute_cycles = facts.num_spm_passes * facts.num_rf_passes * facts.rf_pass_cycles
    pass_cycles = facts.num_spm_passes * order.spm_pass_cycles
    return Cost(
        cycles=order.cycles,
        energy=Energy(
            mac_pj=parts.mac_pj,
            rf_pj=parts.rf_pj,
            noc_pj=parts.noc_pj,
            spm_pj=parts.spm_pj,
            dram_pj=order.energy_pj - inside_pj,
        ),
        model=MODEL_NAME,
        macs=workload.macs,
        utilization=workload.macs / (order.cycles * arch.peak_macs_per_cycle),
        compute_cycles=compute_cycles,
        noc_stall_cycles=pass_cycles - compute_cycles,
        dma_stall_cycles=order.cycles - pass_cycles,
        overhead_cycles=0,
        dram_bytes=(num_bytes[0], num_bytes[1], num_bytes[2], 0),
        dma_busy_cycles=sum(c * n for c, n in zip(facts.dma_cycles, (*fetches[:2], 2 * fetches[2]), strict=True)),
    )


def order_with_reuse(nest: PublishedNest, factors: dict[str, int], reuse: PerOperand) -> tuple[str, ...]:
    """Loops of one level, outer to inner, in an order with the given reuse of ``I W O``.

    Args:
        nest: Says which operand depends on which loop.
        factors: Of the level; those of 1 left out.
        reuse: One of ``model.reuse_vectors``.
    """
    loops = sorted((name for name in DIM_NAMES if name in factors), key=lambda name: name in REDUCTION_DIMS)
    needed = {o: [name for name in loops if nest.depends(o, nest.dims.index(name))] for o in Operand}
    reused = next((o for o in Operand if reuse[o.value] > 1), None)
    if reused is None:
        innermost = [name for name in loops if all(name in needed[o] for o in Operand)][-1:]
        return (*(name for name in loops if name not in innermost), *innermost)
    free = [name for name in loops if name not in needed[reused]]
    for length in range(1, len(free) + 1):
        for run in itertools.combinations(free, length):
            if math.prod(factors[name] for name in run) == reuse[reused.value]:
                others = [name for name in loops if name not in run]
                ending = [name for name in others if name in needed[reused]][-1:]
                return (*(name for name in others if name not in ending), *ending, *run)
    raise ValueError(f"no loops of {factors} reuse {reused.name} {reuse[reused.value]} times")


def split_over_array(spatial: Dims, num_rows: int, num_cols: int) -> tuple[Dims, Dims]:
    """Factors along rows and columns whose product is ``spatial``.

    Returns:
        Of the splits that fit, one in which the fewest dims take both axes; all on the rows if none fits.
    """
    names = [name for name in DIM_NAMES if spatial[name] > 1]
    best: tuple[int, Dims, Dims] | None = None
    for chosen in itertools.product(*(divisors(spatial[name])[::-1] for name in names)):
        rows = Dims(**dict(zip(names, chosen, strict=True)))
        cols = spatial.combine(rows, lambda both, one: both // one)
        if rows.product() <= num_rows and cols.product() <= num_cols:
            num_both = sum(rows[name] > 1 and cols[name] > 1 for name in names)
            if best is None or num_both < best[0]:
                best = num_both, rows, cols
    return (spatial, Dims()) if best is None else best[1:]


def _affordable_rf_buffers(workload: Workload, arch: Arch, rf: Dims) -> tuple[Operand, ...]:
    for num in range(len(Operand), 0, -1):
        for doubled in itertools.combinations(Operand, num):
            terms = legality.rf_terms(workload, Mapping(rf=rf, rf_double=doubled), rf)
            if sum(num_bytes for _, num_bytes in terms) <= arch.levels.RF.capacity_bytes:
                return doubled
    return ()


def _default_factors(workload: Workload, arch: Arch) -> NamedFactors:
    """The untuned tiling; one element at a time where even that one does not exist."""
    default = MapSpace(workload=workload, arch=arch, perfect=True).default_mapping() or Mapping()
    levels = {
        "DRAM": default.dram_factors(workload.dims),
        "SPM": default.spm_factors(),
        "RF": default.rf,
        "spatial": default.rows.combine(default.cols, lambda a, b: a * b),
    }
    return {level: {name: dims[name] for name in DIM_NAMES if dims[name] > 1} for level, dims in levels.items()}
