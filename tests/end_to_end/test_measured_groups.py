"""Networks whose layers run as one on a machine that is not what its file says, as its measurer says."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tvm.relax import op
from tvm.script import from_source
from typer.testing import CliRunner

import tvm_spm
from cost_model.attention.model import attention_cost
from cost_model.fused.cost import group_cost
from cost_model.simulator import SimulatorModel, simulate_batch
from tests.end_to_end.test_cli import two_layers
from tests.end_to_end.test_fusion import with_spm
from tests.end_to_end.test_guided import BUILT, DECLARED, TRIALS, Board
from tests.fusion_networks import CHAIN, attention, built, conv
from tvm_spm.attention import AttentionMapping
from tvm_spm.cli import app
from tvm_spm.errors import SpmError
from tvm_spm.group import GroupMapping
from tvm_spm.trial import GroupTrial
from tvm_spm.tuning.group_trials import GroupTrials
from tvm_spm.tuning.log_lines import line_of, read_line
from tvm_spm.tuning.measurer import GroupRequest, MeasureError, Measurement, MeasureRequest, SimulatorMeasurer
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.saved_run import load_plan
from tvm_spm.tuning.store import Store
from tvm_spm.tuning.text import print_result
from tvm_spm.workers import ProcessWorkers


@dataclass
class GroupBoard(Board):
    """Runs groups, too; some take longer than anything explains, or cannot be measured."""

    slower: float = 1.0
    reason: str = ""
    groups: list[GroupRequest] = field(default_factory=list)

    def measure_groups(self, requests: Sequence[GroupRequest]) -> list[Measurement]:
        self.groups += requests
        if self.reason:
            raise MeasureError(self.reason)
        return [Measurement(cycles=round(self.slower * cycles_on(self.built, request))) for request in requests]


def cycles_on(machine: tvm_spm.Arch, request: GroupRequest) -> int:
    if isinstance(request.mapping, AttentionMapping):
        assert request.attention is not None
        return attention_cost(request.attention, machine, request.mapping).cycles
    return group_cost(request.group, machine, request.mapping).cost.cycles


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_layers(tmp_path_factory.mktemp("model") / "two.onnx", channels=32)


def tuned(network, board, **options) -> tvm_spm.TuningResult:
    options = {"trials": TRIALS, "store": "none", **options}
    return tvm_spm.tune(network, DECLARED, measurer=board, **options)


def test_layers_run_as_one_where_the_board_gains_by_it(model, tmp_path, capsys):
    board = GroupBoard()
    result = tuned(model, board, workdir=tmp_path)
    known = tvm_spm.tune(model, BUILT, trials=TRIALS)
    assert result.verified
    assert [group.names for group in result.groups] == [group.names for group in known.groups] != []
    # the machine was never seen, and its best group is found all the same
    assert result.cost.edp_pj_cycles <= 1.01 * known.cost.edp_pj_cycles
    assert len(board.groups) <= 4
    for request in board.groups:
        assert GroupMapping.parse(str(request.mapping)) == request.mapping
        assert request.arch == DECLARED
        from_source(request.program)
    (group,) = result.groups
    assert (group.cost.model, group.cost.cycles) == ("board", cycles_on(BUILT, board.groups[-1]))
    print_result(result)
    assert f"plan: the best of layers alone and {len(board.groups)} measured mapping" in capsys.readouterr().out
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["plan"]["num_measured"] == len(board.groups)
    assert [group.cycles for group in load_plan(tmp_path)] == [group.cost.cycles]
    # a second run measures nothing and finds the same
    again_board = GroupBoard()
    again = tuned(model, again_board, workdir=tmp_path)
    assert (again_board.asked, again_board.groups) == ([], [])
    assert [(each.mapping, each.cost) for each in again.groups] == [(group.mapping, group.cost)]


def test_a_stopped_run_asks_only_for_what_is_missing(tmp_path):
    network, whole = CHAIN, GroupBoard(slower=1.3)
    wanted = tuned(network, whole)

    class Impatient(GroupBoard):
        def measure_groups(self, requests: Sequence[GroupRequest]) -> list[Measurement]:
            if self.groups:
                raise KeyboardInterrupt
            return super().measure_groups(requests)

    first, second = Impatient(slower=1.3), GroupBoard(slower=1.3)
    assert len(whole.groups) > 1
    with pytest.raises(KeyboardInterrupt):
        tuned(network, first, workdir=tmp_path)
    found = tuned(network, second, workdir=tmp_path)
    asked = [str(request.mapping) for request in [*first.groups, *second.groups]]
    assert asked == [str(request.mapping) for request in whole.groups]
    assert [group.mapping for group in found.groups] == [group.mapping for group in wanted.groups]


def test_groups_that_are_slow_run_layer_by_layer(model):
    board = GroupBoard(slower=20.0)
    result = tuned(model, board)
    assert result.groups == ()
    assert result.verified
    assert 1 <= len(board.groups) <= 8


def test_groups_that_cannot_be_measured_are_named(model, capsys):
    result = tuned(model, GroupBoard(reason="the cable is out"))
    assert (result.groups, result.verified) == ((), True)
    print_result(result)
    text = capsys.readouterr().out
    assert "failed measurements: fused_conv2d_relu > conv2d1: the cable is out" in text
    assert "fusion: every layer runs alone" in text


@pytest.mark.parametrize("answer", [None, [], [3], ["a", "b"], [Measurement(cycles=1)] * 7])
def test_answers_that_are_none_are_failures(model, answer):
    class Odd(Board):
        def measure_groups(self, requests: Sequence[GroupRequest]) -> object:
            return answer

    result = tuned(model, Odd())
    assert (result.groups, result.verified) == ((), True)
    said = result.as_dict()["plan"]
    assert said["num_measured"] == 0
    assert all(each["layers"] == ["fused_conv2d_relu", "conv2d1"] for each in said["failed_measurements"])
    if answer is None:
        assert "board: measure_groups returned None" in said["failed_measurements"][0]["reason"]


def test_a_cost_that_is_not_what_was_measured_is_refused(model):
    class Copies(Board):
        def measure_groups(self, requests: Sequence[GroupRequest]) -> list[Measurement]:
            return [Measurement(cycles=5, cost=request.expected) for request in requests]

    result = tuned(model, Copies())
    assert result.groups == ()
    assert "must be a Cost of 5 cycles" in result.plan.failed_measurements[0][1]
    with pytest.raises(MeasureError, match="measured cost = 7: must be a Cost of 5 cycles"):
        Measurement(cycles=5, cost=7)  # type: ignore[arg-type]


def test_what_is_no_method_times_no_groups(model):
    class Misspelt(Board):
        measure_groups = 5

    with pytest.raises(SpmError, match=r"measurer.measure_groups = 5: must be a method"):
        tuned(model, Misspelt())


def test_two_boards_share_a_directory_and_no_answers(model, tmp_path):
    fast, slow = GroupBoard(), GroupBoard(name="slow", slower=20.0)
    assert tuned(model, fast, workdir=tmp_path).groups
    assert tuned(model, slow, workdir=tmp_path).groups == ()
    assert slow.groups
    assert tuned(model, GroupBoard(slower=20.0), workdir=tmp_path).groups  # as the first board said


def test_equal_requests_are_measured_once(model):
    board = GroupBoard()
    tuned(model, board)
    trials = GroupTrials(Run(measurer=board), board)
    requests, number = [board.groups[0]] * 3, len(board.groups)
    found = trials.measure(requests)
    assert len(board.groups) == number + 1
    assert len(set(map(repr, found))) == 1
    assert trials.measure(requests) == found
    assert len(board.groups) == number + 1


@pytest.mark.parametrize("metered", [0.01, 100.0])
def test_a_board_meters_in_its_own_way(metered):
    class Metered(GroupBoard):
        def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
            (found,) = super().measure(requests)
            (cost,) = simulate_batch(requests[0].workload, self.built, [requests[0].mapping])
            return [replace(found, energy_pj=metered * cost.energy_pj)]

        def measure_groups(self, requests: Sequence[GroupRequest]) -> list[Measurement]:
            costs = [group_cost(each.group, self.built, each.mapping).cost for each in requests]
            found = super().measure_groups(requests)
            return [replace(one, energy_pj=metered * cost.energy_pj) for one, cost in zip(found, costs, strict=True)]

    board, plain = Metered(), GroupBoard()
    result, wanted = tuned(CHAIN, board), tuned(CHAIN, plain)
    assert [group.names for group in result.groups] == [group.names for group in wanted.groups] != []
    assert result.cost.energy_pj == pytest.approx(metered * wanted.cost.energy_pj, rel=0.02)


@pytest.mark.parametrize("objective", ["latency", "edp"])
def test_a_board_may_meter_no_energy(objective):
    class Unmetered(GroupBoard):
        def measure_groups(self, requests: Sequence[GroupRequest]) -> list[Measurement]:
            return [replace(each, energy_pj=0.0) for each in super().measure_groups(requests)]

    result = tuned(CHAIN, Unmetered(energy_pj=0.0), objective=objective)
    assert result.verified
    # without energy all plans have the same EDP
    assert bool(result.groups) == (objective == "latency")


def test_time_that_is_up_is_named(capsys):
    result = tuned(CHAIN, GroupBoard(), time_limit_s=0.05)
    assert result.plan.limits[-1] == "stopped"
    assert "no gain above" not in result.plan.optimality


def test_a_board_without_groups_runs_layer_by_layer(model):
    result = tuned(model, Board())
    assert (result.groups, result.plan) == ((), None)


def test_an_attention_is_measured_too():
    # Rows of scores do not fit, so that only chunks of keys with an online softmax are left.
    declared = with_spm("quad-edge", 12 << 10)
    machine = replace(declared, dma=replace(declared.dma, startup_cycles=50.0))
    network, board = built([(1, 128, 16), (16, 16), (16, 16), (16, 16)], attention), GroupBoard(built=machine)
    result = tvm_spm.tune(network, declared, trials=TRIALS, measurer=board, store="none")
    known = tvm_spm.tune(network, machine, trials=TRIALS)
    assert result.verified
    assert any(request.attention is not None for request in board.groups)
    assert result.groups[-1].overlap == "online softmax"
    assert result.groups[-1].cost.model == "board"
    assert result.cost.edp_pj_cycles <= 1.02 * known.cost.edp_pj_cycles


def test_the_simulator_as_measurer_finds_the_same(model):
    own = tvm_spm.tune(model, DECLARED, trials=TRIALS)
    measured = tuned(model, SimulatorMeasurer())
    assert [(each.names, each.cost) for each in measured.groups] == [(each.names, each.cost) for each in own.groups]


def test_workers_measure_groups_with_the_same_result(tmp_path):
    network, logs = CHAIN, []
    for name, executor in (("alone", None), ("workers", ProcessWorkers(2))):
        result = tuned(network, SimulatorMeasurer(), workdir=tmp_path / name, executor=executor)
        lines = (tmp_path / name / "trials.jsonl").read_bytes().splitlines()
        logs.append([line for line in lines if b'"kind":"group"' in line])
        assert result.verified
        if executor is not None:
            executor.shutdown()
    assert logs[0] == logs[1] != []
    for line in logs[0]:
        assert line_of(read_line(line, 2)) == line + b"\n"


def test_another_network_knows_the_groups_of_this_one(model, tmp_path):
    store = tmp_path / "store"
    first, second = GroupBoard(), GroupBoard()
    tuned(model, first, store=store)
    result = tuned(model, second, store=store)
    assert first.groups
    asked = {str(request.mapping) for request in second.groups}
    assert not asked & {str(request.mapping) for request in first.groups}
    assert result.groups
    # what was lent is in the log: the work directory is whole without the store
    tuned(model, GroupBoard(), store=store, workdir=tmp_path / "work")
    alone = GroupBoard()
    assert tuned(model, alone, workdir=tmp_path / "work").groups == result.groups
    assert alone.groups == []


COMMAND = """
import json, math, sys
request = json.load(sys.stdin)
if request["kind"] == "group":
    assert request["layers"] and "cores:" in request["mapping"] and "tvm" in request["program"], request
    cycles = 1000
