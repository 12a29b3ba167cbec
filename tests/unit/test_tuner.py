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
    assert set(parts_of_search(measures=False, is_exact=False, perfect=False)) == {Part.SCREEN}
    assert set(parts_of_search(measures=True, is_exact=False, perfect=False)) == {Part.SCREEN, Part.SIMULATOR}
    assert Part.ANY_FACTORS not in parts_of_search(measures=True, is_exact=True, perfect=True)
    layers = {Part.EXACT, Part.ANY_FACTORS, Part.SCREEN, Part.SIMULATOR}
    assert set(parts_of_tune(measures=True, fuses=False)) == layers
    assert set(parts_of_tune(measures=True, fuses=True)) == {*layers, Part.GROUPS}
    assert set(parts_of_tune(measures=False, fuses=False)) == layers - {Part.SIMULATOR}


ODD = tvm_spm.Workload.conv2d(K=23, C=17, OY=7, OX=5, FY=3, FX=3)
"""Nothing divides it."""


def test_any_factors_are_searched_unless_asked_otherwise():
    found, perfect = tvm_spm.search(ODD, "edge-256"), tvm_spm.search(ODD, "edge-256", factors="perfect")
    assert tvm_spm.search(ODD, "edge-256", perfect=True) == perfect  # as scripts wrote it before
    assert tvm_spm.search(ODD, "edge-256", perfect=True, factors="perfect") == perfect
    assert found.certified
    assert perfect.certified
    assert "with any factors" in found.space
    assert "with perfect factors" in perfect.space
    assert found.value < 0.8 * perfect.value
    assert found.ended_by == perfect.ended_by == ""


def test_a_budget_ends_a_search_with_the_gap_that_is_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tvm_spm.tuner, "SEARCH_STEPS", 30)
    found = tvm_spm.search(ODD, "edge-256", objective="latency")
    assert not found.certified
    assert found.gap > 0
    assert found.ended_by == "a budget of 30 steps"
    assert "ended by a budget of 30 steps before its proof" in str(found)
    assert found == tvm_spm.search(ODD, "edge-256", objective="latency")
    assert tvm_spm.search(ODD, "edge-256", objective="latency", time_limit_s=0.0).ended_by == "a time limit of 0 s"
