"""The command line as a user meets it: results, and every mistake with its exact message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvm_spm
from tvm_spm.arch import archs
from tvm_spm.searchers import SEARCHERS
from tvm_spm.tuner import PUBLISHED_SEARCHERS
from tvm_spm.tuning.options import EXACT

PRESET = Path(__file__).parents[2] / "tvm_spm" / "archs" / "dmazerunner-256.toml"
QUICK = ("--trials", "4")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tvm_spm", *arguments]


def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def mistake(*arguments: str, code: int = 2) -> str:
    """What a mistake prints on stderr, without the program's name; nothing may be on stdout."""
    done = run(*arguments, code=code)
    assert done.stdout == ""
    assert done.stderr.startswith("tvm-spm: ")
    # Lines before it say how far the work got.
    return done.stderr.rpartition("tvm-spm: ")[2].strip()


def two_layers(path: Path, *, batch: int | str = 1, channels: int = 8) -> Path:
    """conv 3x3 + relu, then conv 1x1, on 12x12 pixels."""
    rng = np.random.default_rng(0)
    weights = {
        "w0": rng.standard_normal((channels, 3, 3, 3)).astype(np.float32),
        "w1": rng.standard_normal((5, channels, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w1"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two_layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5, 12, 12])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), str(path))
    return path


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(two_layers(tmp_path / "two.onnx"))


def test_tune_prints_one_object_per_task(model: str):
    result = json.loads(run("tune", model, "--target", "spm/edge-256", *QUICK, "--json").stdout)
    assert [task["kind"] for task in result["tasks"]] == ["conv2d", "conv2d"]
    assert result["tasks"][0]["dims"] == {"N": 1, "K": 8, "C": 3, "OY": 12, "OX": 12, "FY": 3, "FX": 3}
    for task in result["tasks"]:
        assert task["verified"] is True
        assert task["edp_pj_cycles"] == pytest.approx(task["energy_pj"] * task["cycles"])
        assert task["model"] == "simulator"
    parts = [(task["cycles"], task["count_alone"]) for task in result["tasks"]]
    parts += [(group["cycles"], group["count"]) for group in result["groups"]]
    assert result["totals"]["cycles"] == sum(cycles * count for cycles, count in parts)
    assert result["totals"]["verified"] is True


def test_tune_prints_a_table(model: str):
    shown = run("tune", model, "--target", "spm/edge-256", *QUICK).stdout
    assert "verified against the untuned module: yes" in shown
    assert "against the best dataflow of each layer (OS, WS, RS or MC, each optimised): " in shown
    assert "mappings a layer, median of 5): " in shown
    assert "against the default mappings" in shown


def test_without_baselines_gains_are_on_the_default_mapping(model: str):
    result = json.loads(run("tune", model, *QUICK, "--no-baselines", "--json").stdout)
    assert [task["gain_over_dataflow"] for task in result["tasks"]] == [None, None]
    assert result["totals"]["gain_over_random"] is None
    assert result["totals"]["gain_over_default"] >= 1
    assert "baselines" not in result["totals"]["seconds"]
    shown = run("tune", model, *QUICK, "--no-baselines").stdout
    assert "against the default mappings" in shown
    assert "OS, WS" not in shown


def test_no_time_at_all_gives_what_no_limit_cuts_verified(model: str):
    shown = run("tune", model, "--time-limit", "0").stdout
    assert "verified against the untuned module: yes" in shown
    assert "the search was ended by a time limit of 0 s; left out: " in shown
    assert "; verification, which no limit cuts, took " in shown
    result = json.loads(run("tune", model, "--time-limit", "0", "--json").stdout)
    for task in result["tasks"]:
        # At least the default mapping is measured and compared.
        assert task["trials"] >= 1
        assert task["gain_over_default"] >= 1
        assert task["verified"] is True
        assert task["gain_over_dataflow"] is None
    totals = result["totals"]
    assert (totals["verified"], totals["stopped_by"], totals["time_limit_s"]) == (True, "time limit", 0)
    assert {"what": "baselines", "task": "", "num_done": 0, "num_asked": 2} in totals["left_out"]


def test_same_seed_same_result(model: str):
    first, second = (json.loads(run("tune", model, *QUICK, "--seed", "3", "--json").stdout) for _ in range(2))
    assert first["tasks"] == second["tasks"]


def trials_in(workdir: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (workdir / "trials.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "trial"]


def test_second_run_continues(model: str, tmp_path: Path):
    workdir = tmp_path / "work"
    first = json.loads(run("tune", model, "--trials", "6", "--workdir", str(workdir), "--json").stdout)
    lines = (workdir / "trials.jsonl").read_text().splitlines()
    # per layer the default mapping and the proved optimum
    assert len(trials_in(workdir)) == 2 * 2
    again = json.loads(run("tune", model, "--trials", "6", "--workdir", str(workdir), "--json").stdout)
    assert (workdir / "trials.jsonl").read_text().splitlines() == lines
    assert again["tasks"] == first["tasks"]
    more = json.loads(run("tune", model, "--trials", "9", "--workdir", str(workdir), "--json").stdout)
    assert len(trials_in(workdir)) == 2 * 2
    assert more["totals"]["edp_pj_cycles"] <= first["totals"]["edp_pj_cycles"]
    assert json.loads((workdir / "result.json").read_text())["tasks"] == more["tasks"]


def test_truncated_log_line_loses_one_trial(model: str, tmp_path: Path):
    workdir = tmp_path / "work"
    run("tune", model, "--trials", "6", "--workdir", str(workdir), "--json")
    log = workdir / "trials.jsonl"
    whole = log.read_bytes()
    # The last line says that the search ended, the one before is a trial.
    log.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1])[:-40])
    done = run("tune", model, "--trials", "6", "--workdir", str(workdir), "--json")
    assert "the last line is incomplete" in done.stderr
    assert "the 3 trials before it are kept" in done.stderr
    assert log.read_bytes() == whole


def test_work_directory_of_another_arch(model: str, tmp_path: Path):
    workdir = tmp_path / "work"
    run("tune", model, *QUICK, "--workdir", str(workdir), "--json")
    before = {path.name: path.read_bytes() for path in workdir.iterdir() if path.name != ".owner"}
    text = mistake("tune", model, "--target", "spm/edge-256", *QUICK, "--workdir", str(workdir))
    assert text.startswith(f"{workdir / 'trials.jsonl'}: trials of accelerator dmazerunner-256 (")
    assert "this run is for edge-256 (" in text
    assert text.endswith("choose another --workdir, or delete this file to start over")
    assert {path.name: path.read_bytes() for path in workdir.iterdir() if path.name != ".owner"} == before


def test_another_model_shares_the_work_directory(model: str, tmp_path: Path):
    """Two networks that differ in one layer: the equal one is not measured again."""
    workdir = tmp_path / "work"
    first = json.loads(run("tune", model, *QUICK, "--workdir", str(workdir), "--json").stdout)
    other = two_layers(tmp_path / "other.onnx")
    proto = onnx.load(other)
    weight = numpy_helper.from_array(np.ones((7, 8, 1, 1), np.float32), "w1")
    proto.graph.initializer[1].CopyFrom(weight)
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(proto, other)
    result = json.loads(run("tune", str(other), *QUICK, "--workdir", str(workdir), "--json").stdout)
    assert result["tasks"][0] == first["tasks"][0]
    assert result["tasks"][1]["dims"]["K"] == 7
    assert [trial["model"] for trial in trials_in(workdir)] == 4 * ["two.onnx"] + 2 * ["other.onnx"]
    assert f"{result['tasks'][1]['cycles']:,} cycles" in run("show", str(workdir), "--task", "conv2d1").stdout


def test_unwritable_work_directory(model: str, tmp_path: Path):
    (tmp_path / "file").write_text("")
    workdir = tmp_path / "file" / "work"
    assert mistake("tune", model, "--workdir", str(workdir)) == (
        f"{workdir}: cannot create: Not a directory; choose a writable --workdir"
    )


def test_unknown_target(model: str):
    assert mistake("tune", model, "--target", "spm/edge-265") == (
        "unknown accelerator 'spm/edge-265': did you mean 'edge-256'? (or give the path of a .toml file)"
    )


def test_misspelt_key(model: str, tmp_path: Path):
    arch = tmp_path / "mine.toml"
    arch.write_text(PRESET.read_text().replace("mac_stages", "mac_stage", 1))
    assert mistake("tune", model, "--target", str(arch)) == (
        f"{arch}: pe.mac_stage: unknown field; did you mean 'mac_stages'?"
    )


def test_absurd_values(model: str, tmp_path: Path):
    arch = tmp_path / "mine.toml"
    arch.write_text(PRESET.read_text().replace("rows = 16 ", "rows = -16 "))
    assert mistake("tune", model, "--target", str(arch)) == f"{arch}: pe.rows = -16: must be >= 1"
    arch.write_text(PRESET.read_text().replace("op_pj = 0.075        # pJ", "op_pj = 1e300", 1))
    assert mistake("tune", model, "--target", str(arch)) == f"{arch}: mac.op_pj = 1e+300: must be <= 1,000,000,000"


def test_scratchpad_too_small_for_any_tile(model: str, tmp_path: Path):
    arch = tmp_path / "tiny.toml"
    text = PRESET.read_text().replace('"dmazerunner-256"', '"tiny"', 1)
    arch.write_text(text.replace("capacity_bytes = 131072", "capacity_bytes = 4096"))
    shown = mistake("tune", model, "--target", str(arch), code=1)
    # Three operands need a bank of 2,048 B each.
    assert shown.startswith("no task of the model can be mapped; ")
    assert "spm-capacity (tile does not fit SPM: needs 6,144 B (I 2,048 + W 2,048 + O 2,048), has 4,096 B" in shown
    assert "removed 1,000" in shown


def test_own_arch_file_is_a_target(model: str, tmp_path: Path):
    arch = tmp_path / "mine.toml"
    text = PRESET.read_text().replace('"dmazerunner-256"', '"mine"', 1)
    arch.write_text(text.replace("rows = 16 ", "rows = 8 "))
    result = json.loads(run("tune", model, "--target", str(arch), *QUICK, "--json").stdout)
    assert result["totals"]["arch"] == "mine"
    assert result["totals"]["verified"] is True


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such file"), (b"", "the file is empty"), (b"garbage", "not an ONNX model")]
)
def test_unreadable_model(tmp_path: Path, content: bytes | None, reason: str):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    shown = mistake("tune", str(path))
    assert shown.startswith(f"{path}: ")
    assert reason in shown


def test_unknown_model():
    assert "did you mean 'resnet18'?" in mistake("tune", "resnet81")


def test_dynamic_shape(tmp_path: Path):
    path = two_layers(tmp_path / "dynamic.onnx")
    proto = onnx.load(path)
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[2].dim_param = "rows"
    onnx.save(proto, path)
    assert "--shape x=" in mistake("tune", str(path))
    result = json.loads(run("tune", str(path), "--shape", "x=1,3,14,12", *QUICK, "--json").stdout)
    assert result["tasks"][0]["dims"]["OY"] == 14
    assert mistake("tune", str(path), "--shape", "x=2,three") == (
        "--shape 'x=2,three': expected NAME=1,3,224,224 with whole numbers >= 1 of at most 18 digits"
    )


def test_open_batch(tmp_path: Path):
    path = str(two_layers(tmp_path / "batch.onnx", batch="batch"))
    done = run("tune", path, *QUICK, "--json")
    assert json.loads(done.stdout)["tasks"][0]["dims"]["N"] == 1
    assert "open batch dim of 'x' taken as 1" in done.stderr
    given = json.loads(run("tune", path, "--shape", "x=2,3,12,12", *QUICK, "--json").stdout)
    assert given["tasks"][0]["dims"]["N"] == 2


def test_picture_that_cannot_be_drawn_is_refused_before_tuning(model: str, tmp_path: Path):
    """Refused at once: nothing on stdout, and no work directory begun."""
    workdir = tmp_path / "work"

    def refused(picture: Path, *more: str) -> str:
        return mistake("tune", model, *QUICK, "--workdir", str(workdir), "--plot", str(picture), *more)

    pdf, lost = tmp_path / "plan.pdf", tmp_path / "no" / "plan.svg"
    assert refused(pdf) == f"{pdf}: a picture is an .svg or a .png file"
    assert refused(lost) == f"{lost}: cannot write: no directory {str(lost.parent)!r}"
    said = refused(tmp_path / "plan.svg", "--no-fusion")
    assert said == "--plot draws the layers that run as one; leave out --no-fusion"
    assert not workdir.exists()


SHAPE = ("--K", "16", "--C", "16", "--OY", "8", "--OX", "8", "--FY", "3", "--FX", "3", "--arch", "edge-256")


@pytest.mark.parametrize("option", ["--plot", "--trace"])
def test_files_that_cannot_be_written_are_refused_before_a_search(tmp_path: Path, option: str):
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "file").write_text("kept")
    for path, reason in (
        (tmp_path / "folder.svg", "Is a directory"),
        (tmp_path / "no" / "plan.svg", f"no directory '{tmp_path / 'no'}'"),
        (tmp_path / "file" / "plan.svg", f"no directory '{tmp_path / 'file'}'"),
        (tmp_path / f"{'long' * 80}.svg", "File name too long"),
    ):
        shown = mistake("search", "conv2d", *SHAPE, option, str(path))
        assert shown.startswith(f"{path}: cannot write: {reason}")
    shown = mistake("tune", str(two_layers(tmp_path / "two.onnx")), "--plot", str(tmp_path / "folder.svg"))
    assert shown.startswith(f"{tmp_path / 'folder.svg'}: cannot write: Is a directory")
    assert (tmp_path / "file").read_text() == "kept"


