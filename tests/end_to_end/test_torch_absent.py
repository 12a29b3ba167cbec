"""PyTorch is optional: nothing loads it before it is needed, and who needs it is told how to install it."""

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


def test_where_it_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    path = tmp_path / "model.pt2"
    path.write_bytes(b"PK")
    with pytest.raises(tvm_spm.SpmError, match=r'model.pt2: .* install it with: pip install "tvm-spm\[torch\]"'):
        tvm_spm.tune(path, "spm/edge-256")
