"""The public functions on a two-layer network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm

import tvm_spm
from tests.end_to_end.test_cli import two_layers
from tvm_spm import frontend
from tvm_spm.tuning.measurer import Measurement, MeasureRequest
from tvm_spm.tuning.text import print_result
from tvm_spm.workers import ProcessWorkers

TARGET = "spm/edge-256"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_layers(tmp_path_factory.mktemp("model") / "two.onnx")


@pytest.fixture(scope="module")
def result(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tvm_spm.TuningResult:
    return tvm_spm.tune(model, TARGET, trials=6, workdir=tmp_path_factory.mktemp("run") / "work")


def test_result_is_verified_and_adds_up(result: tvm_spm.TuningResult):
    assert result.verified is True
    assert result.unfused_cost.cycles == sum(task.cost.cycles * task.task.count for task in result.tasks)
    # Both layers run as one; nothing else is left.
    assert [group.cost.cycles for group in result.groups] == [result.cost.cycles]
    assert result.cost.edp_pj_cycles < result.unfused_cost.edp_pj_cycles
    assert result.not_modelled == ()
    # 8 * 3 * 12 * 12 * 3 * 3 + 5 * 8 * 12 * 12 multiply-accumulates
    assert result.cost.macs == 31_104 + 5_760
    assert list(result.table()["name"]) == [task.task.name for task in result.tasks]
    assert result.speedup_over("default") == result.default_cost.cycles / result.cost.cycles
    with pytest.raises(tvm_spm.SpmError, match="unknown baseline 'defualt'; did you mean 'default'"):
        result.speedup_over("defualt")


def test_every_layer_says_how_far_it_may_be_from_the_best(
    result: tvm_spm.TuningResult, capsys: pytest.CaptureFixture[str]
):
    for row, task in zip(result.rows(), result.tasks, strict=True):
        assert row["optimal"] == "proved"
        assert row["lower_bound"] == pytest.approx(task.cost.edp_pj_cycles)
        assert row["gap"] == 0
        assert "any factors" in row["optimal_in"]
        # the default mapping and the optimum
        assert task.num_trials == 2
    print_result(result)
    shown = " ".join(capsys.readouterr().out.split())
    assert "optimal: 2 of 2 proved, each alone among all legal mappings with any factors" in shown


def test_baselines_are_measured_sums_of_layers_that_run_alone(result: tvm_spm.TuningResult):
    for name in ("dataflow", "random", "default"):
        baseline = result.baseline_cost(name)
        assert baseline.cycles == sum(task.cost_of(name).cycles * task.task.count for task in result.tasks)
        assert result.speedup_over(name) == baseline.cycles / result.cost.cycles
        assert result.totals()[f"gain_over_{name}"] == baseline.edp_pj_cycles / result.cost.edp_pj_cycles
    for row, task in zip(result.rows(), result.tasks, strict=True):
        assert task.baselines.dataflow_cost.model == task.baselines.random_cost.model == "simulator"
        assert row["best_dataflow"] in ("OS", "WS", "RS", "MC")
        assert row["gain_over_dataflow"] == task.baselines.dataflow_cost.edp_pj_cycles / task.cost.edp_pj_cycles
        assert row["random_mappings"] >= 6


def test_executable_runs_in_the_virtual_machine(result: tvm_spm.TuningResult, model: Path):
    machine = tvm.relax.VirtualMachine(result.build(), tvm.cpu())
    data = np.random.default_rng(1).standard_normal((1, 3, 12, 12)).astype(np.float32)
    output = machine["main"](tvm.runtime.tensor(data))
    found = (output if isinstance(output, tvm.runtime.Tensor) else output[0]).numpy()
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(model).graph.initializer}
    padded = np.pad(data[0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    hidden = np.maximum(np.einsum("cyxij,kcij->kyx", windows, weights["w0"]), 0)
    expected = np.einsum("cyx,kc->kyx", hidden, weights["w1"][:, :, 0, 0])
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4)


def test_a_module_gives_what_its_file_gives(result: tvm_spm.TuningResult, model: Path):
    again = tvm_spm.tune(frontend.load_model(model), tvm.target.Target(TARGET), trials=6)
    assert [task.mapping for task in again.tasks] == [task.mapping for task in result.tasks]
    proto = tvm_spm.tune(onnx.load(model), tvm_spm.load_arch("edge-256"), trials=6)
    assert [task.mapping for task in proto.tasks] == [task.mapping for task in result.tasks]


@pytest.mark.parametrize("kind", ["threads", "processes", "own"])
def test_an_executor_changes_nothing(result: tvm_spm.TuningResult, model: Path, kind: str):
    """Nor do measurements, exact searches and searches of groups in other processes."""
    pools = {
        "threads": lambda: ThreadPoolExecutor(2), "own": lambda: ProcessWorkers(2),
        "processes": lambda: ProcessPoolExecutor(2, mp_context=get_context("spawn")),
    }  # fmt: skip
    with pools[kind]() as executor:
        again = tvm_spm.tune(model, TARGET, trials=6, executor=executor)
    assert [(task.mapping, task.cost) for task in again.tasks] == [(task.mapping, task.cost) for task in result.tasks]
    assert [task.bound for task in again.tasks] == [task.bound for task in result.tasks]
    assert [(group.mapping, group.cost) for group in again.groups] == [
        (group.mapping, group.cost) for group in result.groups
    ]
    assert again.plan.lower_bound == result.plan.lower_bound


def test_time_limit_gives_a_complete_result(model: Path):
    assert tvm_spm.tune(model, TARGET, trials=10**6, time_limit_s=1.0).verified is True


@dataclass
class Board:
    """Stands for a user's board: twice the MACs, whatever the mapping; keeps what it was asked."""

    name: str = "board"
    asked: list[MeasureRequest] = field(default_factory=list)

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        self.asked += requests
        return [Measurement(cycles=2 * request.workload.macs) for request in requests]


