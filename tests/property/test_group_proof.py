"""Bounds of group mappings are below every cost, prices in bulk are those of single mappings, and proofs are right."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_model.fused.flat import IS_MAC, K_LOOP, flatten
from cost_model.fused.many import Choices
from cost_model.fused.pricing import Pricer
from tests.fused_cases import GROUPS, random_group_mapping, upsampled
from tests.group_proof_cases import check, draw_arch, draw_group
from tvm_spm.arch import load_arch
from tvm_spm.fusion.bounds import Bounds
from tvm_spm.fusion.candidates import Candidate
from tvm_spm.fusion.group_space import GroupSpace
from tvm_spm.fusion.search import inner_mapper
from tvm_spm.fusion.timing import Timer
from tvm_spm.group import Group


def choices_of(candidates: list[tuple[Candidate, bool]]) -> Choices:
    return Choices(
        np.array([c.cores for c, _ in candidates], np.int64), np.array([c.tile for c, _ in candidates], np.int64),
        np.array([[int(axis in c.kept) for axis in range(len(c.tile))] for c, _ in candidates], np.int64),
        np.array([c.k_tile for c, _ in candidates], np.int64), np.array([int(d) for _, d in candidates], np.int64),
    )  # fmt: skip


@pytest.mark.parametrize("arch_name", ["quad-edge", "edge-256"])
@pytest.mark.parametrize("name", list(GROUPS))
def test_prices_in_bulk_are_those_of_single_mappings(name: str, arch_name: str):
    group, arch, rng = GROUPS[name](), load_arch(arch_name), random.Random(f"{name} {arch_name}")
    drawn = [random_group_mapping(rng, group, max_cores=arch.cores.count) for _ in range(12)]
    candidates = [(Candidate(m.cores, m.tile, m.kept, m.k_tile), m.double) for m in drawn]
    flat, mappers = flatten(group), tuple(inner_mapper(arch, objective) for objective in ("edp", "energy"))
    priced = Pricer(group, flat, arch, mappers).price(choices_of(candidates))
    for row, candidate in enumerate(candidates):
        for place, mapper in enumerate(mappers):
            timer = Timer(group, flat, arch, mapper)
            assert timer.time(*candidate) == ""
            cost = timer.front()[0][1]
            assert priced.cycles[row, place] == cost.cost.cycles
            assert priced.energy_pj[row, place] == pytest.approx(cost.cost.energy_pj, rel=1e-12)
            assert priced.spm_bytes[row] == cost.spm_bytes


def test_room_for_a_few_mappings_at_a_time_changes_nothing():
    group, arch, rng = GROUPS["chain"](), load_arch("quad-edge"), random.Random(0)
    drawn = [random_group_mapping(rng, group) for _ in range(40)]
    choices = choices_of([(Candidate(m.cores, m.tile, m.kept, m.k_tile), m.double) for m in drawn])
    flat, mappers = flatten(group), (inner_mapper(arch, "edp"),)
    want = Pricer(group, flat, arch, mappers).price(choices)
    for room in ((1, 1), (64, 4), (700, 9), (1000, 64)):
        got = Pricer(group, flat, arch, mappers, room).price(choices)
        for wanted, found in zip(want, got, strict=True):
            np.testing.assert_array_equal(wanted, found)


def check_bounds(group: Group, rng: random.Random, num: int) -> None:
    """Random members of the space, with the channels of ever more layers decided."""
    arch = draw_arch(rng)
    flat = flatten(group)
    space = GroupSpace(group, flat, [count for count in (1, 2, 4) if count <= arch.cores.count], rng.choice([0, 10**6]))
    mappers = tuple(inner_mapper(arch, objective) for objective in ("edp", "energy", "latency"))
    bounds = Bounds(group, flat, arch, space.cuts(), mappers)
    cuts = list(bounds.row_of)
    rows = np.array([rng.choice(space.rows(rng.choice(space.splits), bounds.row_of).tolist()) for _ in range(num)])
    whole = np.where(flat.layer[:, IS_MAC] == 1, flat.loops[:, K_LOOP], 1)
    k_tile = np.array([[rng.choice(options) for options in space.k_options] for _ in range(num)], np.int64)
    chosen = []
    for row, channels in zip(rows.tolist(), k_tile.tolist(), strict=True):
        one = [cuts[number] for number in row]
        kept = tuple(axis for axis, _, _, kept in one if kept)
        chosen.append(Candidate(tuple(c[1] for c in one), tuple(c[2] for c in one), kept, tuple(channels)))
    pricer = Pricer(group, flat, arch, mappers)
    single, double = (pricer.price(choices_of([(c, is_double) for c in chosen])) for is_double in (False, True))
    least = np.array([min(options) for options in space.k_options], np.int64)
    key = np.full((num, flat.num_layers), -1)
    for depth in range(flat.num_layers + 1):
        decided = np.arange(flat.num_layers) < depth
        if depth:
            key[:, depth - 1] = bounds.decide(depth - 1, rows, k_tile[:, depth - 1])
        held, chunks = np.where(decided, k_tile, least), np.where(decided, -(-whole // k_tile), 1)
        found = bounds.bound(rows, held.astype(np.int64), chunks.astype(np.int64), key)
        for row, candidate in enumerate(chosen):
            for place, priced in enumerate((single, double)):
                assert found.num_bytes[row, place] <= priced.spm_bytes[row], candidate
                can_run = priced.cycles[row] >= 0
                assert (found.cycles[row, place] <= priced.cycles[row])[can_run].all(), candidate
                assert (found.energy_pj[row] <= priced.energy_pj[row])[can_run].all(), candidate


@pytest.mark.parametrize("name", list(GROUPS))
def test_nothing_costs_less_than_its_bound(name: str):
    check_bounds(GROUPS[name](), random.Random(name), 24)


@pytest.mark.parametrize(("channels", "size", "factor"), [(3, 5, 2), (2, 4, 2), (1, 3, 3)])
def test_nothing_costs_less_than_its_bound_where_pixels_are_shuffled(channels: int, size: int, factor: int):
    for seed in range(8):
        check_bounds(upsampled(channels, size, factor), random.Random(seed), 24)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_nothing_costs_less_than_its_bound_in_random_groups(seed: int):
    rng = random.Random(seed)
    check_bounds(draw_group(rng, most_size=9, most_channels=12), rng, 12)


@pytest.mark.parametrize("seed", range(8))
def test_proofs_agree_with_enumeration(seed: int):
    check(seed, most_size=4, most_channels=6)
