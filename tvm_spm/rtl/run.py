"""Programs on simulated hardware: a memory image in, the same image afterwards, and what the hardware counted."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tvm_spm.arch import Arch
from tvm_spm.rtl.build import build
from tvm_spm.rtl.errors import RtlError
from tvm_spm.rtl.parameters import parameters_of
from tvm_spm.rtl.words import CoreProgram, core_program
from tvm_spm.stream.instructions import Stream

MOST_CYCLES = 1_000_000_000
_COUNTERS = 4 + 5 + 5 + 1 + 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RtlRun:
    """What the hardware did.

    Attributes:
        image: The DRAM afterwards.
        cycles: From the start to the last store.
        pass_cycles: The array's, per pass.
        slot_cycles: Per slot, the one before the first pass first.
        crossed: Elements between SPM and the array: I, W, sums in, sums out.
        heard: Arrivals of I and W at PEs.
        moved: Elements between DRAM and SPM: I, W, partial sums, finished outputs, extras.
        pad_bytes: Of the same, moved only because bursts are whole.
        macs: Multiplications.
        wall_s: Seconds that the simulation took.
    """

    image: NDArray[np.uint8]
    cycles: int
    pass_cycles: tuple[int, ...]
    slot_cycles: tuple[int, ...]
    crossed: tuple[int, ...]
    heard: tuple[int, ...]
    moved: tuple[int, ...]
    pad_bytes: tuple[int, ...]
    macs: int
    wall_s: float

    @property
    def cycles_per_s(self) -> float:
        """Cycles simulated in a second, the start of the simulator included."""
        return self.cycles / self.wall_s


def run_stream(stream: Stream, arch: Arch, image: NDArray[np.uint8], *, most_cycles: int = MOST_CYCLES) -> RtlRun:
    """Execute the stream of one layer.

    Args:
        stream: Of the only core.
        arch: The accelerator; its simulator is compiled if nobody has.
        image: DRAM before; not changed.
        most_cycles: The run is refused if it takes more.

    Raises:
        RtlError: See ``parameters_of``, ``core_program`` and ``build``; or the image is too small.
    """
    simulator = build(parameters_of(arch))
    return run_program(core_program(stream, arch), simulator, image, most_cycles=most_cycles)


def run_program(
    program: CoreProgram, simulator: Path, image: NDArray[np.uint8], *, most_cycles: int = MOST_CYCLES
) -> RtlRun:
    """Execute a program on a compiled simulator; see ``run_stream``."""
    if len(image) < program.dram_bytes:
        raise RtlError(f"memory image of {len(image):,} B: the program needs >= {program.dram_bytes:,} B")
    head = [len(program.registers), len(program.passes), len(program.transfers), len(image)]
    fed = b"".join(
        (
            np.array(head, "<u4").tobytes(), np.array([most_cycles], "<u8").tobytes(),
            program.registers.astype("<u4").tobytes(), program.passes.astype("<u4").tobytes(),
            program.transfers.astype("<u4").tobytes(), image.tobytes(),
        )
    )  # fmt: skip
    began = time.perf_counter()
    done = subprocess.run([simulator], input=fed, capture_output=True, check=False)
    wall_s = time.perf_counter() - began
    if done.returncode:
        raise RtlError(f"simulator {simulator} ended with code {done.returncode}: {done.stderr.decode()[-500:]}")
    ended = int(np.frombuffer(done.stdout, "<u4", 1)[0])
    numbers = np.frombuffer(done.stdout, "<u8", 1 + _COUNTERS + 2 * head[1] + 1, offset=4).tolist()
    if not ended:
        raise RtlError(
            f"program of {head[1]:,} passes is not done after {numbers[0]:,} cycles: must be <= {most_cycles:,}"
        )
    counts, passes = numbers[1 : 1 + _COUNTERS], numbers[1 + _COUNTERS :]
    return RtlRun(
        image=np.frombuffer(done.stdout, np.uint8, len(image), offset=4 + 8 * len(numbers)).copy(),
        cycles=numbers[0],
        pass_cycles=tuple(passes[: head[1]]),
        slot_cycles=tuple(passes[head[1] :]),
        crossed=tuple(counts[:4]),
        heard=tuple(counts[15:17]),
        moved=tuple(counts[4:9]),
        pad_bytes=tuple(counts[9:14]),
        macs=counts[14],
        wall_s=wall_s,
    )
