"""Break the disk at every step of a small run, and see that nothing is lost.

    python -m tests.faults            # every write, fsync, rename, ... of the run, four kinds of fault each
    python -m tests.faults --every 25 # only each 25th

Each point is one run that breaks there and one that continues in the same directory. What must hold: after the break
the log is a beginning of the log of an undisturbed run; a full disk is one sentence; after the continuation every file
holds the same bytes, and the result is the same.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

from tvm_spm import durable
from tvm_spm.arch import load_arch
from tvm_spm.cost import Cost, Energy
from tvm_spm.errors import WorkdirError
from tvm_spm.result import SearchResult
from tvm_spm.space.case import Case
from tvm_spm.tuning.log_lines import RunStart
from tvm_spm.tuning.measurer import MeasureError, Measurement, MeasureRequest, identity_of
from tvm_spm.tuning.options import TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.run_log import OWNER_NAME, RunLog, own
from tvm_spm.tuning.saved_run import LOG_NAME, SavedGroup, save_last_run, save_plan
from tvm_spm.tuning.task import tune_workload
from tvm_spm.tuning.task_memory import key_of
from tvm_spm.workload import Workload

KINDS = ("full", "killed", "torn", "exit")
"""``full``: from here on no space is left. ``killed``: nothing reaches the disk any more, as an exception. ``torn``:
the same, after half of a write. ``exit``: a process of its own ends here at once, after half of a write."""

EXIT_CODE = 86
STEPS = ("open", "write", "fsync", "replace", "ftruncate", "unlink", "mkdir")


_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tvm_spm.tuning.run_log", "tvm_spm.tuning.task"])


class Killed(BaseException):
    """Stands for SIGKILL: nobody can catch it and write something after it."""


class FaultyOs:
    """The module ``os`` as ``durable`` sees it: counts the steps that change the disk, and breaks at one of them."""

    def __init__(self, point: int | None = None, kind: str = "") -> None:
        self.point, self.kind, self.num_steps = point, kind, 0
        self.seen: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._watched(name, real) if name in STEPS else real

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments)
            at, self.num_steps = self.num_steps, self.num_steps + 1
            self.seen[name] += 1
            if self.point is None or at < self.point:
                return real(*arguments)
            if self.kind == "full":
                if name in ("ftruncate", "unlink"):
                    return real(*arguments)
                if name == "write" and at == self.point and len(arguments[1]) > 1:
                    # The last bytes that fit; the next write gets the error.
                    return real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if at == self.point and self.kind in ("torn", "exit") and name == "write":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            if self.kind == "exit":
                os._exit(EXIT_CODE)
            raise Killed

        return step


@contextmanager
def faulty(point: int | None = None, kind: str = "") -> Iterator[FaultyOs]:
    """Let every durable write go through a breaking disk."""
    fake = FaultyOs(point, kind)
    real: ModuleType = durable.os
    durable.os = fake  # type: ignore[assignment]
    try:
        yield fake
    finally:
        durable.os = real


@dataclass(frozen=True)
class Board:
    """Answers one by one, from the mapping alone; some mappings fail, always the same ones."""

    name: str = "board"
    batch_size: int = 1

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        (request,) = requests
        number = sum(request.mapping.line().encode())
        if number % 7 == 0:
            raise MeasureError(f"no answer to {number}")
        cycles, energy = request.workload.macs + number, Energy(mac_pj=float(number))
        cost = Cost(
            cycles=cycles, energy=energy, model=self.name, macs=request.workload.macs, utilization=0.5,
            compute_cycles=cycles, noc_stall_cycles=0, dma_stall_cycles=0, overhead_cycles=0, dram_bytes=(1, 1, 1, 0),
            dma_busy_cycles=1,
        )  # fmt: skip
        return [Measurement(cycles=cycles, cost=cost)]


ARCH = load_arch("edge-256")
WORKLOADS = (Workload.matmul(m=8, k=16, n=32), Workload.conv2d(K=8, C=4, OY=6, OX=6, FY=3, FX=3))
TASKS = tuple((workload.kind, key_of(workload), workload) for workload in WORKLOADS)
OPTIONS = TunerOptions(trials=66, batch=32, population=40, generations=1, patience=8, exact_steps=2, min_to_rank=99)
RANKED = replace(OPTIONS, min_to_rank=16)
"""With a learned order of the second batch; only for the last task, as fitting takes most of the time of a run."""


def small_run(workdir: Path) -> list[SearchResult]:
    """Two small layers on a board that fails at times, with all that a work directory holds but TVM's database."""
    with own(workdir):
        start = RunStart(
            model="small", model_sha256="00", objective="edp", seed=3, measurer=identity_of(Board()), tasks=TASKS
        )
        run = Run(seed=3, log=RunLog(workdir, ARCH, start), measurer=Board())
        save_last_run(workdir, ARCH, start)
        outcomes = [
            tune_workload(
                Case(workload=workload, arch=ARCH), RANKED if workload == WORKLOADS[-1] else OPTIONS, run
            )
            for workload in WORKLOADS
        ]  # fmt: skip
        groups = [
            SavedGroup(layers=(name,), num_cores=1, mapping=outcome.mapping.line(),
                       cycles=outcome.cost.cycles, energy_pj=outcome.cost.energy_pj)
            for (name, _, _), outcome in zip(TASKS, outcomes, strict=True)
        ]  # fmt: skip
        save_plan(workdir, groups)
        durable.write_file(workdir / "result.json", json.dumps([str(each.cost) for each in outcomes]).encode())
    return outcomes


