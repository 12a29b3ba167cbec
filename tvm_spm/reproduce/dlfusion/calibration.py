"""Constants of the heuristic, fitted on synthetic layers of the machine model and never on the networks compared.

Single layers and chains are priced on every power of two of cores. Weights and offset of the score start as those of a
grid that lose least on the single layers; then each constant in turn moves by steps that become smaller, as long as the
geometric mean of cycles over the best known falls, over layers and chains with equal weight. The best known is the best
number of cores for a layer and the reduced brute force for a chain, which the paper compares with. Losses are measured
on other sizes of the same kinds, which the fit never saw.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tvm_spm.reproduce.dlfusion.heuristic import Rule, make_heuristic
from tvm_spm.reproduce.dlfusion.prices import BoundGroup, PriceGroup, PriceTable, no_bounds
from tvm_spm.reproduce.dlfusion.strategies import POWERS_OF_TWO, Strategy, best_cores, decide, reduced_brute_force
from tvm_spm.reproduce.dlfusion.synthetic import ConvShape, conv_chain, layer_chains, single_layers
from tvm_spm.reproduce.paper_table import geometric_mean

FIT_SIZES = ((16, 56), (64, 56), (128, 28), (32, 28), (256, 14), (64, 14), (512, 14), (512, 7))
"""Channels and extents of the layers of the fit; the first ones are enough for a quick one."""

HELD_OUT_SIZES = ((24, 40), (96, 28), (192, 20), (384, 10), (48, 14))

NUM_QUICK = 2

WEIGHTS = tuple(round(0.05 * step, 2) for step in range(-4, 13))
OFFSETS = tuple(0.25 * step for step in range(-64, 65))
BLOCK_SCORES = tuple(range(12, 91))
BLOCK_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Where the refinement of the constants that close blocks begins."""

NUM_REFINEMENTS = 4