def test_a_measurer_replaces_the_simulator(model: Path):
    board = Board()
    result = tvm_spm.tune(model, TARGET, trials=4, measurer=board)
    assert [task.cost.cycles for task in result.tasks] == [2 * 31_104, 2 * 5_760]
    assert {task.cost.model for task in result.tasks} == {"board"}
    assert len(board.asked) == 2 * 4
    assert all("spm.level" in (request.program or "") for request in board.asked)


def test_open_pages_are_timed_and_what_is_not_is_said(model: Path):
    result = tvm_spm.tune(model, "spm/edge-256-lpddr4", trials=4)
    assert result.verified is True
    # groups would be timed without waits for rows, so both layers run alone
    assert (result.groups, result.plan) == ((), None)
    assert [task.cost.model for task in result.tasks] == ["simulator"] * 2
    (text,) = result.not_modelled
    assert "no layers run as one" in text
    assert "vector work is timed without waits for rows" in text
    assert text in str(result)
    assert result.totals()["not_modelled"] == [text]


def test_another_process_replays_the_database(model: Path, tmp_path: Path):
    """TVM's own pass, without this package's tuner, puts the same schedules into the module.

    Groups of layers are in no database, so the network is tuned without them.
    """
    workdir = tmp_path / "work"
    tuned = tvm_spm.tune(model, TARGET, trials=4, workdir=workdir, fusion=False)
    script = tmp_path / "apply.py"
    script.write_text(
        "import sys, tvm\n"
        "from tvm import relax\n"
        "from tvm.s_tir import meta_schedule\n"
        "import tvm_spm.lowering.target\n"
        "from tvm_spm import frontend\n"
        "mod = frontend.extract(frontend.load_model(sys.argv[1])).mod\n"
        "database = meta_schedule.database.JSONDatabase(work_dir=sys.argv[2], allow_missing=False)\n"
        "with tvm.target.Target(sys.argv[3]), database:\n"
        "    applied = relax.transform.MetaScheduleApplyDatabase()(mod)\n"
        "open(sys.argv[4], 'w').write(tvm.ir.save_json(applied))\n"
    )
    out = tmp_path / "applied.json"
    subprocess.run([sys.executable, str(script), str(model), str(workdir), TARGET, str(out)], check=True)
    applied = tvm.ir.load_json(out.read_text())
    scheduled = {name.name_hint: f for name, f in tuned.module.functions_items() if isinstance(f, tvm.tirx.PrimFunc)}
    assert len(scheduled) == 2
    found = {name.name_hint: func for name, func in applied.functions_items()}
    for name, func in scheduled.items():
        plain = [f.without_attr("global_symbol").without_attr("tirx.is_scheduled").without_attr("tir.is_scheduled")
                 for f in (found[name], func)]  # fmt: skip
        tvm.ir.assert_structural_equal(plain[0].body, plain[1].body, map_free_vars=True)


def test_a_built_in_network_gets_numbers_as_wide_as_a_word(monkeypatch: pytest.MonkeyPatch):
    made = frontend.models.BuiltIn(
        make=lambda: frontend.models.images.Layers(frontend.models.images.conv(3, 4, 1)), summary="one layer",
        inputs={"data": (1, 3, 4, 4)},
    )  # fmt: skip
    monkeypatch.setitem(frontend.models.BUILT_IN, "one", made)
    for arch, dtype, width in (("edge-256", "float16", 16), ("vta-1x16x16", "int8", 8)):
        result = tvm_spm.tune("one", arch, trials=1)
        assert result.verified is True
        assert result.totals()["chosen_dtype"] == dtype
        assert [task.work.I.elem_bits for task in result.graph.tasks] == [width]
    asked = tvm_spm.tune("one", "edge-256", trials=1, dtype="float32")
    assert asked.totals()["chosen_dtype"] is None
    assert [task.work.I.elem_bits for task in asked.graph.tasks] == [32]


def test_a_tuned_network_moves_half_a_byte_a_weight():
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 256, (12, 2, 16)).astype(np.uint8)
    scale = rng.uniform(0.1, 0.2, 24).astype(np.float32)
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=64, N=12, bits=4, block_size=32
    )
    graph = onnx.helper.make_graph(
        [node], "packed",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 64))],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 12))],
        [onnx.numpy_helper.from_array(array, name) for name, array in (("w", weights), ("s", scale))],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    result = tvm_spm.tune(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), TARGET, trials=2)
    assert result.verified is True
    product = result.tasks[0]
    # 64 x 12 weights of 4 bits, read once, and as many inputs and sums of blocks as there are.
    assert product.cost.dram_bytes == (64 * 4, 64 * 12 // 2, 2 * 12 * 4, 0)