def test_json_is_all_of_stdout_beside_pictures(model: str, tmp_path: Path):
    trace, plot = tmp_path / "trace.json", tmp_path / "plot.svg"
    done = run("search", "conv2d", *SHAPE, "--trace", str(trace), "--plot", str(plot), "--json")
    assert json.loads(done.stdout)["certified"] is True
    assert done.stderr.splitlines()[-2:] == [f"wrote {trace}", f"wrote {plot}"]
    assert json.loads(trace.read_text())["traceEvents"]
    assert "<svg" in plot.read_text()
    plan = tmp_path / "plan.svg"
    done = run("tune", model, "--target", "spm/edge-256", *QUICK, "--plot", str(plan), "--json")
    assert json.loads(done.stdout)["totals"]["verified"] is True
    assert "<svg" in plan.read_text()


def test_zero_channels():
    shape = ("--C", "4", "--OY", "4", "--OX", "4", "--FY", "1", "--FX", "1")
    assert mistake("search", "conv2d", "--K", "0", *shape) == "conv2d: K = 0: must be an integer >= 1"


def test_version():
    assert run("--version").stdout == f"tvm-spm {tvm_spm.__version__}\n"


def test_unknown_searcher_is_answered_with_the_nearest():
    shape = ("--m", "4", "--k", "4", "--n", "4")
    assert mistake("search", "matmul", *shape, "--searcher", "exat") == "unknown searcher 'exat': did you mean 'exact'?"
    assert mistake("search", "matmul", *shape, "--model", "dmazerunner", "--searcher", "random") == (
        "unknown searcher 'random': choose one of 'dmazerunner-pruned', 'exact'"
    )


