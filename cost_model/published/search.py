"""The certified optimum of the published execution model, over every tiling and loop order, in seconds.

``pruned_search`` prices all tilings that the prunes leave; here bounds decide what need not be priced, so that nothing
has to be left out. The result is the same optimum, with a proof, for any prunes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cost_model.published.batch import batch_best, make_tables
from cost_model.published.bounds import Layer, PerMac, bound_spm_tiles, per_mac, search_spm_tiles, tilings_at
from cost_model.published.lattice import Floats, Ints, array_tiles, over_divisors, splits_of, tile_set
from cost_model.published.model import OrderClass, order_classes
from cost_model.published.nest import LEVELS, NUM_LOOPS, published_machine, published_nest
from cost_model.published.space import Prunes
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
    space = _prepare(workload, arch, objective, prunes)
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
        num, value = search_spm_tiles(space.layer, spm_tiles[chunk], bounds[chunk], value, best)
        num_evaluated += int(num)
    if np.isinf(value):
        raise NoMappingError(f"{workload} on {arch.name}: stopped before a tiling was found")
    return _result(workload, arch, objective, best, min(lower_bound, float(value)), space, num_evaluated, begin)


def published_random(
    workload: Workload,
    arch: Arch,
    objective: str = "edp",
    *,
    num_evaluated: int,
    rng: np.random.Generator,
    prunes: Prunes = _EVERYTHING,
) -> PublishedOptimum:
    """The best of some tilings drawn uniformly, with replacement, from all that the prunes leave.

    Args:
        workload: As ``published_exact``.
        arch: As ``published_exact``.
        objective: As ``published_exact``.
        num_evaluated: Tilings to draw, each priced in all loop orders.
        rng: Draws them.
        prunes: As ``published_exact``.

    Raises:
        NoMappingError: No tiling is left.
        SpmError: An unknown objective, or nothing to draw.
        WorkloadError: As ``published_exact``.
        ArchError: As ``published_exact``.
    """
    begin = time.perf_counter()
    if num_evaluated < 1:
        raise SpmError(f"published_random: num_evaluated = {num_evaluated}: must be >= 1")
    space = _prepare(workload, arch, objective, prunes)
    factors = _draw(space, num_evaluated, rng)
    costs = batch_best(published_nest(workload), published_machine(arch), factors)
    values = {"edp": costs.min_edp, "energy": costs.min_energy_pj, "latency": costs.min_cycles}[objective]
    bound = min(float(_bounded(space)[1][0]), float(values.min()))
    return _result(workload, arch, objective, factors[values.argmin()], bound, space, num_evaluated, begin)


def random_tilings(
    workload: Workload, arch: Arch, num: int, rng: np.random.Generator, prunes: Prunes = _EVERYTHING
) -> Ints:
    """Tilings ``(num, 4, 7)`` drawn uniformly, with replacement, from all that the prunes leave; not in random order.

    Raises:
        NoMappingError: No tiling is left.
        WorkloadError: The published model cannot describe the workload.
        ArchError: The published model cannot describe the accelerator.
    """
    return _draw(_prepare(workload, arch, "edp", prunes), num, rng)


def num_published_tilings(workload: Workload, arch: Arch, prunes: Prunes = _EVERYTHING) -> int:
    """How many tilings the prunes leave, counted without enumerating them.

    Raises:
        WorkloadError: The published model cannot describe the workload.
        ArchError: The published model cannot describe the accelerator.
    """
    try:
        return _prepare(workload, arch, "edp", prunes).num_tilings
    except NoMappingError:
        return 0


class _Space(NamedTuple):
    """Everything of a search that is not searched: the layer, its SPM tiles in use, and the tilings under each."""

    layer: Layer
    spm_tiles: Ints
    num_below: Ints

    @property
    def num_tilings(self) -> int:
        return int(self.num_below.sum())


def _prepare(workload: Workload, arch: Arch, objective: str, prunes: Prunes) -> _Space:
    if objective not in OBJECTIVES:
        raise SpmError(f"unknown objective {objective!r}; {did_you_mean(objective, OBJECTIVES)}")
    nest, machine = published_nest(workload), published_machine(arch)
    tiles = tile_set(nest, machine, prunes)
    splits = splits_of(nest, machine, prunes, tiles)
    num_below = over_divisors(tiles.lattice, np.diff(splits.start), np.add)
    spm_tiles = np.flatnonzero(tiles.fits_spm & (num_below > 0))
    if len(spm_tiles) == 0:
        raise NoMappingError(f"{workload} on {arch.name}: no tiling is left by {prunes}")
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
    return _Space(layer, spm_tiles, num_below[spm_tiles])


def _draw(space: _Space, num: int, rng: np.random.Generator) -> Ints:
    ends = np.cumsum(space.num_below)
    drawn = np.sort(rng.integers(space.num_tilings, size=num))
    rows = np.searchsorted(ends, drawn, side="right")
    return tilings_at(space.layer, space.spm_tiles[rows], drawn - ends[rows] + space.num_below[rows])


def _bounded(space: _Space) -> tuple[Ints, Floats]:
    """The SPM tiles and what no tiling under each is below, the most promising first."""
    own = per_mac(space.layer)
    lattice = space.layer.lattice
    least = PerMac(*(np.stack([over_divisors(lattice, column, np.minimum) for column in v.T], axis=1) for v in own))
    bounds = bound_spm_tiles(space.layer, least, space.spm_tiles)
    order = np.argsort(bounds, kind="stable")
    return space.spm_tiles[order], bounds[order]


def _result(
    workload: Workload,
    arch: Arch,
    objective: str,
    best: Ints,
    lower_bound: float,
    space: _Space,
    num_evaluated: int,
    begin: float,
) -> PublishedOptimum:
    named = published_nest(workload).named(tuple(tuple(int(f) for f in row) for row in best))
    cost = min(order_classes(workload, arch, named), key=lambda order: _value(order, objective))
    value = _value(cost, objective)
    return PublishedOptimum(
        objective=objective,
        factors=tuple((level, tuple(named[level].items())) for level in LEVELS),
        cycles=cost.cycles,
        energy_pj=cost.energy_pj,
        edp=cost.edp,
        value=value,
        lower_bound=lower_bound,
        certified=lower_bound >= value,
        num_tilings=space.num_tilings,
        num_evaluated=num_evaluated,
        seconds=time.perf_counter() - begin,
    )


def _value(order: OrderClass, objective: str) -> float:
    return {"edp": order.edp, "energy": float(order.energy_pj), "latency": float(order.cycles)}[objective]
