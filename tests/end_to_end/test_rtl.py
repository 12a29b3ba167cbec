"""A small network is tuned with hardware as the measurer: what a user with RTL of their own does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from tests.rtl_cases import machine_text
from tvm_spm.cli import app


@pytest.mark.skipif(shutil.which("verilator") is None, reason="VERILATOR IS NOT INSTALLED: nothing measures")
def test_tune_measures_on_hardware(tmp_path):
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in (("w", (4, 3, 3, 3)), ("b", (4,)))
    ]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1] * 4), helper.make_node("Relu", ["y"], ["z"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 6, 6))],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 4, 6, 6))],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "t.onnx")
    (tmp_path / "two.toml").write_text(machine_text("two"))
    command = ["tune", str(tmp_path / "t.onnx"), "--target", str(tmp_path / "two.toml"), "--trials", "4", "--json"]
    by = {}
    for who in ("rtl", "simulator"):
        done = CliRunner().invoke(app, [*command, "--measurer", who, "--no-fusion"])
        assert done.exit_code == 0, done.output
        by[who] = json.loads(done.stdout)
    # the certified mapping is the best for both, and takes as long on either
    assert by["rtl"]["totals"]["verified"] is True
    assert by["rtl"]["totals"]["cycles"] == by["simulator"]["totals"]["cycles"]


def test_hardware_that_is_too_big_is_refused_before_the_search(tmp_path):
    done = CliRunner().invoke(app, ["rtl", "quad-edge", "-o", str(tmp_path)])
    assert "quad-edge: cores.count = 4: hardware is built of 1 core" in str(done.exception)