NUM_OWN = 20
"""Of ``BLOCK_SCORES``, those that a chain may choose from in ``Loss.chains_least``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Geometric means of cycles over the best known, less 1.

    Attributes:
        layers: Of the rule on single layers, over the best number of cores.
        layers_least: Of any choice that knows operations and channels only.
        chains: Of the rule on chains, over the reduced brute force.
        chains_least: If every chain had its own number of cores and its own threshold, of those looked at.
        chains_alone: Of the best number of cores per layer, without fusion.
    """

    layers: float
    layers_least: float
    chains: float
    chains_least: float
    chains_alone: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Constants, and what they lose.

    Attributes:
        rule: What the heuristic uses.
        fit: On what it was fitted on.
        held_out: On sizes it has not seen.
        num_layers: Single layers of the fit.
        num_chains: Chains of the fit.
    """

    rule: Rule
    fit: Loss
    held_out: Loss
    num_layers: int
    num_chains: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Priced:
    """Layers or chains, and the best known of each."""

    tables: tuple[PriceTable, ...]
    best: tuple[int, ...]

    def ratios(self, strategy: Strategy) -> list[float]:
        return [decide("", strategy, table).cycles / least for table, least in zip(self.tables, self.best, strict=True)]

    def loss(self, strategy: Strategy) -> float:
        return geometric_mean(self.ratios(strategy)) - 1


def calibrate(
    price_group: PriceGroup, max_cores: int, *, bound_group: BoundGroup = no_bounds, quick: bool = False
) -> Calibration:
    """Fit the heuristic to one accelerator.

    Args:
        price_group: Prices a group on exactly so many cores.
        max_cores: Of the accelerator.
        bound_group: What a price cannot be below; saves prices.
        quick: Few sizes.
    """
    counts = tuple(count for count in POWERS_OF_TWO if count <= max_cores)

    def price(shapes: Sequence[list[ConvShape]], strategy: Strategy) -> _Priced:
        tables = tuple(
            PriceTable(graph=conv_chain(each), core_counts=counts, price_group=price_group, bound_group=bound_group)
            for each in shapes
        )
        return _Priced(tables=tables, best=tuple(decide("", strategy, table).cycles for table in tables))

    fit_sizes, held_out_sizes = (sizes[: NUM_QUICK if quick else None] for sizes in (FIT_SIZES, HELD_OUT_SIZES))
    layers = price(single_layers(fit_sizes), best_cores)
    chains = price(layer_chains(fit_sizes), reduced_brute_force)
    rule = _refined(_first_rule(layers, chains, counts), layers, chains)
    held_layers = price(single_layers(held_out_sizes), best_cores)
    held_chains = price(layer_chains(held_out_sizes), reduced_brute_force)
    return Calibration(
        rule=rule,
        fit=_loss(rule, layers, chains, counts),
        held_out=_loss(rule, held_layers, held_chains, counts),
        num_layers=len(layers.tables),
        num_chains=len(chains.tables),
    )


def _first_rule(layers: _Priced, chains: _Priced, counts: tuple[int, ...]) -> Rule:
    """Of a grid, the score that loses least on the layers, then the threshold that loses least on the chains."""
    ratios = np.log([layers.ratios(make_heuristic(_fixed(count, 0))) for count in counts]).T
    macs, channels = np.log2(_features(layers)).T
    steps = np.log2(counts)
    chosen = []
    for macs_weight, channels_weight in itertools.product(WEIGHTS, WEIGHTS):
        scores = macs_weight * macs + channels_weight * channels
        offsets = [offset for offset in OFFSETS if steps[0] <= scores.mean() + offset <= steps[-1]]
        for offset in offsets:
            picked = np.abs(steps[None, :] - (scores + offset)[:, None]).argmin(axis=1)
            lost = float(np.take_along_axis(ratios, picked[:, None], axis=1).mean())
            chosen.append((lost, abs(macs_weight) + abs(channels_weight), macs_weight, channels_weight, offset))
    _, _, macs_weight, channels_weight, offset = min(chosen)
    cores = Rule(
        macs_weight=macs_weight,
        channels_weight=channels_weight,
        offset=offset,
        block_score=BLOCK_SCORES[0],
        block_channels_weight=0.0,
    )
    rules = [
        replace(cores, block_score=float(score), block_channels_weight=weight)
        for weight, score in itertools.product(BLOCK_WEIGHTS, BLOCK_SCORES)
    ]
    return min(rules, key=lambda rule: chains.loss(make_heuristic(rule)))


def _refined(rule: Rule, layers: _Priced, chains: _Priced) -> Rule:
    """Move one constant at a time while layers and chains together lose less."""

    def lost(tried: Rule) -> float:
        strategy = make_heuristic(tried)
        return math.log1p(layers.loss(strategy)) + math.log1p(chains.loss(strategy))

    least = lost(rule)
    typical_macs, typical_channels = (float(value) for value in np.log2(_features(layers)).mean(axis=0))
    # A weight turns the score about the typical layer, or it would move the offset with it.
    moves: tuple[Callable[[Rule, float], Rule], ...] = (
        lambda rule, step: replace(rule, offset=rule.offset + step / 2),
        lambda rule, step: replace(rule, block_score=rule.block_score + step),
        lambda rule, step: replace(
            rule, macs_weight=rule.macs_weight + step / 20, offset=rule.offset - step / 20 * typical_macs
        ),
        lambda rule, step: replace(
            rule, channels_weight=rule.channels_weight + step / 20, offset=rule.offset - step / 20 * typical_channels
        ),
        lambda rule, step: replace(
            rule,
            block_channels_weight=rule.block_channels_weight + step / 4,
            block_score=rule.block_score + step / 4 * typical_channels,
        ),
    )
    for refinement in range(NUM_REFINEMENTS):
        moved = True
        while moved:
            moved = False
            for move, sign in itertools.product(moves, (1, -1)):
                tried = move(rule, sign * 0.5**refinement)
                if (loss := lost(tried)) < least:
                    rule, least, moved = tried, loss, True
    return rule


def _loss(rule: Rule, layers: _Priced, chains: _Priced, counts: tuple[int, ...]) -> Loss:
    alike: dict[tuple[float, ...], list[int]] = {}
    for index, features in enumerate(_features(layers)):
        alike.setdefault(tuple(features), []).append(index)
    ratios = np.log([layers.ratios(make_heuristic(_fixed(count, 0))) for count in counts])
    least = sum(float(ratios[:, indices].sum(axis=1).min()) for indices in alike.values())
    fixed = [_fixed(count, score) for count, score in itertools.product(counts, BLOCK_SCORES[:NUM_OWN])]
    own = [chains.ratios(make_heuristic(tried)) for tried in (rule, *fixed)]
    return Loss(
        layers=layers.loss(make_heuristic(rule)),
        layers_least=math.expm1(least / len(layers.tables)),
        chains=chains.loss(make_heuristic(rule)),
        chains_least=geometric_mean([min(column) for column in zip(*own, strict=True)]) - 1,
        chains_alone=chains.loss(best_cores),
    )


def _fixed(count: int, score: int) -> Rule:
    """So many cores for every block, and a threshold of operations alone."""
    return Rule(
        macs_weight=0.0, channels_weight=0.0, offset=math.log2(count), block_score=score, block_channels_weight=0.0
    )


def _features(layers: _Priced) -> list[tuple[int, int]]:
    works = [layer.workload for table in layers.tables for layer in table.graph.layers if layer.workload is not None]
    return [(work.macs, work.dims.K * work.dims.G) for work in works]
