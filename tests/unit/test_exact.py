"""Exact search on cases small enough to price by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.mapspace_cases import satisfies, small_arch
from tvm_spm.arch import load_arch
from tvm_spm.errors import NoMappingError, WorkloadError
from tvm_spm.exact import exact_search
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Dims, Projection, Workload

EDGE = load_arch("edge-256")
ONE_MAC = Workload.matmul(m=1, k=1, n=1)
LAYER = Workload.conv2d(K=8, C=4, OY=6, OX=6, FY=3, FX=3, padding=1)


def test_one_mac():
    # load I and W: 2 bytes at 26.67 B/cycle, 1 cycle each; fill: I, then W, 1 each; MAC, drain: 1 each; store: 1
    # MAC 0.075 + 4 RF accesses at 0.96; NoC 3 words at 2; SPM 6 accesses at 13.5; DRAM 3 words at 200
    result = exact_search(Case(workload=ONE_MAC, arch=EDGE))
    assert result.certified
    assert result.cost.cycles == 7
    assert result.cost.energy_pj == pytest.approx(0.075 + 4 * 0.96 + 3 * 2 + 6 * 13.5 + 3 * 200)


def test_four_macs_side_by_side():
    # a row of outputs on a row of PEs: I crosses once for all of them
    result = exact_search(
        Case(workload=Workload.matmul(m=1, k=1, n=4), arch=small_arch(rows=1, cols=4), objective=Objective.LATENCY)
    )
    assert result.mapping.cols == Dims(K=4)
    # loads: 2 B and 8 B, 1 cycle each; fill: I, then W, 1 each; MACs, drain and the store of 8 B: 1 each
    assert result.value == 7


def test_energy_does_not_care_for_time():
    fast, frugal = (
        exact_search(Case(workload=LAYER, arch=small_arch(spm=2048, rf=64), objective=o))
        for o in (Objective.LATENCY, Objective.ENERGY)
    )
    assert frugal.cost.energy_pj <= fast.cost.energy_pj
    assert fast.cost.cycles <= frugal.cost.cycles


def test_energy_cap():
    arch = small_arch(spm=2048, rf=64)
    least = exact_search(Case(workload=LAYER, arch=arch, objective=Objective.ENERGY)).value
    capped = exact_search(Case(workload=LAYER, arch=arch, objective=Objective.LATENCY), energy_cap_pj=1.02 * least)
    assert capped.cost.energy_pj <= 1.02 * least
    with pytest.raises(NoMappingError, match="needs at most"):
        exact_search(Case(workload=LAYER, arch=arch, objective=Objective.LATENCY), energy_cap_pj=0.99 * least)


def test_same_result_each_time():
    arch = small_arch(spm=2048, rf=64, cores=2)
    assert (
        exact_search(Case(workload=LAYER, arch=arch)).mapping == exact_search(Case(workload=LAYER, arch=arch)).mapping
    )


def test_any_factors_are_no_worse_and_certified():
    layer = Workload.conv2d(K=7, C=5, OY=5, OX=5, FY=3, FX=3)
    arch = small_arch(spm=1024, rf=64)
    perfect, any_factors = (
        exact_search(Case(workload=layer, arch=arch)),
        exact_search(Case(workload=layer, arch=arch), perfect=False),
    )
    assert any_factors.value < perfect.value
    assert any_factors.certified
    assert any_factors.gap == 0
    assert any_factors.lower_bound == any_factors.value
    assert MapSpace(workload=layer, arch=arch).contains(any_factors.mapping)
    assert "any factors" in any_factors.space


def test_stops_when_told():
    asked = []
    result = exact_search(
        Case(workload=LAYER, arch=small_arch(spm=2048, rf=64)), should_stop=lambda: bool(asked.append(1)) or True
    )
    assert result.lower_bound <= result.value
    assert len(asked) <= 1


def test_text_names_the_space():
    shown = str(exact_search(Case(workload=ONE_MAC, arch=EDGE)))
    assert "certified optimum of all legal mappings with perfect factors" in shown


def test_nothing_fits():
    # two bytes per operand and one bank of 16 bytes each: 48 bytes
    assert exact_search(Case(workload=ONE_MAC, arch=small_arch(spm=48))).certified
    with pytest.raises(NoMappingError, match="no mapping with perfect factors was found that fits"):
        exact_search(Case(workload=ONE_MAC, arch=small_arch(spm=47)))


def test_dim_that_two_operands_do_not_depend_on():
    odd = replace(ONE_MAC, dims=Dims(N=2), I=Projection(axes=ONE_MAC.I.axes, dtype="int16"))
    with pytest.raises(WorkloadError, match="dim N"):
        exact_search(Case(workload=odd, arch=EDGE))


def test_constraints_that_conflict_are_named():
    constraints = Constraints.parse("rows=OY RF.C=3")
    with pytest.raises(NoMappingError, match="RF.C=3 cannot hold"):
        exact_search(Case(workload=LAYER, arch=EDGE, constraints=constraints))


def test_constraints_are_kept_and_named():
    constraints = Constraints.parse("strict:K|C SPM.double=IW DRAM.order=OY>K")
    result = exact_search(Case(workload=LAYER, arch=EDGE, constraints=constraints))
    assert result.certified
    assert satisfies(constraints, result.mapping, LAYER)
    assert f"with {constraints}" in str(result)
    assert result.value >= exact_search(Case(workload=LAYER, arch=EDGE)).value
