"""Searches for the best tiling and loop order of the published execution model.

``published_exact`` lets bounds decide what need not be priced, so that nothing has to be left out, and proves its
result; ``pruned_search`` prices all that the authors' prunes leave, as they do; ``published_random`` draws tilings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cost_model.published.batch import batch_best, nest_arrays
from cost_model.published.bounds import PerMac, TilingSpace, bound_spm_tiles, per_mac, search_spm_tiles, tilings_at
from cost_model.published.lattice import Floats, Ints, array_tiles, over_divisors, splits_of, tile_set
from cost_model.published.model import order_classes
from cost_model.published.nest import LEVELS, NUM_LOOPS, published_machine, published_nest
from cost_model.published.space import AUTO, Prunes
from tvm_spm.arch import Arch
from tvm_spm.errors import NoMappingError, SpmError
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.workload import Workload

_LOG = logging.getLogger(__name__)

_CHUNK_TILES = 64
_EVERYTHING = Prunes()


@dataclass(frozen=True, slots=True, kw_only=True)
class BestTiling:
    """The best tiling that a search found, in its best loop order.

    Attributes:
        objective: What was minimised.
        factors: (level, ((dim, factor), ...)), those of 1 left out.
        cycles: Of the layer.
        energy_pj: Of the layer.
        lower_bound: No tiling of the space is below.
        num_tilings: Tilings in the space.
        num_evaluated: Tilings priced, each in all its loop orders.
        prunes: What the space leaves out, after relaxing.
    """

    objective: Objective
    factors: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    cycles: int
    energy_pj: int
    lower_bound: float
    num_tilings: int
    num_evaluated: int
    prunes: Prunes

    @property
    def edp(self) -> float:
        """In pJ x cycles."""
        return Objective.EDP.value_of(float(self.cycles), float(self.energy_pj))

    @property
    def value(self) -> float:
        """Of the objective."""
        return self.objective.value_of(float(self.cycles), float(self.energy_pj))

    @property
    def certified(self) -> bool:
        """Whether every tiling was priced or excluded by its bound."""
        return self.lower_bound >= self.value

    def named_factors(self) -> dict[str, dict[str, int]]:
        """Factors as ``order_classes`` takes them."""
        return {level: dict(row) for level, row in self.factors}


def published_exact(
    workload: Workload,
    arch: Arch,
    objective: str = "edp",
    *,
    prunes: Prunes = _EVERYTHING,
    should_stop: Callable[[], bool] | None = None,
) -> BestTiling:
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
    case = Case(workload=workload, arch=arch, objective=Objective.of(objective))
    space = _space_with_tilings(case, prunes)
    spm_tiles, bounds = _bounded(space)
    value, num_evaluated, lower_bound = np.inf, 0, np.inf
    best = np.ones((len(LEVELS), NUM_LOOPS), np.int64)
    for first in range(0, len(spm_tiles), _CHUNK_TILES):
        if bounds[first] >= value:
            break
        if should_stop is not None and should_stop():
            lower_bound = float(bounds[first])
            break
        chunk = slice(first, first + _CHUNK_TILES)
        num, value = search_spm_tiles(space, spm_tiles[chunk], bounds[chunk], value, best)
        num_evaluated += int(num)
    if np.isinf(value):
        raise NoMappingError(f"{workload} on {arch.name}: stopped before a tiling was found")
    return _result(case, best, space, prunes, num_evaluated=num_evaluated, lower_bound=min(lower_bound, float(value)))


def pruned_search(workload: Workload, arch: Arch, *, prunes: Prunes = AUTO, objective: str = "edp") -> BestTiling:
    """Price every tiling that the prunes leave, in every loop order, and return the best; see ``published_exact``.

    Of equally good tilings the one with the lexicographically first spatial, RF and SPM factors wins.
    """
    case, used = Case(workload=workload, arch=arch, objective=Objective.of(objective)), prunes
    while (space := tiling_space(case, used, prices_all=True)).num_tilings < used.enough_tilings:
        _LOG.info("%s: %d tilings left by %s", workload, space.num_tilings, used)
        weaker = used.relaxed() if used.relax else None
        if weaker is None:
            raise _nothing_left(case, prunes)
        used = weaker
    value, best = np.inf, np.ones((len(LEVELS), NUM_LOOPS), np.int64)
    no_bounds = np.full(_CHUNK_TILES, -np.inf)
    for first in range(0, len(space.spm_tiles), _CHUNK_TILES):
        _, value = search_spm_tiles(space, space.spm_tiles[first : first + _CHUNK_TILES], no_bounds, value, best)
    return _result(case, best, space, used, num_evaluated=space.num_tilings, lower_bound=float(value))


def published_random(
    workload: Workload,
    arch: Arch,
    objective: str = "edp",
    *,
    num_evaluated: int,
    rng: np.random.Generator,
    prunes: Prunes = _EVERYTHING,
) -> BestTiling:
    """The best of some tilings drawn uniformly, with replacement, from all that the prunes leave.

    As ``published_exact``, and besides:

    Args:
        num_evaluated: Tilings to draw, each priced in all loop orders.
        rng: Draws them.

    Raises:
        SpmError: Nothing to draw.
    """
    if num_evaluated < 1:
        raise SpmError(f"published_random: num_evaluated = {num_evaluated}: must be >= 1")
    case = Case(workload=workload, arch=arch, objective=Objective.of(objective))
    space = _space_with_tilings(case, prunes)
    factors = random_tilings(space, num_evaluated, rng)
    values = batch_best(space.nest, factors, case.objective.code)
    bound = min(float(_bounded(space)[1][0]), float(values.min()))
    return _result(case, factors[values.argmin()], space, prunes, num_evaluated=num_evaluated, lower_bound=bound)


def tiling_space(case: Case, prunes: Prunes, *, prices_all: bool = False) -> TilingSpace:
    """All tilings that the prunes leave, counted without enumerating them.

    Args:
        case: What is tiled on what, and what is minimised.
        prunes: What to leave out.
        prices_all: The search prices every tiling.

    Raises:
        WorkloadError: The published model cannot describe the workload.
        ArchError: The published model cannot describe the accelerator.
    """
    nest, machine = published_nest(case.workload), published_machine(case.arch)
    tiles = tile_set(nest, machine, prunes)
    splits = splits_of(nest, machine, prunes, tiles)
    num_below = over_divisors(tiles.lattice, np.diff(splits.start), np.add)
    spm_tiles = np.flatnonzero(tiles.fits_spm & (num_below > 0))
    return TilingSpace(
        nest=nest_arrays(nest, machine),
        tiles=tiles,
        splits=splits,
        array=array_tiles(nest, tiles, splits),
        spm_tiles=spm_tiles,
        num_below=num_below[spm_tiles],
        objective=case.objective.code,
        prices_all=prices_all,
    )


def random_tilings(space: TilingSpace, num: int, rng: np.random.Generator) -> Ints:
    """Tilings ``(num, 4, 7)`` drawn uniformly, with replacement; not in random order."""
    ends = np.cumsum(space.num_below)
    drawn = np.sort(rng.integers(space.num_tilings, size=num))
    rows = np.searchsorted(ends, drawn, side="right")
    return tilings_at(space, space.spm_tiles[rows], drawn - ends[rows] + space.num_below[rows])


def _space_with_tilings(case: Case, prunes: Prunes) -> TilingSpace:
    space = tiling_space(case, prunes)
    if space.num_tilings == 0:
        raise _nothing_left(case, prunes)
    return space


def _nothing_left(case: Case, prunes: Prunes) -> NoMappingError:
    return NoMappingError(f"{case.workload} on {case.arch.name}: no tiling is left by {prunes}")


def _bounded(space: TilingSpace) -> tuple[Ints, Floats]:
    """The SPM tiles and what no tiling under each is below, the most promising first."""
    own, lattice = per_mac(space), space.tiles.lattice
    least = PerMac(*(np.stack([over_divisors(lattice, column, np.minimum) for column in v.T], axis=1) for v in own))
    bounds = bound_spm_tiles(space, least)
    order = np.argsort(bounds, kind="stable")
    return space.spm_tiles[order], bounds[order]


def _result(
    case: Case, best: Ints, space: TilingSpace, prunes: Prunes, *, num_evaluated: int, lower_bound: float
) -> BestTiling:
    named = published_nest(case.workload).named(best.tolist())
    order = min(order_classes(case.workload, case.arch, named), key=lambda order: order.value(case.objective))
    return BestTiling(
        objective=case.objective,
        factors=tuple((level, tuple(named[level].items())) for level in LEVELS),
        cycles=order.cycles,
        energy_pj=order.energy_pj,
        lower_bound=lower_bound,
        num_tilings=space.num_tilings,
        num_evaluated=num_evaluated,
        prunes=prunes,
    )
