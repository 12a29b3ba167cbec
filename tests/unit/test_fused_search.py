"""The search of group mappings: legal, reproducible, and no worse than its neighbours after refinement."""

from __future__ import annotations

import pytest

from cost_model.fused import group_cost
from cost_model.fused.inner_mapper import InnerMapper
from tests.fused_cases import attention, conv_chain, inverted_bottleneck
from tests.group_legality import broken_rule
from tvm_spm.arch import load_arch
from tvm_spm.fusion.candidates import core_splits
from tvm_spm.fusion.search import core_counts, group_search
from tvm_spm.group import GroupMapping

CASES = {
    "chain": lambda: conv_chain(16, 16, 16, size=28),
    "inverted bottleneck": lambda: inverted_bottleneck(8, 6, 14),
    "attention": lambda: attention(4, 32, 16),
    "one layer": lambda: conv_chain(16, 32, size=28),
}


@pytest.mark.parametrize("arch_name", ["edge-256", "quad-edge"])
@pytest.mark.parametrize("name", list(CASES))
def test_options_are_legal_priced_exactly_and_beat_each_other(name: str, arch_name: str):
    group, arch = CASES[name](), load_arch(arch_name)
    result = group_search(group, arch)
    assert result.options
    assert result.refusal is None
    assert result.options == group_search(group, arch).options
    for mapping, cost in result.options:
        assert broken_rule(group, arch, mapping) is None
        again = group_cost(group, arch, mapping)
        assert again.cost.cycles == cost.cost.cycles
        assert again.spm_bytes == cost.spm_bytes <= 131072
        assert again.cost.energy_pj == pytest.approx(cost.cost.energy_pj)
        assert GroupMapping.parse(str(mapping)) == mapping
    cycles = [cost.cost.cycles for _, cost in result.options]
    energies = [cost.cost.energy_pj for _, cost in result.options]
    assert cycles == sorted(set(cycles))
    assert energies == sorted(set(energies), reverse=True)


def test_only_the_cores_asked_for_are_used():
    result = group_search(conv_chain(8, 8, 8, size=16), load_arch("quad-edge"), cores=[2])
    assert {mapping.num_cores for mapping, _ in result.options} == {2}
    assert core_counts(load_arch("mlu100-32")) == (1, 2, 4, 8, 16, 32)


def test_splits_leave_no_core_idle():
    assert core_splits((1, 1, 5, 5), 4) == [(1, 1, 2, 2)]
    assert set(core_splits((1, 4, 7, 1), 4)) == {(1, 4, 1, 1), (1, 2, 2, 1), (1, 1, 4, 1)}


def test_a_stage_runs_as_its_objective_asks():
    # 64 channels of 14 x 14 from 64, 3x3, as one stage: transfers are the same, only the array differs.
    group, arch = conv_chain(64, 64, size=14), load_arch("edge-256")
    workload, costs = group.graph.layers[0].workload, {}
    for objective in ("latency", "energy"):
        mapper, shape = InnerMapper(arch, objective), workload.dims.as_tuple()
        inner = mapper.mapping(mapper.number(workload), shape, shape)
        whole = GroupMapping(cores=(1, 1, 1, 1), tile=group.sink_shape, k_tile=(64,), inner=(inner,))
        costs[objective] = group_cost(group, arch, whole).cost
    assert costs["latency"].cycles < costs["energy"].cycles
    assert costs["energy"].energy_pj < costs["latency"].energy_pj


def test_why_nothing_fits():
    none = group_search(conv_chain(4096, 4096, 4096, size=16), load_arch("edge-256"))
    assert none.options == ()
    assert "spm-capacity" in str(none.refusal)
    assert "has 131,072 B" in str(none.refusal)
    split = group_search(conv_chain(4, 4, 4), load_arch("vta-1x16x16"))
    assert "split scratchpad" in str(split.refusal)