def content(workdir: Path) -> dict[str, bytes]:
    """All files but the one that names the process."""
    return {path.name: path.read_bytes() for path in sorted(workdir.iterdir()) if path.name != OWNER_NAME}


def break_run(workdir: Path, point: int, kind: str) -> None:
    """One run that breaks at a step; says so if it does not break as it must."""
    if kind == "exit":
        # Not a fork of this process: libraries with threads of their own would wait for them forever.
        child = _PROCESSES.Process(target=_run_to_its_end, args=(workdir, point))
        child.start()
        child.join(60)
        assert child.exitcode == EXIT_CODE, f"step {point}: exit code {child.exitcode}"
        return
    with faulty(point, kind):
        try:
            small_run(workdir)
        except Killed:
            assert kind in ("killed", "torn")
        except WorkdirError as error:
            assert kind == "full"
            said = str(error)
            assert "No space left on device; free some space and run the same command again" in said
            assert "\n" not in said
        else:
            raise AssertionError(f"step {point}, {kind}: the run did not break")


def _run_to_its_end(workdir: Path, point: int) -> None:
    with faulty(point, "exit"):
        small_run(workdir)


def check_point(folder: Path, point: int, kind: str, expected: dict[str, bytes], wanted: list[SearchResult]) -> None:
    """Break, look, continue, compare."""
    workdir = folder / f"{kind}-{point}"
    break_run(workdir, point, kind)
    log = workdir / LOG_NAME
    if log.exists():
        left = log.read_bytes()
        assert expected[LOG_NAME].startswith(left), f"step {point}, {kind}: the log is no beginning of the whole one"
        assert kind in ("torn", "exit") or left.endswith(b"\n"), f"step {point}, {kind}: a line is cut"
    assert small_run(workdir) == wanted, f"step {point}, {kind}: another result"
    assert content(workdir) == expected, f"step {point}, {kind}: other files"


def undisturbed(folder: Path) -> tuple[FaultyOs, dict[str, bytes], list[SearchResult]]:
    """The steps, files and result of a run that nothing breaks."""
    with faulty() as disk:
        outcomes = small_run(folder / "undisturbed")
    return disk, content(folder / "undisturbed"), outcomes


def main() -> None:
    """Try all points and print how many there were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="only each so many-th step")
    parser.add_argument("--exit-every", type=int, default=3, help="the same for processes, which take a second each")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # of cut lines, which are what is asked for
    started = time.monotonic()
    # Memory is enough: what reaches a disk is counted, not how long that takes.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as temporary:
        folder = Path(temporary)
        disk, expected, wanted = undisturbed(folder)
        counts: Counter[str] = Counter()
        for kind in options.kinds:
            for point in range(0, disk.num_steps, options.every * (options.exit_every if kind == "exit" else 1)):
                check_point(folder, point, kind, expected, wanted)
                shutil.rmtree(folder / f"{kind}-{point}")
                counts[kind] += 1
    steps = ", ".join(f"{count} {name}" for name, count in sorted(disk.seen.items()))
    sys.stdout.write(
        f"{disk.num_steps} steps ({steps}); {counts.total():,} faults "
        f"({', '.join(f'{count} {kind}' for kind, count in counts.items())}); after each the continued run wrote the "
        f"same bytes and gave the same result; "
        f"{time.monotonic() - started:.0f} s\n"
    )


if __name__ == "__main__":
    main()
