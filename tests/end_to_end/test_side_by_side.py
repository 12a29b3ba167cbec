"""Networks whose branches run at the same time: planned, scheduled for fewer cores, verified and reported."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import tvm
from tvm import relax
from tvm.relax import op
from typer.testing import CliRunner

import tvm_spm
from cost_model.side_by_side import finish_together
from schedules import layer
from tests.fusion_networks import built, conv
from tvm_spm import cli
from tvm_spm.deploy.side_by_side import MAPPING, ORDER
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.fusion.sides import SidePlan
from tvm_spm.mapping import Mapping
from tvm_spm.tuning import groups
from tvm_spm.tuning.saved_run import load_plan
from tvm_spm.tuning.text import print_result


def heads(emit, x: relax.Var, *weights: relax.Var) -> relax.Expr:
    """Convolutions of one input whose results all leave the network."""
    return relax.Tuple([conv(emit, x, weight) for weight in weights])


HEADS = built([(1, 8, 12, 12), (8, 8, 1, 1), (8, 8, 3, 3), (12, 8, 3, 3)], heads)


@cache
def tuned(arch: str = "quad-edge", objective: str = "edp") -> tvm_spm.TuningResult:
    return tvm_spm.tune(HEADS, f"spm/{arch}", objective=objective, trials=2)


def side_plan(result: tvm_spm.TuningResult) -> SidePlan:
    assert result.side_plan is not None
    return result.side_plan


@pytest.mark.parametrize("objective", ["edp", "latency"])
def test_branches_run_at_the_same_time_on_disjoint_cores_and_are_verified(objective: str):
    result = tuned(objective=objective)
    plan, arch = side_plan(result), result.arch
    assert result.verified is True
    assert plan.together
    for step in plan.together:
        cores = [core for side in step.sides for core in side.cores]
        assert len(set(cores)) == len(cores) <= arch.cores.count
        assert max(cores) < arch.cores.count
        ends = finish_together(arch, [side.job for side in step.sides])
        assert [end.cycles for end in ends] == [side.finish_cycles for side in step.sides]
        assert step.cost.cycles == max(end.cycles for end in ends)
        assert step.cost.energy_pj == pytest.approx(sum(side.cost.energy_pj for side in step.sides))
    before = {"edp": plan.serial_cycles * plan.serial_energy_pj, "latency": plan.serial_cycles}[objective]
    assert result.cost.objective(objective) < before
    assert result.cost.cycles == plan.cycles
    assert result.cost.energy_pj == pytest.approx(plan.energy_pj)


def test_the_code_of_a_side_is_the_mapping_that_was_timed():
    result = tuned()
    found = []
    for name, func in result.module.functions_items():
        if isinstance(func, tvm.tirx.PrimFunc) and func.attrs is not None and MAPPING in func.attrs:
            mapping = Mapping.parse(func.attrs[MAPPING])
            plain = result.reference[str(name.name_hint).partition("_beside")[0]]
            nest = read_nest(plain)
            assert isinstance(nest, TirNest)
            assert layer.check_timed_is_executed(func, nest, mapping) is None
            found.append(mapping)
    jobs = [side.job.mapping for step in side_plan(result).together for side in step.sides]
    assert set(found) == set(jobs)


def test_the_module_says_what_runs_beside_what_on_which_cores():
    result = tuned()
    steps = json.loads(result.module["main"].attrs[ORDER])
    plan = side_plan(result)
    assert [[entry["cores"] for entry in step] for step in steps] == [
        [[side.cores.start, side.cores.stop] for side in step.sides] for step in plan.together
    ]
    bound = [binding.var.name for block in result.module["main"].body.blocks for binding in block.bindings]
    for step in steps:
        places = sorted(bound.index(entry["variable"]) for entry in step)
        assert places == list(range(min(places), min(places) + len(places)))


def test_table_json_and_plan_name_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    result = tvm_spm.tune(HEADS, "spm/quad-edge", trials=2, workdir=tmp_path)
    plan = side_plan(result)
    saved = load_plan(tmp_path)
    assert list(saved) == result.plan_groups()
    beside = [group for group in saved if group.together is not None]
    assert len(beside) == sum(len(step.sides) for step in plan.together)
    alone = sum(group.cycles for group in saved if group.together is None)
    steps = {group.together: 0 for group in beside}
    for group in beside:
        steps[group.together] = max(steps[group.together], group.cycles)
    assert alone + sum(steps.values()) == result.cost.cycles
    assert sum(group.energy_pj for group in saved) == pytest.approx(result.cost.energy_pj)
    assert sum(len(group.layers) for group in saved) == sum(task.task.count for task in result.tasks)
    saved = json.loads((tmp_path / "result.json").read_text())
    data, serial = saved["side_by_side"], saved["plan"]
    assert serial["order"] == "one after the other"
    assert serial["value"] == pytest.approx(data["serial_value"])
    assert data["value"] == pytest.approx(data["cycles"] * data["energy_pj"])
    assert data["value"] < data["serial_value"]
    assert data["cycles"] == result.cost.cycles < data["serial_cycles"]
    assert len(data["steps"][0]["sides"]) == len(plan.together[0].sides)
    print_result(result)
    text = capsys.readouterr().out
    assert "side by side: 3 layers in 1 step; against one after the other" in text
    assert "fusion: no layers run as one\n" in text
    assert "plan: one after the other, " in text
    shown = CliRunner().invoke(cli.app, ["show", str(tmp_path)]).stdout
    assert "at the same time as others:\n  fused_conv2d" in shown
    result.draw(tmp_path / "plan.svg")
    assert "<svg" in (tmp_path / "plan.svg").read_text()


def test_code_that_computes_something_else_runs_alone_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    wrong = Verification(passed=False, max_abs_error=1.0, tolerance=0.0)
    monkeypatch.setattr(groups, "verify_function", lambda *args, **kwargs: wrong)
    result = tvm_spm.tune(HEADS, "spm/quad-edge", trials=2)
    plan = side_plan(result)
    assert plan.together == result.together == ()
    assert result.verified is True
    assert (plan.cycles, plan.energy_pj) == (plan.serial_cycles, plan.serial_energy_pj)
    assert "its code does not compute the same" in plan.refused[0][1]
    print_result(result)
    names = {name for name, _ in plan.refused}
    text = capsys.readouterr().out
    assert names <= {task.task.name for task in result.tasks}
    assert all(f"not side by side: {name}: its code does not compute the same" in text for name in names)


def test_nothing_runs_beside_anything_where_that_cannot_pay():
    assert tuned(objective="energy").side_plan is None
    assert tuned("edge-256").side_plan is None


def test_a_chain_has_nothing_to_run_beside():
    def chain(emit, x: relax.Var, *weights: relax.Var) -> relax.Expr:
        for weight in weights:
            x = conv(emit, x, weight)
        return x

    result = tvm_spm.tune(built([(1, 8, 12, 12), (8, 8, 1, 1), (8, 8, 3, 3)], chain), "spm/quad-edge", trials=2)
    assert side_plan(result).num_sets == 0
    assert result.together == ()


def test_a_view_between_two_layers_keeps_them_apart():
    """The second product reads the first through a reshape, which is no layer."""

    def viewed(emit, x: relax.Var, first: relax.Var, second: relax.Var) -> relax.Expr:
        one = emit(op.matmul(x, first))
        return emit(op.matmul(emit(op.reshape(one, (24, 8))), second))

    result = tvm_spm.tune(built([(12, 16), (16, 16), (8, 8)], viewed), "spm/quad-edge", trials=2)
    assert side_plan(result).num_sets == 0


def test_groups_beside_others_count_as_groups(capsys: pytest.CaptureFixture[str]):
    """Two chains that read nothing of each other, each a group on a core of its own."""

    def chains(emit, x: relax.Var, *weights: relax.Var) -> relax.Expr:
        ends = []
        for first, second in zip(weights[::2], weights[1::2], strict=True):
            ends.append(conv(emit, conv(emit, x, first), second))
        return relax.Tuple(ends)

    shapes = [(1, 16, 9, 9), (16, 16, 3, 3), (16, 16, 3, 3), (32, 16, 1, 1), (16, 32, 3, 3)]
    result = tvm_spm.tune(built(shapes, chains), "spm/quad-edge", trials=2)
    sides = [side for step in result.together for side in step.sides]
    assert result.groups == ()
    assert [len(side.names) for side in sides] == [2, 2]
    print_result(result)
    text = capsys.readouterr().out
    assert "fusion: 4 layers in 2 groups; against layer by layer, side by side included" in text


def test_no_time_leaves_the_plan_as_it_is():
    result = tvm_spm.tune(HEADS, "spm/quad-edge", trials=2, time_limit_s=1e-9)
    assert result.verified is True
    assert result.together == ()
    assert any("not timed" in limit for limit in side_plan(result).limits)
