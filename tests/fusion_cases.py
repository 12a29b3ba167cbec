"""Small random networks, and all their plans one by one; ``python -m tests.fusion_cases 2000`` counts agreements."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np

from tvm_spm.errors import PlanError
from tvm_spm.fusion.planner import GroupOption, PlannedGroup, plan_groups

Key = tuple[Fraction, int, Fraction, int, tuple[tuple[int, int], ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Options by interval; an interval that is not a key is refused. ``choice`` is the place in its list."""

    num_layers: int
    options: dict[tuple[int, int], tuple[GroupOption, ...]]

    def options_of(self, first: int, stop: int) -> tuple[GroupOption, ...]:
        return self.options.get((first, stop), ())


def make_network(num_layers: int, costs: dict[tuple[int, int], list[tuple[int, float]]]) -> Network:
    return Network(
        num_layers=num_layers,
        options={
            span: tuple(GroupOption(cycles=c, energy_pj=e, choice=place) for place, (c, e) in enumerate(listed))
            for span, listed in costs.items()
        },
    )


def draw_network(rng: np.random.Generator, *, most_layers: int, most_plans: int) -> Network:
    """With few distinct costs, so that plans tie, or costs of any mantissa, or all options on one hyperbola."""
    while True:
        num_layers = int(rng.integers(1, most_layers + 1))
        kind, refused, most_options = rng.integers(4), rng.choice([0, 0.2, 0.6]), int(rng.integers(1, 5))
        costs: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for first in range(num_layers):
            for stop in range(first + 1, num_layers + 1):
                if rng.random() < refused:
                    continue
                count = int(rng.integers(1, most_options + 1))
                if kind == 0:
                    listed = [(int(c), float(e)) for c, e in rng.integers(0, 4, (count, 2))]
                elif kind == 1:
                    listed = [(int(c), float(rng.uniform(0, 10))) for c in rng.integers(1, 30, count)]
                elif kind == 2:
                    listed = [(int(c), float(10.0 ** rng.uniform(-12, 12))) for c in rng.integers(1, 10**9, count)]
                else:
                    listed = [(int(c), 720.0 * (stop - first) / int(c)) for c in rng.integers(1, 40, count)]
                costs[first, stop] = listed
        network = make_network(num_layers, costs)
        if count_plans(network) <= most_plans:
            return network


def count_plans(network: Network) -> int:
    """All partitions times all options."""
    counts = [0] * network.num_layers + [1]
    for first in range(network.num_layers - 1, -1, -1):
        stops = range(first + 1, network.num_layers + 1)
        counts[first] = sum(len(network.options_of(first, stop)) * counts[stop] for stop in stops)
    return counts[0]


def enumerate_plans(network: Network, max_group: int | None = None) -> Iterator[tuple[PlannedGroup, ...]]:
    """Every partition, in every combination of options; a bit of ``mask`` cuts between two layers."""
    for mask in range(2 ** (network.num_layers - 1)):
        cuts = [0, *(i for i in range(1, network.num_layers) if mask >> (i - 1) & 1), network.num_layers]
        spans = list(zip(cuts, cuts[1:], strict=False))
        if max_group is not None and any(stop - first > max_group for first, stop in spans):
            continue
        for options in product(*(network.options_of(*span) for span in spans)):
            yield tuple(
                PlannedGroup(first=first, stop=stop, option=option)
                for (first, stop), option in zip(spans, options, strict=True)
            )


def total(groups: tuple[PlannedGroup, ...]) -> tuple[int, Fraction]:
    """Cycles and energy, not rounded."""
    return sum(g.option.cycles for g in groups), sum((Fraction(g.option.energy_pj) for g in groups), Fraction(0))


def rank(groups: tuple[PlannedGroup, ...], objective: str) -> Key:
    """Objective, then the documented order of ties."""
    cycles, energy = total(groups)
    value = {"latency": Fraction(cycles), "energy": energy, "edp": cycles * energy}[objective]
    return value, cycles, energy, len(groups), tuple((group.stop, group.option.choice) for group in groups)


def find_front(totals: set[tuple[int, Fraction]]) -> list[tuple[int, Fraction]]:
    """Totals that no other beats, pair by pair."""
    return sorted(p for p in totals if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in totals))


def check_network(network: Network, max_group: int | None = None) -> tuple[int, int]:
    """Compare three objectives with brute force; the comparisons made and the plans enumerated."""
    plans = list(enumerate_plans(network, max_group))
    if not plans:
        try:
            plan_groups(network.num_layers, network.options_of, "edp", max_group)
        except PlanError:
            return 1, 0
        raise AssertionError("a plan of a network that has none")
    for objective in ("latency", "energy", "edp"):
        plan = plan_groups(network.num_layers, network.options_of, objective, max_group)
        best = min(plans, key=lambda groups: rank(groups, objective))
        assert plan.groups == best
        assert (plan.cycles, plan.energy_pj) == (total(best)[0], float(total(best)[1]))
    return 3, len(plans)


def main() -> None:
    """Check as many random networks as the first argument says."""
    rng = np.random.default_rng(0)
    num_networks = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    done = [check_network(draw_network(rng, most_layers=10, most_plans=3000)) for _ in range(num_networks)]
    agreements, plans = (sum(column) for column in zip(*done, strict=True))
    text = f"{agreements:,} agreements on {num_networks:,} networks of up to 10 layers, {plans:,} plans enumerated"
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
