"""Kill a tune of a small network with SIGKILL at random moments, continue it, and compare with one never killed.

    python -m tests.kills             # 50 kills
    python -m tests.kills --kills 5 --seed 1

A directory is continued, and killed again, until a run in it gets to its end; then the next directory begins.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.end_to_end.test_cli import two_layers
from tvm_spm.tuning.run_log import OWNER_NAME
from tvm_spm.tuning.saved_run import LOG_NAME

TRIALS = 40


def start(model: Path, workdir: Path) -> subprocess.Popen[str]:
    """The command line, as a user starts it."""
    command = ["tune", str(model), "--target", "edge-256", "--trials", str(TRIALS), "--workdir", str(workdir), "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "tvm_spm", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    """The result of a run, without its wall time."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return without_time(json.loads(out))


def without_time(result: dict[str, object]) -> dict[str, object]:
    totals = result["totals"]
    assert isinstance(totals, dict)
    return {**result, "totals": {name: value for name, value in totals.items() if name != "seconds"}}


def content(workdir: Path) -> dict[str, bytes]:
    """All files; the wall times in the result and the number of the process are no part of it."""
    found = {path.name: path.read_bytes() for path in sorted(workdir.iterdir()) if path.name != OWNER_NAME}
    found["result.json"] = json.dumps(without_time(json.loads(found["result.json"]))).encode()
    return found


def main() -> None:
    """Kill, continue, compare; print how often and where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = two_layers(folder / "two.onnx")
        finish(start(model, folder / "compiles"))
        began = time.monotonic()
        wanted = finish(start(model, folder / "undisturbed"))
        seconds = time.monotonic() - began
        expected = content(folder / "undisturbed")
        num_lines = expected[LOG_NAME].count(b"\n")
        num_kills, num_directories, places = 0, 0, Counter[str]()
        workdir = folder / "0"
        while True:
            process = start(model, workdir)
            try:
                process.wait(rng.uniform(0, seconds) if num_kills < options.kills else 600)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                num_kills += 1
                log = workdir / LOG_NAME
                left = log.read_bytes() if log.exists() else b""
                assert expected[LOG_NAME].startswith(left), (
                    f"kill {num_kills}: the log is no beginning of the whole one"
                )
                lines = left.count(b"\n")
                places["before the log" if not lines else "with a whole log" if lines == num_lines else "amid"] += 1
                continue
            assert finish(process) == wanted, f"after {num_kills} kills: another result"
            assert content(workdir) == expected, f"after {num_kills} kills: other files"
            num_directories += 1
            workdir = folder / str(num_directories)
            if num_kills >= options.kills:
                break
    where = ", ".join(f"{count} {place}" for place, count in places.items())
    sys.stdout.write(
        f"{num_kills} SIGKILLs ({where}) in {num_directories} directories; each continued run ended with the files and "
        f"the result of one never killed ({num_lines} log lines, {seconds:.1f} s)\n"
    )


if __name__ == "__main__":
    main()
