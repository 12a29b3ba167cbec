"""Searches that are told to stop at any of their questions: the best so far, and no claim about what was left out."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from cost_model.attention.search import attention_search
from tests.fused_cases import conv_chain
from tests.group_legality import broken_rule
from tvm_spm.arch import load_arch
from tvm_spm.attention import Attention, refuse_attention
from tvm_spm.exact import exact_search
from tvm_spm.fusion.search import group_search
from tvm_spm.space import legality
from tvm_spm.space.case import Case
from tvm_spm.workload import Workload

LAYER = Workload.conv2d(K=8, C=8, OY=6, OX=6, FY=3, FX=3, padding=1)


def after(number: int) -> Callable[[], bool]:
    """True from the question of this number on, as a deadline is."""
    asked = itertools.count()
    return lambda: next(asked) >= number


@pytest.mark.parametrize("perfect", [True, False])
@pytest.mark.parametrize("arch_name", ["edge-256", "quad-edge"])
def test_exact_search(arch_name: str, perfect: bool):
    arch = load_arch(arch_name)
    full = exact_search(Case(workload=LAYER, arch=arch), perfect=perfect)
    for number in (0, 1, 2, 4, 8, 16, 32):
        found = exact_search(Case(workload=LAYER, arch=arch), perfect=perfect, should_stop=after(number))
        assert legality.check(LAYER, arch, found.mapping) is None
        assert found.lower_bound <= full.value * (1 + 1e-9)
        assert found.value >= full.value * (1 - 1e-9)
        assert not found.certified or found.value <= full.value * (1 + 1e-9)


def test_steps_of_an_exact_search_are_counted_and_not_timed():
    """However often a clock is asked, a budget of steps ends at the same mapping."""
    arch = load_arch("quad-edge")
    for steps in (0, 1, 5):
        once = exact_search(Case(workload=LAYER, arch=arch), most_steps=steps)
        assert (
            exact_search(Case(workload=LAYER, arch=arch), most_steps=steps, should_stop=lambda: False).mapping
            == once.mapping
        )


def test_group_search():
    group, arch = conv_chain(16, 16, 16, size=28), load_arch("quad-edge")
    full = group_search(group, arch)
    assert full.is_complete
    num_some = 0
    for number in (0, 1, 3, 8, 20):
        found = group_search(group, arch, should_stop=after(number))
        assert not found.is_complete
        assert found.refusal is None
        assert found.num_timed < full.num_timed
        num_some += bool(found.options)
        for mapping, _ in found.options:
            assert broken_rule(group, arch, mapping) is None
    assert num_some


def test_attention_search():
    work, arch = Attention.of(heads=4, queries=64, keys=96, depth=16), load_arch("quad-edge")
    full = attention_search(work, arch)
    assert full.is_complete
    for number in (0, 1, 5, full.num_legal):
        found = attention_search(work, arch, should_stop=after(number))
        assert not found.is_complete
        assert refuse_attention(work, arch, found.mapping) is None
        assert found.cost.edp_pj_cycles >= full.cost.edp_pj_cycles
    assert attention_search(work, arch, should_stop=after(0)).num_evaluated == 1
