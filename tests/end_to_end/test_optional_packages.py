"""PyTorch and jaxlib are optional: nothing loads them before they are needed, and who needs them is told so."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import tvm_spm


def test_nothing_loads_pytorch():
    # TVM itself loads PyTorch where it is installed.
    code = "import sys, tvm_spm, tvm_spm.cli; tvm_spm.tune; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("model.pt2", "torch", "torch"), ("model.mlir", "jaxlib", "stablehlo")]
)
def test_where_it_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda each, *rest: None if each == package else find(each, *rest))
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(tvm_spm.SpmError, match=rf'{name}: .* install it with: pip install "tvm-spm\[{extra}\]"'):
        tvm_spm.tune(tmp_path / name, "spm/edge-256")
