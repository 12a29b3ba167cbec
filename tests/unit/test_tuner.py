"""The public functions with values in place of names, and what of the compiled code each search needs."""

from __future__ import annotations

import pytest

import tvm_spm
from tvm_spm.objective import Objective
from tvm_spm.searchers.random import RandomSearcher
from tvm_spm.tuning.warm_up import Part, parts_of_search, parts_of_tune

LAYER = tvm_spm.Workload.conv2d(K=8, C=6, OY=5, OX=7, FY=3, FX=3)


@pytest.mark.parametrize("model", ["analytical", "simulator"])
def test_a_searcher_is_a_value_or_its_name(model: str):
    named, given = (
        tvm_spm.search(LAYER, "edge-256", model=model, searcher=searcher, trials=30, seed=3)
        for searcher in ("random", RandomSearcher)
    )
    assert named == given
    assert named.num_evaluated == 30


def test_an_objective_is_a_value_or_its_name():
    for objective in Objective:
        named = tvm_spm.search(LAYER, "edge-256", objective=objective.value)
        assert tvm_spm.search(LAYER, "edge-256", objective=objective) == named
        assert named.value == named.cost.objective(objective.value)


def test_every_search_says_how_it_compares_with_the_default_mapping():
    for searcher in ("exact", "random"):
        found = tvm_spm.search(LAYER, "edge-256", searcher=searcher, trials=30)
        assert found.default_cost is not None
        assert found.gain == found.default_cost.edp_pj_cycles / found.cost.edp_pj_cycles


def test_each_run_needs_its_parts_and_no_others():
    proof = parts_of_search(measures=False, is_exact=True, perfect=True)
    assert set(proof) == {Part.EXACT, Part.DEFAULT}
    assert set(parts_of_search(measures=False, is_exact=True, perfect=False)) == {*proof, Part.ANY_FACTORS}
    assert set(parts_of_search(measures=False, is_exact=False, perfect=True)) == {Part.SCREEN}
    assert set(parts_of_search(measures=True, is_exact=False, perfect=True)) == {Part.SCREEN, Part.SIMULATOR}
    layers = {Part.EXACT, Part.SCREEN, Part.SIMULATOR}
    assert set(parts_of_tune(measures=True, fuses=False)) == layers
    assert set(parts_of_tune(measures=True, fuses=True)) == {*layers, Part.GROUPS}
    assert set(parts_of_tune(measures=False, fuses=False)) == layers - {Part.SIMULATOR}