def test_help_names_every_searcher():
    names = dict.fromkeys([EXACT.name, *SEARCHERS, *PUBLISHED_SEARCHERS])
    for layer in ("conv2d", "matmul"):
        shown = subprocess.run(
            command("search", layer, "--help"), capture_output=True, text=True, check=True,
            env={**os.environ, "COLUMNS": "200"},
        ).stdout  # fmt: skip
        assert f"<{'|'.join(names)}>" in shown


def test_a_search_under_open_pages_says_who_prices():
    layer = ("search", "matmul", "--m", "33", "--k", "16", "--n", "16", "--trials", "16")
    lines = run(*layer, "--arch", "edge-256-ddr4", "--model", "analytical").stdout.splitlines()
    says = [line for line in lines if line.startswith("open pages are priced by the simulator")]
    assert len(says) == 1
    assert "(analytical, a lower bound without what misses of pages cost)" in says[0]
    for others in (("--model", "simulator", "--arch", "edge-256-ddr4"), ("--arch", "edge-256")):
        assert "open pages" not in run(*layer, *others).stdout


def test_search_json():
    found = json.loads(run("search", "conv2d", *SHAPE, "--trials", "2000", "--json").stdout)
    assert found["lower_bound"] <= found["edp_pj_cycles"]
    assert found["gain_over_default"] >= 1
    assert found["model"] == "analytical"


