"""What results are compared with: the best of four dataflows by enumeration, and random search."""

from __future__ import annotations

import itertools
import math
import time

import pytest

from cost_model.simulator import simulate_batch
from tests.mapspace_cases import small_arch
from tvm_spm.arch import Arch, load_arch
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.tuning.baselines import Compared, baselines_of, compare_beside
from tvm_spm.workload import Workload

UNROLLED = {"OS": ("OY", "OX"), "WS": ("FY", "FX"), "RS": ("OY", "FY"), "MC": ("K", "C")}

SMALL = (
    (small_arch(rows=2, cols=2), Workload.matmul(m=2, k=1, n=2)),
    (small_arch(rows=2, cols=1), Workload.conv2d(K=1, C=1, OY=2, OX=1, FY=2, FX=1)),
)
LAYER = Workload.conv2d(K=8, C=8, OY=6, OX=6, FY=3, FX=3, padding=1)


def best_of_all(workload: Workload, arch: Arch, clause: str = "") -> dict[Objective, float]:
    """The least objectives of all mappings of a space, simulated one by one."""
    space = MapSpace(workload=workload, arch=arch, constraints=Constraints.parse(clause))
    costs = simulate_batch(workload, arch, list(space.enumerate()))
    # With one column nothing has a row-stationary mapping.
    return {objective: min((cost.objective(objective) for cost in costs), default=math.inf) for objective in Objective}


@pytest.mark.parametrize("at", range(len(SMALL)))
def test_of_small_spaces_both_are_the_optimum(at: int):
    arch, workload = SMALL[at]
    by_flow = {name: best_of_all(workload, arch, f"strict:{rows}|{cols}") for name, (rows, cols) in UNROLLED.items()}
    optimum = best_of_all(workload, arch)
    for objective in Objective:
        case = Case(workload=workload, arch=arch, objective=objective)
        many = objective is Objective.EDP
        found = baselines_of(case, num_random=10_000 if many else 5, seed=0, should_stop=lambda: False)
        assert found is not None
        least = min(values[objective] for values in by_flow.values())
        assert found.dataflow_cost.objective(objective) == pytest.approx(least, rel=1e-12)
        assert by_flow[found.dataflow][objective] == pytest.approx(least, rel=1e-12)
        # So many draws find everything, in each of the five searches.
        assert not many or found.random_cost.objective(objective) == pytest.approx(optimum[objective], rel=1e-12)


def test_more_draws_are_no_worse_and_a_seed_decides():
    case = Case(workload=LAYER, arch=load_arch("quad-edge"))

    def value(num_random: int, seed: int) -> float:
        found = baselines_of(case, num_random=num_random, seed=seed, should_stop=lambda: False)
        assert found is not None
        assert found.num_random == num_random
        return found.random_cost.objective(case.objective)

    assert value(8, 1) == value(8, 1)
    assert value(8, 1) != value(8, 2)
    assert value(400, 1) < value(8, 1)


def test_a_layer_that_no_dataflow_can_run():
    # Two bytes of each operand at a time: nothing can be unrolled by two, and each of the four has to.
    arch = small_arch(spm=6, bank=1, rf=12)
    case = Case(workload=Workload.conv2d(K=2, C=2, OY=2, OX=2, FY=2, FX=2), arch=arch)
    found = baselines_of(case, num_random=20, seed=0, should_stop=lambda: False)
    assert found is not None
    assert (found.dataflow, found.dataflow_cost) == ("", found.random_cost)


def test_who_must_stop_claims_nothing():
    case = Case(workload=LAYER, arch=load_arch("edge-256"))
    for number in range(4):
        asked = itertools.count()
        assert baselines_of(case, num_random=8, seed=0, should_stop=lambda: next(asked) >= number) is None  # noqa: B023


def test_beside_other_work_all_is_found_or_said_to_be_missing():
    works = [(Workload.conv2d(K=8, C=8, OY=rows, OX=6, FY=1, FX=1), 8) for rows in (2, 3, 4)]
    arch = load_arch("edge-256")
    with compare_beside(works, arch, Objective.EDP, 0, lambda: False) as comparing:
        compared = comparing.result()
    assert (list(compared.found), compared.num_asked) == ([work for work, _ in works], 3)
    with compare_beside(works, arch, Objective.EDP, 0, lambda: True) as comparing:
        assert comparing.result() == Compared(found={}, num_asked=3)


def test_who_leaves_does_not_wait_for_the_rest():
    hard = [(Workload.matmul(m=720, k=720, n=1440 + 720 * number), 8) for number in range(40)]
    start = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        compare_beside(hard, load_arch("mlu100-32"), Objective.EDP, 0, lambda: False),
    ):
        raise KeyboardInterrupt
    assert time.monotonic() - start < 10
