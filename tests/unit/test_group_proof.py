"""The proof of a group's best mapping: what it finds, what ends it, and that it says so."""

from __future__ import annotations

import itertools
import math

import pytest

from cost_model.fused import group_cost
from tests.fused_cases import Builder, conv_chain, upsampled
from tests.group_legality import broken_rule
from tvm_spm.arch import load_arch
from tvm_spm.fusion.group_space import even_sizes, splits
from tvm_spm.fusion.proof import prove_group
from tvm_spm.fusion.prover import GroupProver
from tvm_spm.fusion.search import group_search
from tvm_spm.objective import Objective

CHAIN = conv_chain(16, 16, 16, size=28)


def test_two_layers_have_a_certified_best_mapping():
    # 16-16-16 @28x28, 16 bits: rows kept on a 2x2 split have 1.711e11, which climbing on one split does not reach.
    arch = load_arch("quad-edge")
    proof = prove_group(CHAIN, arch)
    assert proof.certified
    assert proof.gap == 0
    assert proof.limits == ()
    assert proof.mapping is not None
    assert broken_rule(CHAIN, arch, proof.mapping) is None
    assert proof.value == proof.lower_bound == group_cost(CHAIN, arch, proof.mapping).cost.edp_pj_cycles
    assert proof.value <= 1.712e11
    # Bounds know what stages take on the array: they leave out nearly all of the space without pricing it.
    assert proof.num_priced < 500 < proof.num_bounded / 10
    found = group_search(CHAIN, arch).best("edp")
    assert found is not None
    assert proof.value < found[1].cost.edp_pj_cycles


def test_overlap_along_columns_alone_can_be_best():
    proof = prove_group(CHAIN, load_arch("quad-edge"), objective="latency", most_cuts=0)
    assert proof.certified
    assert proof.mapping is not None
    assert proof.mapping.kept == (3,)


def test_a_budget_that_ends_is_in_the_result():
    some = prove_group(CHAIN, load_arch("quad-edge"), most_steps=0, most_cuts=0)
    assert some.limits == ("0 steps were made",)
    assert not some.certified
    assert 0 < some.lower_bound < some.value
    assert some.gap == pytest.approx(1 - some.lower_bound / some.value)
    assert f"within {100 * some.gap:.3g} % of the best; 0 steps were made" in str(some)
    full = prove_group(CHAIN, load_arch("quad-edge"), most_cuts=0)
    assert some.lower_bound <= full.value <= some.value
    assert prove_group(CHAIN, load_arch("quad-edge"), most_steps=0, most_cuts=0).mapping == some.mapping


def test_a_stop_leaves_a_valid_bound():
    full = prove_group(CHAIN, load_arch("edge-256"), most_cuts=0)
    for number in (0, 1, 3):
        asked = itertools.count()
        some = prove_group(
            CHAIN, load_arch("edge-256"), most_cuts=0, should_stop=lambda asked=asked, n=number: next(asked) >= n
        )
        assert some.lower_bound <= full.value * (1 + 1e-9)
        assert some.certified or some.limits == ("stopped",)


def test_pixels_that_are_shuffled_have_bounds_by_axis():
    # Rows and columns choose among channels, but tiles of two rows and two columns hold every residue.
    group = upsampled(c=4, size=8)
    proof = prove_group(group, load_arch("edge-256"), most_steps=3_000)
    assert proof.certified


def test_a_ceiling_ends_a_search_for_what_is_not_wanted():
    arch = load_arch("quad-edge")
    prover = GroupProver(CHAIN, arch, Objective.EDP.value_of, most_cuts=0)
    prover.aim_at(Objective.EDP.value_of, ceiling=1e11)
    assert prover.improve(1_000) == ()
    # nothing was priced, as everything costs more than 1e11 by its bound
    assert (prover.best, prover.num_priced) == (None, 0)
    assert prover.lower_bound == prover.limit == 1e11
    prover.aim_at(Objective.EDP.value_of, ceiling=1e12)
    prover.start()
    prover.improve(100_000)
    assert prover.lower_bound == prover.value == prove_group(CHAIN, arch, most_cuts=0).lower_bound


def test_where_nothing_fits():
    proof = prove_group(conv_chain(4096, 4096, 4096, size=16), load_arch("edge-256"))
    assert proof.mapping is None
    assert math.isinf(proof.lower_bound)
    assert "nothing fits" in str(proof)


def test_sizes_that_do_not_divide_evenly_are_looked_at_last():
    # 56 columns of 1x1 and 3x3: 15 rows of 20 columns are better than every even cut.
    b = Builder(dtype="int8")
    at = b.conv("wide", b.tensor("x", (1, 16, 56, 56)), 64, taps=1)
    b.conv("narrow", at, 8)
    arch = load_arch("edge-256")
    even = GroupProver(b.group(), arch, Objective.ENERGY.value_of, most_cuts=0)
    even.start()
    assert even.improve(1000) == ()
    proof = prove_group(b.group(), arch, objective="energy", most_cuts=0)
    assert proof.certified
    assert proof.value < even.lower_bound * (1 - 1e-3)
    assert proof.mapping is not None
    assert any(56 % size for size in proof.mapping.tile[2:])
    assert broken_rule(b.group(), arch, proof.mapping) is None


def test_the_space_is_stated():
    even, every = (
        prove_group(CHAIN, load_arch("quad-edge"), most_steps=0, most_cuts=most).space for most in (0, 10**6)
    )
    assert even.startswith("1 2 4 cores over any axes, none idle; tiles that cut each of the axes 0 2 3 of")
    assert "evenly into any number; overlap kept along any of the axes 2 3 that are cut" in even
    assert "into any size; overlap" in every


def test_tiles_of_any_size_are_better_than_even_ones():
    # As above, but the whole space of such tiles is searched.
    chain = conv_chain(8, 8, 8, size=9)
    values = [prove_group(chain, load_arch("edge-256"), most_cuts=most) for most in (0, 10**6)]
    assert all(proof.certified for proof in values)
    assert values[1].value <= values[0].value


def test_sizes_and_splits():
    # 7 in 1, 2, 3, 4 pieces: 7, 4, 3, 2; 5 and 6 pieces of 2 are 4; 7 pieces of 1.
    assert even_sizes(7) == (7, 4, 3, 2, 1)
    # 5 rows over 4 cores are 2 2 1: one is idle.
    assert splits((5, 4), 4) == [(1, 4), (2, 2)]
