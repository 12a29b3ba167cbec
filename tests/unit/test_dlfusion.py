"""Strategies that choose groups and cores, on prices made by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_spm.errors import PlanError
from tvm_spm.group import Group
from tvm_spm.reproduce.dlfusion.calibration import calibrate
from tvm_spm.reproduce.dlfusion.heuristic import Rule, heuristic_block, make_heuristic
from tvm_spm.reproduce.dlfusion.prices import AskedPrices, GroupPrice, PriceTable
from tvm_spm.reproduce.dlfusion.strategies import (
    POWERS_OF_TWO,
    Decision,
    best_cores,
    decide,
    exact,
    fixed_cores,
    fuse_everything,
    fuse_with_one_count,
    no_optimisation,
    reduced_brute_force,
    reduced_cuts,
)
from tvm_spm.reproduce.dlfusion.synthetic import conv_chain

# Channels 4 -> 8 -> 8 -> 16 -> 16 -> 16: the output of layers 0, 1 has 8 channels, that of 2, 3, 4 has 16.
CHAIN = [(8, 4, 4, 1), (8, 8, 4, 1), (16, 8, 4, 1), (16, 16, 4, 1), (16, 16, 4, 1)]
# Cores = MACs / 256, whatever the channels.
RULE = Rule(macs_weight=1.0, channels_weight=0.0, offset=-8.0, block_score=11.0, block_channels_weight=0.0)


def make_table(
    costs: dict[tuple[int, int, int], int], counts: tuple[int, ...] = (1, 2, 4), most_cores: tuple[int, ...] = ()
) -> PriceTable:
    """Cycles by first layer, stop and cores; what is not listed does not fit.

    ``most_cores`` says over how many cores the output of each layer can be split.
    """

    def price(group: Group, cores: int) -> GroupPrice | None:
        cycles = costs.get((group.layers[0], group.sink + 1, cores))
        return None if cycles is None else GroupPrice(cycles=cycles, energy_pj=float(cycles), num_cores=cores)

    # Every layer has channels of its own, so that no two groups count as equal.
    chain = [(10 + index, 9 + index, 4, 1) for index in range(max((stop for _, stop, _ in costs), default=1))]
    most = {(1, 10 + index, 4, 4): cores for index, cores in enumerate(most_cores)}
    return PriceTable(
        graph=conv_chain(chain),
        core_counts=counts,
        price_group=price,
        can_split=lambda shape, cores: cores <= most.get(shape, cores),
    )


def chosen(decision: Decision) -> list[tuple[int, int, int]]:
    return [(block.first, block.stop, block.price.num_cores) for block in decision.blocks]


# Two layers. Alone: 100 / 60 / 80 cycles on 1 / 2 / 4 cores, and 40 / 50 (never on 4). Together: 90 on 2 cores.
TWO_LAYERS = {(0, 1, 1): 100, (0, 1, 2): 60, (0, 1, 4): 80, (1, 2, 1): 40, (1, 2, 2): 50, (0, 2, 2): 90}


@pytest.mark.parametrize(
    ("strategy", "expected", "cycles"),
    [
        (no_optimisation, [(0, 1, 1), (1, 2, 1)], 140),
        # The second layer cannot be split over 4 cores and takes 2.
        (fixed_cores, [(0, 1, 4), (1, 2, 2)], 130),
        (best_cores, [(0, 1, 2), (1, 2, 1)], 100),
        # On 4 cores the pair falls back to 2, where it fits.
        (fuse_everything, [(0, 2, 2)], 90),
        # On 1 core: 140; on 2 and on 4: the pair on 2.
        (fuse_with_one_count, [(0, 2, 2)], 90),
        (exact, [(0, 2, 2)], 90),
    ],
)
def test_each_strategy_follows_its_definition(strategy: object, expected: list[tuple[int, int, int]], cycles: int):
    decision = decide("", strategy, make_table(TWO_LAYERS, most_cores=(4, 2)))
    assert chosen(decision) == expected
    assert decision.cycles == cycles


def test_fusing_everything_grows_groups_while_they_fit():
    # Layers 0-1 fit on 4 cores, 0-2 do not; the rest is alone.
    costs = {(layer, layer + 1, 4): 10 for layer in range(3)} | {(0, 2, 4): 30, (1, 3, 4): 5}
    decision = decide("", fuse_everything, make_table(costs))
    assert chosen(decision) == [(0, 2, 4), (2, 3, 4)]
    assert decision.note == "does not fit as one: cut into 2 groups"
    # The optimum takes the cheap pair instead: 10 + 5.
    assert decide("", exact, make_table(costs)).cycles == 15


def test_a_layer_that_fits_nowhere_is_named():
    table = make_table({(0, 1, 1): 1, (1, 2, 1): 1})
    costs = {(0, 1, 1): 1}
    table.price_group = lambda group, cores: (
        GroupPrice(cycles=1, energy_pj=1.0, num_cores=1) if (group.layers[0], group.sink + 1, cores) in costs else None
    )
    for strategy in (best_cores, fuse_everything):
        with pytest.raises(PlanError, match="layer conv1: does not fit"):
            decide("", strategy, table)


def test_cores_of_the_heuristic():
    # log2 cores = log2 MACs / 2 + log2 channels / 4 - 5: 2**10 MACs on 2**8 channels make 2**2 cores.
    rule = Rule(macs_weight=0.5, channels_weight=0.25, offset=-5.0, block_score=0.0, block_channels_weight=0.0)
    assert rule.cores(1 << 10, 1 << 8, (1, 2, 4, 8)) == 4
    assert rule.cores(1 << 12, 1 << 8, (1, 2, 4, 8)) == 8
    assert rule.cores(1 << 10, 1 << 12, (1, 2, 4, 8)) == 8
    # Beyond what there is, the nearest; half way, the smaller.
    assert rule.cores(1 << 30, 1 << 8, (1, 2, 4, 8)) == 8
    assert rule.cores(1, 1, (1, 2, 4, 8)) == 1
    assert rule.cores(1 << 11, 1 << 8, (1, 2, 4, 8)) == 4


def test_a_block_closes_when_its_cores_have_enough_to_do():
    graph = conv_chain(CHAIN)
    table = PriceTable(graph=graph, core_counts=(1, 2, 4), price_group=lambda group, cores: None)
    # 4x4 outputs: 16 * 8 * 4 = 512 MACs, then 1,024, 2,048, 4,096, 4,096.
    # Layer 0: 512 MACs on 2 cores, 256 each. Layers 0-1: mean 768, log2 (768 / 256) = 1.58, 4 cores, 384 each.
    # Layers 0-2: mean 1,194.7, 4 cores, 3,584 / 4 = 896 each. Layers 0-3: 7,680 / 4 = 1,920 each.
    # Layers 0-4: 11,776 / 4 = 2,944 >= 2,048: closed.
    prices = AskedPrices(table=table)
    assert heuristic_block(prices, 0, RULE, (1, 2, 4)) == (5, 4)
    # 2 ** 10.9 = 1,911 is passed by 1,920, one layer earlier.
    assert heuristic_block(prices, 0, replace(RULE, block_score=10.9), (1, 2, 4)) == (4, 4)
    # With channels: log2 384 + log2 8 / 2 = 10.08 after layer 1, log2 896 + log2 16 / 2 = 11.81 after layer 2.
    weighted = replace(RULE, block_score=11.5, block_channels_weight=0.5)
    assert heuristic_block(prices, 0, weighted, (1, 2, 4)) == (3, 4)
    # Layer 4 alone: 4,096 MACs on 4 cores, 1,024 each; the network ends.
    assert heuristic_block(prices, 4, RULE, (1, 2, 4)) == (5, 4)


def test_reduced_cuts_prefer_changes_of_shape():
    table = PriceTable(graph=conv_chain(CHAIN), core_counts=(1,), price_group=lambda group, cores: None)
    assert reduced_cuts(AskedPrices(table=table)) == ((1, 2, 3, 4), 0)
    # 22 layers of equal shapes, the last two with 3x3 filters: the place between these comes before all others, those
    # between 1x1 filters follow from the front: 17 of 20.
    long = conv_chain([(8, 8, 4, 1)] * 20 + [(8, 8, 4, 3)] * 2)
    kept = reduced_cuts(
        AskedPrices(table=PriceTable(graph=long, core_counts=(1,), price_group=lambda group, cores: None))
    )
    assert kept == ((*range(1, 17), 20, 21), 3)


def test_the_reduced_brute_force_tries_every_set_of_cuts():
    # Alone 10 each; 0-1 takes 12, 2-3 takes 13, 1-2 takes 15; nothing longer fits. 12 + 13 + 10 is best.
    costs = {(layer, layer + 1, 1): 10 for layer in range(5)} | {(0, 2, 1): 12, (2, 4, 1): 13, (1, 3, 1): 15}

    def price(group: Group, cores: int) -> GroupPrice | None:
        cycles = costs.get((group.layers[0], group.sink + 1, cores))
        return None if cycles is None else GroupPrice(cycles=cycles, energy_pj=1.0, num_cores=cores)

    table = PriceTable(graph=conv_chain(CHAIN), core_counts=(1, 2), price_group=price)
    decision = decide("", reduced_brute_force, table)
    assert chosen(decision) == [(0, 2, 1), (2, 4, 1), (4, 5, 1)]
    assert decision.cycles == 12 + 13 + 10
    assert decision.note == "16 sets of cuts at 4 places"


@st.composite
def tables(draw: st.DrawFn) -> PriceTable:
    num_layers = draw(st.integers(1, 5))
    costs = {}
    for first, stop in itertools.combinations(range(num_layers + 1), 2):
        for cores in (1, 2, 4):
            if stop - first == 1 or draw(st.booleans()):
                costs[first, stop, cores] = draw(st.integers(1, 99))
    return make_table(costs)


@settings(max_examples=60, deadline=None)
@given(table=tables())
def test_nothing_beats_the_exact_plan(table: PriceTable):
    best = decide("", exact, table)
    num_layers = len(table.graph.layers)
    others = [
        no_optimisation, fixed_cores, best_cores, fuse_everything, fuse_with_one_count, make_heuristic(RULE),
        reduced_brute_force,
    ]  # fmt: skip
    for strategy in others:
        decision = decide("", strategy, table)
        assert best.cycles <= decision.cycles
        assert [layer for block in decision.blocks for layer in range(block.first, block.stop)] == [*range(num_layers)]
    # All cores for all is one way to have one number of cores.
    assert decide("", fuse_with_one_count, table).cycles <= decide("", fuse_everything, table).cycles
    assert decide("", best_cores, table).cycles <= decide("", fixed_cores, table).cycles


@settings(max_examples=60, deadline=None)
@given(table=tables(), slack=st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_bounds_save_prices_and_change_nothing(table: PriceTable, slack: float):
    priced = []

    def bound(group: Group, counts: tuple[int, ...]) -> tuple[float, ...]:
        found = [table.price_group(group, count) for count in counts]
        return tuple(slack * price.cycles if price else 0.0 for price in found)

    def price(group: Group, cores: int) -> GroupPrice | None:
        priced.append((group.layers[0], group.sink + 1, cores))
        return table.price_group(group, cores)

    bounded = PriceTable(graph=table.graph, core_counts=(1, 2, 4), price_group=price, bound_group=bound)
    for strategy in (exact, fuse_with_one_count, reduced_brute_force):
        priced.clear()
        found, known = decide("", strategy, bounded), decide("", strategy, table)
        assert found.cycles == known.cycles
        assert found.num_prices <= known.num_prices
        bounded.known.clear()


def test_groups_that_look_alike_are_priced_once():
    calls = []

    def price(group: Group, cores: int) -> GroupPrice:
        calls.append((group.layers[0], group.sink + 1, cores))
        return GroupPrice(cycles=5, energy_pj=1.0, num_cores=cores)

    # Layers 3 and 4 of the chain are equal.
    graph = conv_chain(CHAIN)
    table = PriceTable(graph=graph, core_counts=(1,), price_group=price)
    first = decide("", no_optimisation, table)
    assert calls == [(0, 1, 1), (1, 2, 1), (2, 3, 1), (3, 4, 1)]
    # A second strategy computes nothing, and is still charged for all it looked at.
    again = decide("", no_optimisation, table)
    assert len(calls) == 4
    assert again.cost_s == pytest.approx(first.cost_s)
    assert again.num_prices == 4


def test_calibration_finds_the_rule_behind_the_prices():
    # A core costs 2**16 cycles and does one MAC per cycle: n cores take M / n + n * 2**16, least at n = 2**(log2 M / 2
    # - 8). A group pays for its cores once, so that layers and chains want constants that differ a little.
    def price(group: Group, cores: int) -> GroupPrice:
        macs = sum(
            layer.workload.macs for layer in group.graph.layers[group.layers[0] : group.sink + 1] if layer.workload
        )
        return GroupPrice(cycles=macs // cores + (cores << 16) + 1000, energy_pj=1.0, num_cores=cores)

    found = calibrate(price, 32, quick=True)
    assert 0 <= found.fit.layers_least <= found.fit.layers < 0.05
    assert 0 <= found.held_out.layers_least <= found.held_out.layers < 0.1
    assert found.fit.chains_least <= found.fit.chains < found.fit.chains_alone
    assert (found.num_layers, found.num_chains) == (2 * 7, 2 * 5)
    assert max(POWERS_OF_TWO) == 32


def test_calibration_ignores_what_costs_nothing():
    # Every number of cores takes as long: any rule is as good, and none loses.
    found = calibrate(
        lambda group, cores: GroupPrice(cycles=10 * (len(group.layers)), energy_pj=1.0, num_cores=cores),
        4,
        quick=True,
    )
    assert found.fit == found.held_out
    assert found.fit.layers == found.fit.chains == found.fit.chains_alone == 0
