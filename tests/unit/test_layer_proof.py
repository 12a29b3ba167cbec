"""What ``tune`` says of a layer: the proved optimum where a proof closes, else how far the answer may be from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cost_model.analytical.model import evaluate_batch
from cost_model.simulator import SimulatorModel
from tvm_spm.arch import load_arch
from tvm_spm.exact import exact_search
from tvm_spm.objective import Objective
from tvm_spm.result import SearchResult
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.tuning.guided import Guide
from tvm_spm.tuning.log_lines import RunStart
from tvm_spm.tuning.measurer import Measurement, Measurer, MeasureRequest, SimulatorMeasurer, identity_of
from tvm_spm.tuning.options import TunerOptions
from tvm_spm.tuning.parts import LeastValue
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.run_log import RunLog, own
from tvm_spm.tuning.task import tune_workload
from tvm_spm.tuning.task_memory import key_of
from tvm_spm.workload import Epilogue, Workload

ODD = Workload.conv2d(K=23, C=17, OY=13, OX=19, FY=3, FX=3)


def depthwise(channels: int, size: int, stride: int) -> Workload:
    return Workload.conv2d(
        K=channels, C=channels, groups=channels, OY=size, OX=size, FY=3, FX=3, stride=stride, padding=1,
        IY=stride * size, IX=stride * size,
    )  # fmt: skip


def clipped(layer: Workload) -> Workload:
    """With more operations per output than a DMA transfer leaves time for."""
    return replace(layer, epilogue=Epilogue(num_ops_per_elem=3))


@dataclass(frozen=True)
class Board:
    """Takes twice as long as the simulator says."""

    name: str = "board"

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        return [Measurement(cycles=2 * found.cycles) for found in SimulatorMeasurer().measure(requests)]


def tune(case: Case, *, trials: int = 64, measurer: Measurer | None = None, **options: int) -> SearchResult:
    return tune_workload(case, TunerOptions(trials=trials, **options), Run(measurer=measurer))


@pytest.mark.parametrize("arch_name", ["edge-256", "dmazerunner-256"])
def test_a_proof_is_the_answer_where_the_formula_is_the_simulator(arch_name: str):
    case = Case(workload=ODD, arch=load_arch(arch_name))
    found, optimum = tune(case), exact_search(case, perfect=False)
    assert found.certified
    assert found.gap == 0
    assert found.value == pytest.approx(optimum.value, rel=1e-9)
    assert found.cost.model == "simulator"
    # the default mapping and the optimum: nothing else needs a measurement
    assert found.num_evaluated == 2
    assert "any factors" in found.space


@pytest.mark.parametrize(
    ("layer", "most_steps"),
    [
        # stores wait for the vector unit
        (clipped(depthwise(144, size=28, stride=2)), 200),
        (clipped(Workload.conv2d(K=192, C=32, OY=28, OX=28, FY=1, FX=1)), 1000),
        # hardly anything to compute beside the loads, but behind the last one
        (Workload.matmul(m=1, n=1000, k=512), 1000),
        # hardly any SPM tile with two buffers for all
        (clipped(Workload.conv2d(K=96, C=16, OY=28, OX=28, FY=1, FX=1)), 1500),
    ],
    ids=["depthwise", "pointwise", "one_row", "large_outputs"],
)
def test_layers_that_the_dma_bounds_are_proved_in_few_steps(layer: Workload, most_steps: int):
    case = Case(workload=layer, arch=load_arch("edge-256"))
    assert exact_search(case, perfect=False, most_steps=most_steps).certified


def test_a_budget_that_strikes_leaves_a_gap_and_evolution():
    case = Case(workload=ODD, arch=load_arch("edge-256"))
    optimum = exact_search(case, perfect=False).value
    found = tune(case, trials=20, exact_steps=0)
    assert not found.certified
    assert found.lower_bound <= optimum * (1 + 1e-9) <= found.value * (1 + 2e-9)
    assert found.num_evaluated == 20
    assert found == tune(case, trials=20, exact_steps=0)


@pytest.mark.parametrize(("arch_name", "learns"), [("edge-256", False), ("quad-edge", True)])
def test_where_cores_share_a_channel_measurements_teach_what_to_measure_next(
    arch_name: str, learns: bool, monkeypatch: pytest.MonkeyPatch
):
    fitted: list[bool] = []
    taught = Guide.taught

    def noted(guide: Guide, *arguments: Any) -> Guide:
        found = taught(guide, *arguments)
        fitted.append(found.residual is not None)
        return found

    monkeypatch.setattr(Guide, "taught", noted)
    tune(Case(workload=depthwise(96, 14, 1), arch=load_arch(arch_name)), trials=34, exact_steps=0)
    assert not fitted[0], "one measurement is too little"
    assert fitted[-1] == learns, "with one core the formula leaves nothing to learn"


def test_one_trial_is_that_of_the_default_mapping():
    case = Case(workload=ODD, arch=load_arch("edge-256"))
    found = tune(case, trials=1)
    assert found.num_evaluated == 1
    assert found.mapping == MapSpace(workload=ODD, arch=case.arch).require_default()
    assert "physical bound" in found.space


def test_a_proof_says_nothing_of_another_measurer():
    case = Case(workload=ODD, arch=load_arch("edge-256"))
    found = tune(case, trials=20, measurer=Board())
    assert not found.certified
    assert found.num_evaluated == 20
    assert "any factors" not in found.space


def test_a_proof_is_kept_with_the_log(tmp_path: Path):
    case = Case(workload=ODD, arch=load_arch("edge-256"))
    start = RunStart(
        model="net", model_sha256="", objective="edp", seed=0, measurer=identity_of(None),
        tasks=(("layer", key_of(ODD), ODD),),
    )  # fmt: skip
    found = []
    for _ in range(2):
        with own(tmp_path):
            found.append(tune_workload(case, TunerOptions(), Run(log=RunLog(tmp_path, case.arch, start))))
    assert found[0].certified
    assert found[1] == found[0]


@pytest.mark.parametrize(("channels", "size", "stride"), [(16, 28, 1), (12, 14, 1)])
def test_layers_bound_by_a_shared_channel_are_no_worse_than_the_default_mapping(channels: int, size: int, stride: int):
    """The formula ranks them all alike, since the channel serves them one after the other; the waits decide."""
    layer, arch = depthwise(channels, size, stride), load_arch("quad-edge")
    case = Case(workload=layer, arch=arch)
    default = MapSpace(workload=layer, arch=arch).require_default()
    by_formula, found = exact_search(case, perfect=False), tune(case, exact_steps=150)
    simulator = SimulatorModel()
    assert found.value <= simulator.cost(layer, arch, default).edp_pj_cycles
    assert found.value <= simulator.cost(layer, arch, by_formula.mapping).edp_pj_cycles
    # the formula is no bound of what the simulator says, and is not taken for one
    assert found.lower_bound <= found.value
    assert found.certified or found.gap > 0
    assert "under the simulator" in found.space


def test_the_formula_alone_chooses_mappings_that_wait():
    """Why the simulator prices what the bounds leave: the formula's best of this layer loses a fifth."""
    layer, arch = depthwise(16, 28, 1), load_arch("quad-edge")
    case = Case(workload=layer, arch=arch)
    by_formula = exact_search(case, perfect=False).mapping
    found = exact_search(case, perfect=False, is_simulated=True)
    costs = [SimulatorModel().cost(layer, arch, mapping).edp_pj_cycles for mapping in (by_formula, found.mapping)]
    estimate = evaluate_batch(layer, arch, encode([by_formula]))
    assert found.certified
    assert costs[1] == found.value
    assert costs[1] < 0.85 * costs[0]
    assert float(estimate.cycles[0] * estimate.energy_pj[0]) <= costs[0]


def test_pages_leave_the_formula_as_a_bound():
    layer, arch = Workload.matmul(m=33, k=64, n=16), load_arch("edge-256-ddr4")
    found = tune(Case(workload=layer, arch=arch, objective=Objective.LATENCY), trials=8)
    assert found.lower_bound < found.value
    assert not found.certified
    assert found.num_evaluated == 8


def test_a_gap_is_rounded_up_and_only_a_proof_is_called_one():
    texts = [
        str(LeastValue(value=1.0, gap=gap, space="X")) for gap in (0.0, 1e-9, 0.031, 0.0311, 0.9999, 1.0, 1.4, 2.51)
    ]
    # Above 100 % as a factor: 140 % more is 2.4 times as much.
    assert texts == [
        "proved", "within 0.1 %", "within 3.1 %", "within 3.2 %", "within 100.0 %", "within 2.0x", "within 2.4x",
        "within 3.6x",
    ]  # fmt: skip