def test_models_lists_the_built_in_networks_and_their_inputs():
    shown = run("models").stdout
    assert "yolov8n" in shown
    assert "data 1,3,640,640" in shown
    listed = {each["name"]: each["inputs"] for each in json.loads(run("models", "--json").stdout)}
    assert listed["gpt2_decode"]["past_key0"] == [1, 12, 1023, 64]


def test_a_dtype_is_for_built_in_networks():
    done = run("tune", "resnet18", "--dtype", "float17", code=2)
    assert done.stderr == "tvm-spm: model 'resnet18': dtype 'float17': did you mean 'float16'?\n"


def test_archs_lists_every_preset_with_sources():
    shown = run("archs").stdout
    assert all(name in shown for name in archs())
    assert "Dave et al. 2019" in run("archs", "edge-256").stdout


def test_search_takes_any_factors_unless_told_otherwise():
    layer = ("search", "conv2d", "--K", "23", "--C", "17", "--OY", "7", "--OX", "5", "--FY", "3", "--FX", "3")
    found, perfect = (
        json.loads(run(*layer, "--arch", "edge-256", "--json", *more).stdout) for more in ((), ("--factors", "perfect"))
    )
    assert found["certified"] is perfect["certified"] is True
    assert "with any factors" in found["space"]
    assert "with perfect factors" in perfect["space"]
    assert found["edp_pj_cycles"] < 0.8 * perfect["edp_pj_cycles"]
    assert found["ended_by"] == perfect["ended_by"] == ""