else:
    cycles = 900 + math.prod(request["dims"].values()) // 50
print(json.dumps({"cycles": cycles}))
"""


@pytest.mark.parametrize("times_groups", [True, False])
def test_a_command_is_asked_for_groups_if_it_may_be(model, tmp_path, times_groups):
    script = tmp_path / "board.py"
    script.write_text(COMMAND)
    options = ["--measure-groups"] if times_groups else []
    ran = CliRunner().invoke(
        app,
        ["tune", str(model), "--target", "edge-256", "--trials", "4", "--measure-command", f"{sys.executable} {script}",
         "--store", "none", "--json", *options],
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert [group["cycles"] for group in found["groups"]] == ([1000] if times_groups else [])


def test_groups_of_no_command_are_refused(model):
    ran = CliRunner().invoke(app, ["tune", str(model), "--measure-groups"])
    assert isinstance(ran.exception, SpmError) or "only with --measure-command" in ran.output


def test_a_damaged_group_in_a_log_is_measured_again(model, tmp_path):
    tuned(model, SimulatorMeasurer(), workdir=tmp_path)
    log = tmp_path / "trials.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    at = next(at for at, line in enumerate(lines) if b'"kind":"group"' in line)
    lines[at] = lines[at].replace(b'"names"', b'"nomes"')
    log.write_bytes(b"".join(lines))
    again = tuned(model, SimulatorMeasurer(), workdir=tmp_path)
    assert again.groups
    assert sum(b'"kind":"group"' in line for line in log.read_bytes().splitlines()) == 2


def test_energy_of_a_board_counts_for_groups(model):
    class Metered(GroupBoard):
        def measure_groups(self, requests: Sequence[GroupRequest]) -> list[Measurement]:
            return [replace(each, energy_pj=5.0) for each in super().measure_groups(requests)]

    result = tuned(model, Metered())
    (group,) = result.groups
    assert group.cost.energy_pj == pytest.approx(5.0)


def test_vector_work_is_timed_by_fitted_numbers():
    def pooled(emit, x, weight):
        return emit(op.nn.max_pool2d(conv(emit, x, weight), pool_size=[3, 3], strides=[2, 2]))

    result = tuned(built([(1, 8, 33, 33), (16, 8, 3, 3)], pooled), GroupBoard(), fusion=False)
    (pool,) = [task for task in result.tasks if task.mapping is None]
    assert result.fitted.arch.dma.startup_cycles == pytest.approx(198, rel=0.02)
    assert pool.cost.cycles == SimulatorModel().vector_cost(pool.task.work, result.fitted.arch).cycles
    assert pool.cost.cycles > SimulatorModel().vector_cost(pool.task.work, DECLARED).cycles


@pytest.mark.parametrize("text", ["{oops", "[]", "{}", '{"group": 3}'])
def test_damaged_groups_of_a_store_are_named(tmp_path, text):
    layer = tvm_spm.Workload.matmul(m=4, k=3, n=2)
    cost = tvm_spm.evaluate(layer, DECLARED, tvm_spm.search(layer, DECLARED).mapping)
    trial = GroupTrial(group="group 1", names=("a", "b"), mapping="cores: 1", measurer="board", cost=cost)
    Store(tmp_path / "store", DECLARED, "board", "first").keep_groups([trial])
    store = Store(tmp_path / "store", DECLARED, "board", "second")
    assert store.group_answers("group 1") == [trial]
    assert store.group_answers("group 2") == []
    with closing(sqlite3.connect(store.path)) as tables, tables:
        tables.execute("update group_answers set trial = ?", (text,))
    with pytest.raises(SpmError, match="store: damaged: .*; give another --store, or none"):
        store.group_answers("group 1")
    # programs from before there were groups made stores without their table
    with closing(sqlite3.connect(store.path)) as tables, tables:
        tables.execute("drop table group_answers")
    assert Store(tmp_path / "store", DECLARED, "board", "third").group_answers("group 1") == []
