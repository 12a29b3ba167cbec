"""Rows of long benchmarks are kept, and the processes that make them end with the benchmark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from kept_rows import read_rows, with_rows


def test_a_new_row_takes_the_place_of_the_older_ones_of_its_kind(tmp_path: Path):
    path = tmp_path / "rows.csv"
    assert read_rows(path).empty
    rows = with_rows(path, read_rows(path), [{"network": "a", "edp": 1}, {"network": "b", "edp": 2}], ["network"])
    rows = with_rows(path, rows, [{"network": "b", "edp": 3, "part": 1}, {"network": "b", "edp": 4}], ["network"])
    assert rows[["network", "edp"]].values.tolist() == [["a", 1], ["b", 3], ["b", 4]]
    pd.testing.assert_frame_equal(read_rows(path), rows)
    pd.testing.assert_frame_equal(with_rows(path, rows, [], ["network"]), rows)


def test_the_process_of_a_row_ends_with_its_benchmark(tmp_path: Path):
    script, pid = tmp_path / "bench.py", tmp_path / "pid"
    script.write_text(
        f"import os, pathlib, time\nfrom kept_rows import made_apart\n"
        f"def make(path):\n    pathlib.Path(path).write_text(str(os.getpid()))\n    time.sleep(60)\n    return {{}}\n"
        f"if __name__ == '__main__':\n    made_apart(make, {str(pid)!r})\n",
        encoding="utf-8",
    )
    folder = Path(sys.modules["kept_rows"].__file__ or "").parent
    bench = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(folder)})
    try:
        deadline = time.monotonic() + 60
        while not (pid.exists() and pid.read_text(encoding="utf-8")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(30) == 128 + signal.SIGTERM
    finally:
        bench.kill()
    child = int(pid.read_text(encoding="utf-8"))
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_row_that_fails_ends_the_benchmark(tmp_path: Path):
    script = tmp_path / "bench.py"
    script.write_text(
        "from kept_rows import made_apart\ndef make(rows):\n    return {'rows': 1 / rows}\n"
        "if __name__ == '__main__':\n    print(made_apart(make, 2))\n    made_apart(make, 0)\n",
        encoding="utf-8",
    )
    folder = Path(sys.modules["kept_rows"].__file__ or "").parent
    env = {**os.environ, "PYTHONPATH": str(folder)}
    run = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, check=False)
    assert run.stdout == "{'rows': 0.5}\n"
    assert run.returncode == 1
    assert "ZeroDivisionError" in run.stderr
    assert "the process that made a row ended with exit code 1" in run.stderr
