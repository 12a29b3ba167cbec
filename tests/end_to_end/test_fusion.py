"""Networks whose layers run as one: planned, scheduled, verified and reported."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import tvm
from tvm import relax, tirx
from tvm.relax import op
from typer.testing import CliRunner

import tvm_spm
from schedules.group.code import FusedFunction
from tests.fusion_networks import CHAIN, NETWORKS, attention, built, chain, conv
from tvm_spm import cli
from tvm_spm.arch import Arch, load_arch
from tvm_spm.deploy import groups as fused_network
from tvm_spm.deploy.grouping import GroupedModule
from tvm_spm.errors import ModelError, ScheduleError
from tvm_spm.fusion.hopes import GroupHope
from tvm_spm.group import Group, GroupMapping
from tvm_spm.objective import Objective
from tvm_spm.tuning.baselines import SEEDS
from tvm_spm.tuning.parts import GroupResult, SideResult
from tvm_spm.tuning.saved_run import SavedGroup, load_plan
from tvm_spm.tuning.text import print_result

TRIALS = 2

LEFT_ALONE = {("quantised", "quad-edge")}
"""The best group of its two layers is proved to have an EDP of 7.65e8; alone they have 7.59e8."""


@cache
def tuned(name: str, arch: str) -> tvm_spm.TuningResult:
    objective = list(Objective)[list(NETWORKS).index(name) % len(Objective)]
    return tvm_spm.tune(NETWORKS[name], f"spm/{arch}", objective=objective, trials=TRIALS)


@pytest.mark.parametrize("arch", ["quad-edge", "edge-256"])
@pytest.mark.parametrize("name", NETWORKS)
def test_fused_network_is_verified_and_no_worse(name: str, arch: str):
    result = tuned(name, arch)
    assert result.verified is True
    assert bool(as_one(result)) == ((name, arch) not in LEFT_ALONE)
    assert result.cost.objective(result.objective) <= result.unfused_cost.objective(result.objective)
    saved = result.plan_groups()
    # Every layer is in one group of the plan, and the groups cost what the network costs.
    assert sum(len(group.layers) for group in saved) == sum(task.task.count for task in result.tasks)
    assert total_cycles(saved) == result.cost.cycles
    assert sum(group.energy_pj for group in saved) == pytest.approx(result.cost.energy_pj, rel=1e-9)
    alone = [group for group in saved if group.together is None]
    assert sum(len(group.layers) > 1 for group in alone) == sum(group.count for group in result.groups)


def as_one(result: tvm_spm.TuningResult) -> list[GroupResult | SideResult]:
    """Groups that run alone, and those beside others."""
    beside = [side for step in result.together for side in step.sides if len(side.names) > 1]
    return [*result.groups, *beside]


def total_cycles(saved: list[SavedGroup]) -> int:
    """Of those that run at the same time, the last to finish counts."""
    ends: dict[int, int] = {}
    for group in saved:
        if group.together is not None:
            ends[group.together] = max(ends.get(group.together, 0), group.cycles)
    return sum(group.cycles for group in saved if group.together is None) + sum(ends.values())


def test_branches_and_their_join_are_one_group():
    names = as_one(tuned("inception", "quad-edge"))[0].names
    # Four convolutions, a pool and the join, in an order in which they can run.
    assert len(names) == 6
    assert names[-1] == "concatenate"


def test_a_result_in_the_middle_leaves_a_group_that_goes_on():
    result = tuned("inner output", "edge-256")
    assert [len(group.layers) for group in result.plan_groups()] == [4]
    assert result.plan is not None
    assert result.plan.groups[0].group.leaving == (1, 3)
    assert result.groups[0].verified is True
    # Both results of the network leave, nothing else: 8 and 4 channels of 12x12, 4 bytes each.
    assert result.groups[0].cost.dram_bytes[2] == 4 * 12 * 12 * (8 + 4)


def with_spm(arch: str, capacity_bytes: int) -> Arch:
    found = load_arch(arch)
    spm = replace(found.levels.SPM, capacity_bytes=capacity_bytes, bank_bytes=256)
    return replace(found, levels=replace(found.levels, SPM=spm))


def test_attention_keeps_rows_of_scores_only_where_they_fit():
    mod = built([(1, 128, 16), (16, 16), (16, 16), (16, 16)], attention)
    results = {size: tvm_spm.tune(mod, with_spm("quad-edge", size), trials=TRIALS) for size in (1 << 16, 12 << 10)}
    for result in results.values():
        assert result.verified is True
        assert any("softmax" in each.names for each in as_one(result))
    assert isinstance(as_one(results[1 << 16])[-1].mapping, GroupMapping)
    small = results[12 << 10].groups[-1]
    # A row of 128 scores for each of 32 queries takes 16 KiB.
    assert small.overlap == "online softmax"
    assert small.spm_bytes <= 12 << 10
    assert f"{small.mapping.key_tile} keys" in small.tile
    assert small.mapping.num_cores == 4


def test_work_directory_keeps_the_plan(tmp_path: Path):
    first, second = (
        tvm_spm.tune(
            NETWORKS["residual"], "spm/edge-256", objective="latency", trials=TRIALS, workdir=tmp_path / "work"
        )
        for _ in range(2)
    )
    assert first.plan_groups() == second.plan_groups()
    assert first.as_dict()["groups"] == second.as_dict()["groups"]
    assert list(load_plan(tmp_path / "work")) == first.plan_groups()
    saved = json.loads((tmp_path / "work" / "plan.json").read_text())
    assert GroupMapping.parse(saved[0]["mapping"]) == first.groups[0].mapping
    shown = CliRunner().invoke(cli.app, ["show", str(tmp_path / "work")]).stdout
    assert f"layers that run as one:\n  {' > '.join(first.groups[0].names)}: 1 core" in shown
    first.draw(tmp_path / "plan.svg")
    assert "<svg" in (tmp_path / "plan.svg").read_text()


def test_without_fusion_no_plan_stays_in_the_work_directory(tmp_path: Path):
    mod = built([(1, 3, 6, 6), (4, 3, 1, 1)], chain)
    with_plan = tvm_spm.tune(mod, "spm/edge-256", trials=TRIALS, workdir=tmp_path)
    # One layer is a plan, but no group.
    assert with_plan.groups == ()
    assert [len(group.layers) for group in load_plan(tmp_path)] == [1]
    without = tvm_spm.tune(mod, "spm/edge-256", trials=TRIALS, workdir=tmp_path, fusion=False)
    assert without.cost == with_plan.cost
    assert load_plan(tmp_path) == ()


def test_split_scratchpad_runs_layer_by_layer():
    result = tvm_spm.tune(CHAIN, "spm/vta-1x16x16", trials=TRIALS)
    assert result.verified is True
    assert result.groups == ()
    (reason,) = result.as_dict()["refused_groups"]["by_reason"]
    assert "split scratchpad" in reason


def test_a_group_without_code_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    real = fused_network.schedule_group

    def fussy(fused: FusedFunction, group: Group, mapping: GroupMapping) -> tirx.PrimFunc:
        if len(group.layers) > 2:
            raise ScheduleError("three layers are too many today")
        return real(fused, group, mapping)

    monkeypatch.setattr(fused_network, "schedule_group", fussy)
    result = tvm_spm.tune(CHAIN, "spm/edge-256", trials=TRIALS)
    assert result.verified is True
    assert [len(group.layers) for group in result.plan_groups()] in ([1, 2], [2, 1])
    refused = result.as_dict()["refused_groups"]
    assert [(len(group["layers"]), group["reason"]) for group in refused["not_scheduled"]] == [
        (3, "three layers are too many today")
    ]
    assert refused["by_reason"] == {}
    print_result(result)
    assert "three layers are too many today" in capsys.readouterr().out


def test_calls_that_cannot_become_one_are_refused(monkeypatch: pytest.MonkeyPatch):
    real = fused_network.group_calls

    def fussy(mod: tvm.IRModule, groups: list[list[relax.Var]], variants: list[int]) -> GroupedModule:
        if any(len(group) > 2 for group in groups):
            raise ModelError("cannot fuse three calls")
        return real(mod, groups, variants)

    monkeypatch.setattr(fused_network, "group_calls", fussy)
    result = tvm_spm.tune(CHAIN, "spm/edge-256", trials=TRIALS)
    assert result.verified is True
    assert len(result.groups) == 1
    assert result.plan is not None
    assert [refused.reason for refused in result.plan.unscheduled] == ["cannot fuse three calls"]


def test_interrupt_while_groups_are_searched(monkeypatch: pytest.MonkeyPatch):
    searched = []
    real = GroupHope.improve

    def interrupted(hope: GroupHope, *options: object) -> None:
        real(hope, *options)
        searched.append(hope)
        if len(searched) == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(GroupHope, "improve", interrupted)
    result = tvm_spm.tune(CHAIN, "spm/edge-256", trials=TRIALS)
    assert (result.interrupted, result.verified) == (True, True)
    # One of the groups had been searched, and is used; the others have bounds.
    assert len(result.groups) == 1
    assert result.plan is not None
    assert "stopped" in result.plan.optimality
    assert 0 < result.plan.lower_bound < result.plan.value


def test_no_time_left_for_fusion():
    result = tvm_spm.tune(CHAIN, "spm/edge-256", trials=TRIALS, time_limit_s=0.0)
    assert (result.groups, result.verified) == ((), True)
    assert len(result.plan_groups()) == 3


def test_no_time_left_for_what_results_are_compared_with(capsys: pytest.CaptureFixture[str]):
    """Work on the vector unit has baselines even then, as it runs in one way only."""

    def pooled(emit, x: relax.Var, weight: relax.Var) -> relax.Expr:
        return emit(op.nn.max_pool2d(conv(emit, x, weight), (2, 2), (2, 2)))

    result = tvm_spm.tune(built([(1, 8, 8, 8), (8, 8, 1, 1)], pooled), "spm/edge-256", trials=2, time_limit_s=0.0)
    print_result(result)
    text = capsys.readouterr().out
    assert f"random search (median of {SEEDS}): unknown, not all were found in time" in text
