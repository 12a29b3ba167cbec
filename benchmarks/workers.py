"""Measurements a second with 1, 2 and 4 workers, some of which are killed.

Source: ours. A measurer waits 0.2 s and then says what the simulator of another machine says (``edge-256`` with a DMA
start-up of 198 cycles). Workers are processes (``ProcessWorkers``), or those of a Dask cluster on this machine. In runs
that are ``killed`` one of them gets SIGKILL every 1.5 seconds. Two parts:

- ``measure``: 96 mappings of one layer; ``a_second`` is 5 at most for one worker.
- ``tune``: all convolutions of ResNet-18, 12 trials a task: the search as ``tvm_spm.tune`` runs it, without
  verification; fits, screens and (without other workers) exact searches take this process' time.

``same`` says whether answers, or the log of trials byte by byte, equal those of one after the other. Compiled
code and the start of processes do not count. Expected time: six minutes on a quiet machine.

    python benchmarks/workers.py [--part P ...] [--who W ...] [--workers N ...] [--trials N] [--csv FILE] [--quick]
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cost_model.simulator import simulate_batch
from tvm_spm import frontend
from tvm_spm.arch import Arch, load_arch
from tvm_spm.objective import Objective
from tvm_spm.space.mapping_batch import decode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.tuning.log_lines import RunStart
from tvm_spm.tuning.measurer import Measurement, MeasureRequest, identity_of
from tvm_spm.tuning.measuring import measure_in_order
from tvm_spm.tuning.options import TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.run_log import RunLog
from tvm_spm.tuning.task_memory import key_of
from tvm_spm.tuning.tasks import tune_tasks
from tvm_spm.tuning.trial_log import read_log
from tvm_spm.workers import ProcessWorkers, Workers
from tvm_spm.workload import Workload

DECLARED = load_arch("edge-256")
BUILT = replace(DECLARED, dma=replace(DECLARED.dma, startup_cycles=198.0))
SECONDS, KILL_EVERY_S = 0.2, 1.5
MODEL = "resnet18"
LAYER = Workload.conv2d(K=64, C=64, OY=56, OX=56, FY=3, FX=3, padding=1)

Row = dict[str, object]


@dataclass(frozen=True)
class Board:
    """Waits, and answers."""

    built: Arch = BUILT
    seconds: float = SECONDS
    name: str = "board"

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        """One mapping after the other."""
        found = []
        for each in requests:
            (cost,) = simulate_batch(each.workload, self.built, [each.mapping])
            time.sleep(self.seconds)
            found.append(Measurement(cycles=cost.cycles))
        return found


@contextmanager
def nobody(number: int) -> Iterator[tuple[Executor | None, Callable[[], list[int]]]]:
    """One after the other, in this process."""
    yield None, list


@contextmanager
def processes(number: int) -> Iterator[tuple[Executor, Callable[[], list[int]]]]:
    """Processes of our own."""
    with ProcessWorkers(number) as executor:
        yield executor, executor.pids


@contextmanager
def dask(number: int) -> Iterator[tuple[Executor, Callable[[], list[int]]]]:
    """A cluster on this machine."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=number, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        yield client.get_executor(pure=False), lambda: [worker.pid for worker in cluster.workers.values()]


WHO = {"nobody": nobody, "processes": processes, "dask": dask}


def measure(workers: Workers, measurer: Board, extraction: frontend.Extraction, trials: int) -> tuple[int, bytes]:
    """Measure mappings of one layer; how many, and the answers."""
    space = MapSpace(workload=LAYER, arch=DECLARED)
    batch = space.sample(np.random.default_rng(0), 20 * 8 * trials)
    batch = batch.take(np.flatnonzero(space.check(batch) == 0)[: 8 * trials])
    requests = [
        MeasureRequest(workload=LAYER, arch=DECLARED, mapping=decode(batch, row)) for row in range(batch.num_mappings)
    ]
    found = [str(answer) for each in measure_in_order(requests, measurer, workers) for _, answer in each]
    return len(found), "\n".join(found).encode()


def tune(workers: Workers, measurer: Board, extraction: frontend.Extraction, trials: int) -> tuple[int, bytes]:
    """Tune a network; how many measurements, and the log."""
    tasks = [each for each in extraction.graph.tasks if isinstance(each.work, Workload)]
    start = RunStart(
        model=MODEL, model_sha256="", objective="edp", seed=0, measurer=identity_of(measurer),
        tasks=tuple((each.name, key_of(each.work), each.work) for each in tasks),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = Run(measurer=measurer, workers=workers, log=RunLog(Path(folder), DECLARED, start))
        tune_tasks(extraction, DECLARED, Objective.EDP, TunerOptions(trials=trials), run)
        path = Path(folder) / "trials.jsonl"
        return len(read_log(path).trials), path.read_bytes()


PARTS = {"measure": measure, "tune": tune}


def one_run(part: str, who: str, number: int, extraction: frontend.Extraction, trials: int, *, kills: bool) -> Row:
    """One row."""
    with WHO[who](number) as (executor, pids):
        workers = Workers(executor)
        # Processes load compiled code before the clock starts.
        list(workers.in_order(_warm_up, [()] * 2 * number))
        ended, killed = threading.Event(), 0

        def kill() -> None:
            nonlocal killed
            while not ended.wait(KILL_EVERY_S):
                if alive := pids():
                    os.kill(random.Random(killed).choice(alive), signal.SIGKILL)
                    killed += 1

        killer = threading.Thread(target=kill)
        if kills:
            killer.start()
        begin = time.monotonic()
        measured, content = PARTS[part](workers, Board(), extraction, trials)
        seconds = time.monotonic() - begin
        ended.set()
        if kills:
            killer.join()
    return {
        "part": part, "who": who, "workers": number, "killed": killed, "measured": measured,
        "seconds": round(seconds, 1), "a_second": round(measured / seconds, 2),
        "answers": hashlib.sha256(content).hexdigest()[:12],
    }  # fmt: skip


def _warm_up() -> None:
    mapping = MapSpace(workload=LAYER, arch=DECLARED).require_default()
    Board().measure([MeasureRequest(workload=LAYER, arch=DECLARED, mapping=mapping)])


def main() -> None:
    """Print a row a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--who", nargs="+", choices=["processes", "dask"], default=["processes", "dask"])
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--quick", action="store_true", help="four trials, two workers")
    options = parser.parse_args()
    trials, numbers = (4, [2]) if options.quick else (options.trials, options.workers)
    extraction = frontend.extract(frontend.load_model(MODEL))
    rows: list[Row] = []
    for part in options.part:
        runs = [("nobody", 1, False)]
        for who in options.who:
            runs += [(who, number, False) for number in numbers] + [(who, max(numbers), True)]
        first = None
        for who, number, kills in runs:
            row = one_run(part, who, number, extraction, trials, kills=kills)
            first = first or row["answers"]
            row["same"] = row["answers"] == first
            rows.append(row)
            print(" | ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if options.csv is not None:
        with options.csv.open("w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)


if __name__ == "__main__":
    main()
