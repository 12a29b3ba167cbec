"""While tuning, a simulator that disagrees with the analytical model stops the run, where both must be equal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from cost_model.analytical.model import evaluate_batch
from cost_model.simulator import simulate_batch
from tvm_spm.arch import Arch, load_arch
from tvm_spm.cost import Cost
from tvm_spm.errors import NoMappingError, SpmError
from tvm_spm.mapping import Mapping
from tvm_spm.space.case import Case
from tvm_spm.space.legality_batch import check_batch
from tvm_spm.space.mapping_batch import decode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.tuning import measurer as measurers
from tvm_spm.tuning.agreement import DisagreementError, check_agreement
from tvm_spm.tuning.measurer import Measurement, Measurer, MeasureRequest
from tvm_spm.tuning.options import EXACT, Proposer, TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.task import tune_workload
from tvm_spm.workload import Workload

LAYER = Workload.matmul(m=8, k=8, n=8)
OPTIONS = TunerOptions(trials=6, batch=2, population=32, generations=1)


def tune(arch: Arch, *, measurer: Measurer | None = None, proposer: Proposer = EXACT) -> int:
    case, run = Case(workload=LAYER, arch=arch), Run(measurer=measurer)
    return tune_workload(case, OPTIONS, run, proposer=proposer).num_evaluated


def wrong_in(monkeypatch: pytest.MonkeyPatch, number: int, **factors: float) -> None:
    """From the given trial on, the simulator's numbers are multiplied."""
    done = 0

    def simulate(workload: Workload, arch: Arch, mappings: Sequence[Mapping], **options: object) -> list[Cost]:
        nonlocal done
        costs = []
        for cost in simulate_batch(workload, arch, mappings):
            done += 1
            if done >= number and "cycles" in factors:
                cost = replace(cost, cycles=int(cost.cycles * factors["cycles"]))
            if done >= number and "energy" in factors:
                cost = replace(cost, energy=replace(cost.energy, mac_pj=cost.energy.mac_pj * factors["energy"]))
            costs.append(cost)
        return costs

    monkeypatch.setattr(measurers, "simulate_batch", simulate)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_wrong_cycles_stop_the_run_with_both_numbers(monkeypatch: pytest.MonkeyPatch, number: int):
    wrong_in(monkeypatch, number, cycles=2)
    with pytest.raises(DisagreementError) as caught:
        # a proof ends the task after two trials
        tune(load_arch("edge-256"), proposer=Proposer.of("evolutionary") if number > 2 else EXACT)
    found = re.search(r"([\d,]+) cycles by the simulator, ([\d,]+) by the analytical model", str(caught.value))
    assert found is not None
    ours, theirs = (int(text.replace(",", "")) for text in found.groups())
    assert ours == 2 * theirs
    assert isinstance(caught.value, SpmError)
    assert not isinstance(caught.value, NoMappingError)  # exit code 2 of the command line, not 1


@pytest.mark.parametrize("arch", ["edge-256", "quad-edge"])
def test_wrong_energy_stops_the_run_also_with_shared_channels(monkeypatch: pytest.MonkeyPatch, arch: str):
    wrong_in(monkeypatch, 1, energy=1.001)
    with pytest.raises(DisagreementError, match=r"[\d.]+ pJ by the simulator, [\d.]+ pJ by the analytical model"):
        tune(load_arch(arch))


def test_only_cores_that_share_a_channel_may_differ(monkeypatch: pytest.MonkeyPatch):
    """On ``quad-edge``, 4 cores with 1 channel: mappings on several cores differ by nature, those on one may not."""
    layer, arch = Workload.conv2d(K=64, C=64, OY=28, OX=28, FY=3, FX=3, padding=1), load_arch("quad-edge")
    batch = MapSpace(workload=layer, arch=arch).sample(np.random.default_rng(1), 40)
    batch = batch.take(np.flatnonzero(check_batch(layer, arch, batch) == 0))
    mappings = [decode(batch, row) for row in range(batch.num_mappings)]
    costs, estimated = simulate_batch(layer, arch, mappings), evaluate_batch(layer, arch, batch)
    differing = [cost.cycles != cycles for cost, cycles in zip(costs, estimated.cycles.tolist(), strict=True)]
    assert any(differing)
    assert not any(
        differs and mapping.cores.product() == 1 for differs, mapping in zip(differing, mappings, strict=True)
    )
    check_agreement(layer, arch, mappings, costs, estimated)
    wrong_in(monkeypatch, 1, cycles=2)
    with pytest.raises(DisagreementError, match="cores: 1, DRAM channels: 1"):
        tune(arch)


def test_waits_for_rows_only_add_cycles(monkeypatch: pytest.MonkeyPatch):
    arch = load_arch("edge-256-lpddr4")
    assert tune(arch) == OPTIONS.trials
    wrong_in(monkeypatch, 1, cycles=0.5)
    with pytest.raises(DisagreementError, match="They must be equal, but for cycles that wait for rows of DRAM"):
        tune(arch)


@dataclass
class Board:
    """A user's measurer: its numbers are its own."""

    name: str = "board"

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        return [Measurement(cycles=7, energy_pj=1.0) for _ in requests]


def test_a_measurer_of_the_user_is_not_compared():
    assert tune(load_arch("edge-256"), measurer=Board()) == OPTIONS.trials
