"""What ``export`` writes runs: read back from the directory alone, streams compute the network layer by layer."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tvm import relax
from typer.testing import CliRunner

import tvm_spm
from tests.numeric.fused import network as relax_network
from tvm_spm.cli import app
from tvm_spm.errors import NoMappingError, SpmError, WorkdirError
from tvm_spm.frontend.inputs import random_inputs
from tvm_spm.objective import Objective
from tvm_spm.stream.binary import from_bytes, to_bytes
from tvm_spm.stream.interpret import interpret
from tvm_spm.stream.text import from_text
from tvm_spm.tuning.export import export_workdir


def network(channels: int = 8) -> onnx.ModelProto:
    """Convolution, bias, relu, then twice the same depthwise convolution, each with weights; small whole numbers."""
    rng = np.random.default_rng(0)

    def whole(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.integers(-3, 4, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1], group=channels),
        helper.make_node("Conv", ["c", "w3"], ["y"], pads=[1, 1, 1, 1], group=channels),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, 6, 7])],
        [
            whole("w1", channels, 3, 3, 3), whole("b1", channels), whole("w2", channels, 1, 3, 3),
            whole("w3", channels, 1, 3, 3),
        ],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tvm_spm.TuningResult]:
    """A directory with the model, its work directory and the export of the result; and the result."""
    path = tmp_path_factory.mktemp("export")
    onnx.save(network(), path / "net.onnx")
    result = tvm_spm.tune(path / "net.onnx", "quad-edge", trials=2, fusion=False, workdir=path / "work")
    result.export(path / "out")
    return path, result


def run_exported(layer: Path, call: int, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Execute one exported layer, from its files alone."""
    memory = json.loads((layer / "memory.json").read_text())
    places = {region["name"]: region for region in memory["regions"]}
    image = bytearray(memory["bytes"])
    packed = json.loads((layer / "constants.json").read_text())[call]
    data = (layer / packed["file"]).read_bytes()
    for segment in packed["segments"]:
        part = data[segment["offset"] : segment["offset"] + segment["bytes"]]
        image[segment["address"] : segment["address"] + segment["bytes"]] = part
        assert places[segment["region"]]["comes_from"][call] == "constant"
    for name, tensor in inputs.items():
        place, part = places[name], np.ascontiguousarray(tensor).tobytes()
        assert place["bytes"] == len(part)
        image[place["address"] : place["address"] + len(part)] = part
    cores = [from_bytes(path.read_bytes()) for path in sorted(layer.glob("core*.bin"))]
    assert cores == [from_text(path.read_text()) for path in sorted(layer.glob("core*.txt"))]
    interpret(cores, image)
    out = places["O"]
    return np.frombuffer(image, out["dtype"], out["bytes"] // 4, out["address"]).reshape(out["shape"])


def test_an_exported_network_computes_the_network(tuned: tuple[Path, tvm_spm.TuningResult]):
    path, _ = tuned
    first, second = sorted(each for each in (path / "out").iterdir() if each.is_dir())
    data = np.random.default_rng(1).integers(-3, 4, (1, 3, 6, 7)).astype(np.float32)
    values = run_exported(first, 0, {"I": data})
    for call in (0, 1):
        values = run_exported(second, call, {"I": values})
    np.testing.assert_array_equal(values, ReferenceEvaluator(network()).run(None, {"x": data})[0])


def test_program_is_what_is_exported(tuned: tuple[Path, tvm_spm.TuningResult]):
    path, result = tuned
    names = [each.task.name for each in result.tasks]
    for name, layer in zip(names, sorted(each for each in (path / "out").iterdir() if each.is_dir()), strict=True):
        streams = result.program(name).streams
        assert [to_bytes(each) for each in streams] == [
            (layer / f"core{number}.bin").read_bytes() for number in range(len(streams))
        ]
        assert name in layer.name
    with pytest.raises(SpmError, match=f"unknown task 'conv': did you mean '{names[-1]}'"):
        result.program("conv")


def test_export_of_a_work_directory_is_the_same(tuned: tuple[Path, tvm_spm.TuningResult], tmp_path: Path):
    path, result = tuned
    shown = CliRunner().invoke(app, ["export", str(path / "work"), "-o", str(tmp_path / "again")])
    assert shown.exit_code == 0, shown.output
    found, expected = (
        {each.relative_to(base): each.read_bytes() for each in base.rglob("*") if each.is_file()}
        for base in (tmp_path / "again", path / "out")
    )
    assert found == expected
    num_cores = max(len(result.program(each.task.name).streams) for each in result.tasks)
    assert num_cores > 1
    assert {each.name for each in found} == {
        "README.md", "spm_stream.h", "core0.bin", "core0.txt", "memory.json", "memory.h", "constants.json", "call0.bin",
        "call1.bin",
    } | {f"core{number}.{end}" for number in range(1, num_cores) for end in ("bin", "txt")}  # fmt: skip


def test_an_export_does_not_mix_with_another(tuned: tuple[Path, tvm_spm.TuningResult], tmp_path: Path):
    _, result = tuned
    out = tmp_path / "out"
    first = result.export(out).directories[0]
    (out / "notes.txt").write_text("mine")
    (out / "00-mine").mkdir()
    result.export(out)
    for left, what in ((first / "core9.bin", "core9.bin"), (out / "07-old", "07-old")):
        left.mkdir()
        (left / "memory.json").write_text("{}")
        before = (out / "README.md").stat().st_mtime_ns
        with pytest.raises(SpmError, match=rf"{what} is of another export and would stay; remove it or choose"):
            result.export(out)
        assert (out / "README.md").stat().st_mtime_ns == before
        (left / "memory.json").unlink()
        left.rmdir()


def test_weights_without_numbers_are_drawn_and_layers_in_groups_are_marked(tmp_path: Path):
    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        first = builder.emit(relax.op.nn.relu(builder.emit(relax.op.nn.conv2d(p[0], p[1], padding=1))))
        return builder.emit(relax.op.nn.conv2d(first, p[2], padding=1))

    mod = relax_network([((1, 4, 8, 8), "float32"), ((6, 4, 3, 3), "float32"), ((5, 6, 3, 3), "float32")], body)
    mod["main"] = mod["main"].with_attr("num_input", 1)
    result = tvm_spm.tune(mod, "edge-256", trials=2)
    assert [len(group.layers) for group in result.plan_groups()] == [2]
    layers = result.export(tmp_path / "out").directories
    drawn = random_inputs(mod, np.random.default_rng(0))
    for layer, number in zip(layers, (1, 2), strict=True):
        memory = json.loads((layer / "memory.json").read_text())
        weight = next(region for region in memory["regions"] if region["name"] == "W")
        assert weight["comes_from"] == [f"drawn for parameter p{number} of the network, seed 0"]
        assert (layer / "call0.bin").read_bytes() == drawn[number].tobytes()
        assert memory["runs_inside_groups"] == [" > ".join(result.plan_groups()[0].layers)]
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Weights for which the network holds no numbers were drawn" in text
    assert text.count(" > ".join(result.plan_groups()[0].layers)) == 2


def test_what_cannot_be_exported(tuned: tuple[Path, tvm_spm.TuningResult], tmp_path: Path):
    path, _ = tuned
    edp = Objective.EDP
    with pytest.raises(WorkdirError, match="no such log; give a directory that `tune --workdir` filled"):
        export_workdir(tmp_path, tmp_path / "out", objective=edp)
    with pytest.raises(SpmError, match="unknown task 'x': choose one of"):
        export_workdir(path / "work", tmp_path / "out", objective=edp, task="x")
    with pytest.raises(SpmError, match="missing.onnx"):
        export_workdir(path / "work", tmp_path / "out", objective=edp, model=str(path / "missing.onnx"))
    with pytest.raises(WorkdirError, match=r"net\.onnx: cannot write streams: not a directory; choose another one"):
        export_workdir(path / "work", path / "net.onnx", objective=edp)
    onnx.save(network(channels=4), tmp_path / "other.onnx")
    with pytest.raises(SpmError, match=r"other\.onnx: its task \w+ is not the one that was tuned"):
        export_workdir(path / "work", tmp_path / "out", objective=edp, model=str(tmp_path / "other.onnx"))
    content = json.loads((path / "work" / "workloads.json").read_text())
    copy = tmp_path / "copy"
    shutil.copytree(path / "work", copy)
    (copy / "workloads.json").write_text(json.dumps(content | {"source": None}))
    with pytest.raises(WorkdirError, match=r"does not say where the network is.*give --model, or use TuningResult"):
        export_workdir(copy, tmp_path / "out", objective=edp)
    assert export_workdir(copy, tmp_path / "out", objective=edp, model=str(path / "net.onnx")).left_out == ()


def test_a_network_without_streams_says_why(tuned: tuple[Path, tvm_spm.TuningResult], monkeypatch: pytest.MonkeyPatch):
    _, result = tuned
    monkeypatch.setattr("tvm_spm.stream.encode.streams.MOST_INSTRUCTIONS", 1)
    with pytest.raises(NoMappingError, match="nothing to export: .* passes, each of 2 or more instructions: a stream"):
        result.export("never")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_c_program_reads_a_stream_with_the_header(tuned: tuple[Path, tvm_spm.TuningResult], tmp_path: Path):
    path, result = tuned
    (tmp_path / "walk.c").write_text(
        """
#include <stdint.h>
#include <stdio.h>
#include "spm_stream.h"
_Static_assert(SPM_LOAD_WORDS == 31, "words of a load");
int main(int argc, char **argv) {
    static uint32_t words[1 << 16];
    FILE *file = fopen(argv[1], "rb");
    size_t num_words = fread(words, 4, 1 << 16, file), at = SPM_HEAD_WORDS;
    if (words[0] != SPM_MAGIC || words[1] != SPM_VERSION || words[5] != num_words) return 1;
    for (; at < num_words; at += SPM_NUM_WORDS(words + at)) {
        const uint32_t *w = words + at;
        if (SPM_OPCODE(w) == SPM_LOAD)
            printf("load %u %u %u\\n", SPM_FIELD(w, SPM_LOAD_OPERAND), SPM_FIELD(w, SPM_LOAD_DRAM),
                   SPM_FIELD_AT(w, SPM_LOAD_COUNTS, SPM_LOAD_COUNTS_MOST - 1));
        if (SPM_OPCODE(w) == SPM_RUN)
            printf("run %u %u\\n", SPM_FIELD(w, SPM_RUN_NUMBER), SPM_FIELD_AT(w, SPM_RUN_LASTS, SPM_DIM_OX));
        if (SPM_OPCODE(w) == SPM_NEST) printf("nest %u\\n", SPM_FIELD_AT(w, SPM_NEST_DTYPES, 3));
    }
    return at != num_words;
}
"""
    )
    subprocess.run(["cc", "-Wall", "-Werror", f"-I{path / 'out'}", "-o", "walk", "walk.c"], cwd=tmp_path, check=True)
    layer = sorted(path.glob("out/00*/core0.bin"))[0]
    shown = subprocess.run([tmp_path / "walk", layer], capture_output=True, text=True, check=True).stdout
    expected = []
    for each in from_bytes(layer.read_bytes()).instructions:
        match type(each).__name__:
            case "LoadTile":
                expected.append(f"load {'IWO'.index(each.operand)} {each.dram} {each.counts[-1]}")
            case "RunPass":
                expected.append(f"run {each.number} {each.lasts[5]}")
            case "NestSetup":
                expected.append("nest 8")  # float32
    assert shown.splitlines() == expected
    header = [str(each) for each in path.glob("out/*/memory.h")]
    for each in header:
        subprocess.run(["cc", "-fsyntax-only", "-x", "c", "-Werror", each], check=True)
    assert len(header) == len(result.tasks)