def test_interrupt_keeps_the_best_so_far(tmp_path: Path):
    """SIGINT in the middle of a search that no proof ends: exit code 0, and a complete, verified result."""
    model, workdir = two_layers(tmp_path / "two.onnx", channels=64), tmp_path / "work"
    process = subprocess.Popen(
        command(
            "tune", str(model), "--target", "spm/edge-256-lpddr4", "--trials", "1000000", "--workdir", str(workdir),
            "--json",
        ),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    log = workdir / "trials.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and len(log.read_bytes().splitlines()) > 20):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert result["totals"]["interrupted"] is True
    assert result["totals"]["verified"] is True
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory that ``tune`` filled."""
    folder = tmp_path_factory.mktemp("tuned")
    run("tune", str(two_layers(folder / "two.onnx")), *QUICK, "--workdir", str(folder / "work"), "--json")
    return folder / "work"


def test_show_explains_one_task(tuned: Path, tmp_path: Path):
    trace, plot = tmp_path / "trace.json", tmp_path / "plot.svg"
    shown = run("show", str(tuned), "--trace", str(trace), "--plot", str(plot)).stdout
    best = json.loads((tuned / "result.json").read_text())["tasks"][0]
    assert f"{best['cycles']:,} cycles" in shown
    assert "RF tile:" in shown
    assert json.loads(trace.read_text())["traceEvents"]
    assert "<svg" in plot.read_text()


def test_show_suggests_the_nearest_task(tuned: Path):
    name = json.loads((tuned / "result.json").read_text())["tasks"][1]["name"]
    assert mistake("show", str(tuned), "--task", name + "x") == f"unknown task '{name}x': did you mean '{name}'?"


def test_show_of_no_work_directory(tmp_path: Path):
    assert mistake("show", str(tmp_path)) == (
        f"{tmp_path / 'trials.jsonl'}: no such log; give a directory that `tune --workdir` filled"
    )


def test_replay_measures_the_same(tuned: Path):
    rows = json.loads(run("replay", str(tuned), "--json").stdout)
    assert [row["same"] for row in rows] == [True, True]


def test_reproduce_suggests_the_nearest_paper():
    assert "did you mean 'dmazerunner'?" in mistake("reproduce", "dmazeruner")


LAYER = ("--K", "16", "--C", "16", "--OY", "8", "--OX", "8", "--FY", "3", "--FX", "3", "--arch", "edge-256")


def test_search_respects_constraints():
    free = json.loads(run("search", "conv2d", *LAYER, "--json").stdout)
    assert free["certified"] is True
    kept = json.loads(run("search", "conv2d", *LAYER, "--dataflow", "OS", "--constraint", "SPM.K=4", "--json").stdout)
    assert kept["certified"] is True
    assert "rows: OY=" in kept["mapping"]
    assert "cols: OX=" in kept["mapping"]
    assert "SPM tile: K=4 " in kept["mapping"]
    assert kept["edp_pj_cycles"] >= free["edp_pj_cycles"]


def test_conflicting_constraints_are_named():
    # 16 output channels over 4 cores leave 4 per core
    layer = (*LAYER[:-1], "quad-edge")
    text = mistake("search", "conv2d", *layer, "--constraint", "SPM.K=16", "--constraint", "cores.K=4", code=1)
    assert "SPM.K=16" in text
    assert "cores.K=4" in text


def test_published_model_on_conv5_2():
    layer = ("--N", "4", "--K", "512", "--C", "512", "--OY", "7", "--OX", "7", "--FY", "3", "--FX", "3")
    options = (
        "--padding",
        "1",
        "--IY",
        "7",
        "--IX",
        "7",
        "--arch",
        "dmazerunner-256",
        "--model",
        "dmazerunner",
        "--json",
    )
    best = json.loads(run("search", "conv2d", *layer, *options).stdout)
    assert best["certified"] is True
    # re-measured on the authors' released tool
    assert best["edp_pj_cycles"] == pytest.approx(6.844957271e15, rel=1e-9)
    pruned = json.loads(run("search", "conv2d", *layer, *options, "--searcher", "dmazerunner-pruned").stdout)
    assert pruned["num_evaluated"] == 753


def test_a_relay_text_with_its_weights(tmp_path: Path):
    """A convolution in NHWC whose weights lie beside the text; what is not given is drawn and said."""
    model, params = tmp_path / "net.relay", tmp_path / "net.npz"
    model.write_text(
        '#[version = "0.0.5"]\n'
        "def @main(%x: Tensor[(1, 6, 6, 3), float32], %w: Tensor[(3, 3, 3, 4), float32], %b: Tensor[(4), float32]) {\n"
        '  %0 = nn.conv2d(%x, %w, padding=[1, 1], data_layout="NHWC", kernel_layout="HWIO") /* span=/c1/Conv:0:0 */;\n'
        "  nn.relu(nn.bias_add(%0, %b, axis=3))\n}\n"
    )
    np.savez(params, **{"param:w": np.ones((3, 3, 3, 4), "float32"), "in:x": np.zeros(3)})
    done = run("tune", str(model), "--params", str(params), "--target", "spm/edge-256", *QUICK, "--json")
    assert json.loads(done.stdout)["totals"]["verified"] is True
    assert "1 weight not given, drawn at random (4 elements): 'b'" in done.stderr
    np.savez(params, w=np.ones((3, 3, 4, 3), "float32"))
    assert "parameter 'w': given float32 (3, 3, 4, 3), declared float32 (3, 3, 3, 4)" in mistake(
        "tune", str(model), "--params", str(params)
    )


def test_a_result_that_stdout_does_not_take_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run(command("archs", "edge-256"), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "tvm-spm: the result cannot be written to stdout: No space left on device\n"


def test_a_perfect_mapping_worse_than_the_default_says_so():
    layer = "conv2d --K 7 --C 13 --OY 17 --OX 19 --FY 5 --FX 3"
    shown = run("search", *layer.split(), "--factors", "perfect").stdout
    assert "worse edp than the default mapping, which is outside of the space searched" in " ".join(shown.split())
