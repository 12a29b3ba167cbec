"""Runs cases in a worker process of their kind; one that hangs or dies is replaced, and its case is a finding."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.fuzz.outcome import CRASH, REFUSED, RIGHT, TIMEOUT, Finding, Tally

KINDS = ("mapping_texts", "arch_files", "log_lines", "onnx_bytes", "onnx_graphs", "relay_texts", "command_lines")

LIMIT_S = {"command_lines": 60.0, "onnx_graphs": 60.0}
"""Seconds a case may take; generous, since the machine may be busy."""

DEFAULT_LIMIT_S = 30.0
START_S = 300.0
ROOT = Path(__file__).parents[2]


class Worker:
    """One process that serves cases of one kind."""

    def __init__(self, kind: str) -> None:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", kind],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        )
        if self._answer(START_S) is None:
            raise RuntimeError(f"the worker for {kind} does not start: {self.last_words()}")

    def ask(self, index: int, limit_s: float) -> list[str]:
        """The outcome of a case, and what is wrong; the worker is gone after ``TIMEOUT`` and ``CRASH``."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{index}\n".encode())
        self._process.stdin.flush()
        answer = self._answer(limit_s)
        if answer is not None:
            return [str(part) for part in answer]
        is_running = self._process.poll() is None
        words = self.last_words()
        self.close()
        return [TIMEOUT, f"more than {limit_s:g} s"] if is_running else [CRASH, words]

    def last_words(self) -> str:
        """The end of what the process wrote to stderr, and how it ended."""
        self._errors.seek(max(0, os.fstat(self._errors.fileno()).st_size - 2000))
        return f"exit code {self._process.poll()}: {self._errors.read().decode(errors='replace')}"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass

    def _answer(self, limit_s: float) -> list[object] | None:
        """One line as data; None if none comes in time or the process ends."""
        assert self._process.stdout is not None
        descriptor, line, until = self._process.stdout.fileno(), b"", time.monotonic() + limit_s
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
            part = os.read(descriptor, 1 << 16) if ready else b""
            if not part:
                if ready:
                    self._process.wait()
                return None
            line += part
        found = json.loads(line)
        return found if isinstance(found, list) else [found]


def fuzz(kind: str, indices: Iterable[int]) -> Tally:
    """Run cases by their numbers."""
    tally, start, worker = Tally(kind=kind), time.monotonic(), None
    limit_s = LIMIT_S.get(kind, DEFAULT_LIMIT_S)
    try:
        for index in indices:
            worker = Worker(kind) if worker is None else worker
            outcome, text = worker.ask(index, limit_s)
            tally.counts[outcome] += 1
            if outcome not in (RIGHT, REFUSED):
                tally.findings.append(Finding(kind=kind, index=index, outcome=outcome, text=text))
            if outcome in (TIMEOUT, CRASH):
                worker = None
    finally:
        if worker is not None:
            worker.close()
    tally.seconds = time.monotonic() - start
    return tally
