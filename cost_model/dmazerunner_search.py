"""The certified optimum of the published execution model, over every tiling and loop order, in seconds.

``pruned_search`` prices all tilings that the prunes leave; here bounds decide what need not be priced, so that nothing
has to be left out. The result is the same optimum, with a proof, for any prunes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cost_model.dmazerunner import order_classes
from cost_model.dmazerunner_batch import make_tables
from cost_model.dmazerunner_bounds import Layer, PerMac, bound_spm_tiles, per_mac, search_spm_tiles
from cost_model.dmazerunner_lattice import Ints, array_tiles, over_divisors, splits_of, tile_set
from cost_model.dmazerunner_nest import LEVELS, NUM_LOOPS, published_machine, published_nest
from cost_model.dmazerunner_space import Prunes
from tvm_spm.arch import Arch
from tvm_spm.cost import OBJECTIVES
from tvm_spm.errors import NoMappingError, SpmError, did_you_mean
from tvm_spm.workload import Workload

_CHUNK_TILES = 64
_EVERYTHING = Prunes()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedOptimum:
    """The best tiling in its best loop order, and how it was found.

    Attributes:
        objective: What was minimised.
        factors: (level, ((dim, factor), ...)), those of 1 left out.
        cycles: Of the layer.
        energy_pj: Of the layer.
        edp: In pJ x cycles.
        value: Of the objective.
        lower_bound: No tiling of the space is below; equals ``value`` if ``certified``.
        certified: Whether every tiling was priced or excluded by its bound.
        num_tilings: Tilings in the space.
        num_evaluated: Tilings priced, each in all its loop orders.
        seconds: Wall time.
    """

    objective: str
    factors: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    cycles: int
    energy_pj: int
    edp: float
    value: float
    lower_bound: float
    certified: bool
    num_tilings: int
    num_evaluated: int
    seconds: float

    def named_factors(self) -> dict[str, dict[str, int]]:
        """Factors as ``best_over_orders`` takes them."""
        return {level: dict(row) for level, row in self.factors}


def published_exact(
    workload: Workload,
    arch: Arch,
    objective: str = "edp",
    *,
    prunes: Prunes = _EVERYTHING,
    should_stop: Callable[[], bool] | None = None,
) -> PublishedOptimum:
    """The least value of an objective over every tiling and loop order.

    Args:
        workload: Convolution, depthwise convolution or matrix product.
        arch: One core with a unified SPM.
        objective: ``edp``, ``energy`` or ``latency``.
        prunes: What to leave out; nothing by default. ``relax`` has no effect.
        should_stop: Asked now and then; the result so far is then not certified.

    Raises:
        NoMappingError: No tiling is left, or none was found before the stop.
        SpmError: An unknown objective.
        WorkloadError: The published model cannot describe the workload.
        ArchError: The published model cannot describe the accelerator.
    """
    begin = time.perf_counter()
    if objective not in OBJECTIVES:
        raise SpmError(f"unknown objective {objective!r}; {did_you_mean(objective, OBJECTIVES)}")
    layer, spm_tiles, num_tilings = _prepare(workload, arch, objective, prunes)
    if num_tilings == 0:
        raise NoMappingError(f"{workload} on {arch.name}: no tiling is left by {prunes}")
    own = per_mac(layer)
    least = PerMac(*(np.stack([over_divisors(layer.lattice, c, np.minimum) for c in v.T], axis=1) for v in own))
    bounds = bound_spm_tiles(layer, least, spm_tiles)
    order = np.argsort(bounds, kind="stable")
    spm_tiles, bounds = spm_tiles[order], bounds[order]

    value, num_evaluated, lower_bound = np.inf, 0, np.inf
    best = np.ones((len(LEVELS), NUM_LOOPS), np.int64)
    for first in range(0, len(spm_tiles), _CHUNK_TILES):
        if bounds[first] >= value:
            break
        if should_stop is not None and should_stop():
            lower_bound = float(bounds[first])
            break
        chunk = slice(first, first + _CHUNK_TILES)
        num, value = search_spm_tiles(layer, spm_tiles[chunk], bounds[chunk], value, best)
        num_evaluated += int(num)
    if np.isinf(value):
        raise NoMappingError(f"{workload} on {arch.name}: stopped before a tiling was found")
    named = published_nest(workload).named(tuple(tuple(int(f) for f in row) for row in best))
    cost = min(
        order_classes(workload, arch, named),
        key=lambda c: {"edp": c.edp, "energy": c.energy_pj, "latency": c.cycles}[objective],
    )
    return PublishedOptimum(
        objective=objective,
        factors=tuple((level, tuple(named[level].items())) for level in LEVELS),
        cycles=cost.cycles,
        energy_pj=cost.energy_pj,
        edp=cost.edp,
        value=float(value),
        lower_bound=min(lower_bound, float(value)),
        certified=lower_bound >= value,
        num_tilings=num_tilings,
        num_evaluated=num_evaluated,
        seconds=time.perf_counter() - begin,
    )


def num_published_tilings(workload: Workload, arch: Arch, prunes: Prunes = _EVERYTHING) -> int:
    """How many tilings the prunes leave, counted without enumerating them.

    Raises:
        WorkloadError: The published model cannot describe the workload.
        ArchError: The published model cannot describe the accelerator.
    """
    return _prepare(workload, arch, "edp", prunes)[2]


def _prepare(workload: Workload, arch: Arch, objective: str, prunes: Prunes) -> tuple[Layer, Ints, int]:
    """Everything of the search that is not searched: the layer, the SPM tiles in use, and the number of tilings."""
    nest, machine = published_nest(workload), published_machine(arch)
    tiles = tile_set(nest, machine, prunes)
    splits = splits_of(nest, machine, prunes, tiles)
    below = over_divisors(tiles.lattice, np.diff(splits.start), np.add)
    spm_tiles = np.flatnonzero(tiles.fits_spm & (below > 0))
    layer = Layer(
        tables=make_tables(nest, machine),
        lattice=tiles.lattice,
        sizes=tiles.sizes,
        elems=tiles.elems,
        splits=splits,
        array=array_tiles(nest, tiles, splits),
        macs=nest.macs,
        metric=OBJECTIVES.index(objective),
    )
    return layer, spm_tiles, int(below[spm_tiles].sum())
