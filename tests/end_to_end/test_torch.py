"""Networks of PyTorch, tuned and verified, through the library and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tvm
from typer.testing import CliRunner

import tvm_spm
from tests.torch_networks import CASES, leaves, made, torch
from tvm_spm.cli import app

TARGET = "spm/edge-256"
TUNED = ("resnet", "encoder layer", "block, keys chosen", "llama, decode, mask", "lstm")


@pytest.mark.parametrize("name", TUNED)
def test_tuned_network(name: str):
    module, inputs = made(name)
    result = tvm_spm.tune(module, TARGET, example_inputs=inputs, trials=1)
    assert result.verified is True
    assert [call.name for call in result.host_calls if "a view" not in call.reason] == []
    # An attention runs as one, with neighbours where the plan gains by it.
    attentions = [group.names for group in result.groups if any("softmax" in layer for layer in group.names)]
    assert len(attentions) == CASES[name].attentions
    assert all(sum("matmul" in layer for layer in names) >= 2 for names in attentions)
    machine = tvm.relax.VirtualMachine(result.build(), tvm.cpu())
    output = machine["main"](*(tvm.runtime.tensor(tensor.numpy()) for tensor in leaves(inputs)))
    found = [output] if isinstance(output, tvm.runtime.Tensor) else list(output)
    with torch.no_grad():
        expected = leaves(module(*inputs))
    for actual, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(actual.numpy(), right.numpy(), rtol=16 * 2**-23, atol=16 * 2**-23)


def test_saved_program_on_the_command_line(tmp_path: Path):
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(8, 4), (torch.zeros(3, 8),)), path)
    found = CliRunner().invoke(app, ["tune", str(path), "--target", TARGET, "--trials", "1", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["totals"]["verified"] is True
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(tvm_spm.SpmError, match="not a program of torch.export.save, or cut short"):
        CliRunner().invoke(app, ["tune", str(path), "--target", TARGET], catch_exceptions=False)
