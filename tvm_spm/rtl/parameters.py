"""The numbers of an accelerator as parameters of its hardware: whole numbers, and clocks as ratios of them."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields
from fractions import Fraction

from tvm_spm.arch import Arch
from tvm_spm.pages import Pages
from tvm_spm.rtl.errors import RtlError
from tvm_spm.workload import Operand

MOST_ROWS = 32
"""Rows and columns of PEs at most."""

MOST_SPM_BYTES = 1 << 26
"""Scratchpad at most; a simulation keeps two of them in memory."""

MOST_RF_BYTES = 1 << 12

MOST_LANES = 256
"""Elements that a network, or bytes that the DMA engine, moves in a cycle at most."""

MOST_BANKS = 64

LEAST_KILOCYCLES_PER_S = 12
"""A machine whose simulation is slower is not built."""

_MOST_DENOMINATOR = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Parameters of ``spm_core``, in lower case; see there and in the modules that it hands them to."""

    rows: int
    cols: int
    rf_bytes: int
    spm_bytes: int
    stages: int
    lanes: int
    rate_num: int
    rate_den: int
    port_num: int
    port_den: int
    dma_lanes: int
    cycle_units: int
    start_units: int
    byte_units: int
    burst_bytes: int
    banks: int
    row_bytes: int
    block_bytes: int
    hit_units: int
    miss_units: int
    vector_ops: int
    vector_num: int
    vector_den: int
    launch_cycles: int

    def __str__(self) -> str:
        names = [field.name.upper() for field in fields(self)]
        return ", ".join(f".{name}({value})" for name, value in zip(names, astuple(self), strict=True))


def parameters_of(arch: Arch) -> Parameters:
    """Parameters of one core of an accelerator.

    Raises:
        RtlError: It has several cores, a number that no ratio of small whole numbers is, or is too big to simulate.
    """
    if arch.cores.count != 1:
        raise RtlError(f"{arch.name}: cores.count = {arch.cores.count}: hardware is built of 1 core")
    rate = _ratio(arch, "noc.elems_per_cycle", arch.noc.elems_per_cycle)
    lanes = math.ceil(rate)
    port = arch.levels.SPM.bytes_per_cycle
    shared = Fraction(0) if port is None else _ratio(arch, "levels.SPM.bytes_per_cycle", port)
    bytes_per_cycle = _ratio(arch, "DMA bytes per cycle", arch.dma_bytes_per_cycle)
    startup = _ratio(arch, "DMA start-up cycles", arch.burst_startup_cycles)
    units = math.lcm(bytes_per_cycle.numerator, startup.denominator)
    pages = arch.levels.DRAM.pages or Pages(banks=1, row_bytes=64, miss_cycles=0)
    vector = _ratio(arch, "vector.ops_per_cycle", arch.vector.ops_per_cycle)
    spm = arch.levels.SPM
    spm_bytes = sum(spm.capacity_of(o) for o in Operand) if spm.is_split else spm.capacity_of(Operand.I)
    found = Parameters(
        rows=arch.pe.rows, cols=arch.pe.cols, rf_bytes=max(8, arch.levels.RF.capacity_bytes), spm_bytes=spm_bytes,
        stages=arch.pe.mac_stages, lanes=lanes, rate_num=rate.numerator, rate_den=rate.denominator,
        port_num=shared.numerator, port_den=shared.denominator, dma_lanes=math.ceil(bytes_per_cycle) + 1,
        cycle_units=units, start_units=int(startup * units), byte_units=int(units / bytes_per_cycle),
        burst_bytes=arch.levels.DRAM.burst_bytes, banks=0 if arch.levels.DRAM.pages is None else pages.banks,
        row_bytes=pages.row_bytes, block_bytes=pages.block_bytes, hit_units=pages.hit_cycles * units,
        miss_units=(pages.miss_cycles - pages.hit_cycles) * units, vector_ops=math.ceil(vector),
        vector_num=vector.numerator, vector_den=vector.denominator, launch_cycles=arch.cores.launch_cycles,
    )  # fmt: skip
    for path, value, most in (
        ("pe.rows", found.rows, MOST_ROWS), ("pe.cols", found.cols, MOST_ROWS),
        ("levels.RF.capacity_bytes", found.rf_bytes, MOST_RF_BYTES),
        ("levels.SPM.capacity_bytes", found.spm_bytes, MOST_SPM_BYTES),
        ("noc.elems_per_cycle", found.lanes, MOST_LANES), ("DMA bytes per cycle", found.dma_lanes - 1, MOST_LANES),
        ("vector.ops_per_cycle", found.vector_ops, MOST_LANES), ("pe.mac_stages", found.stages, 16),
        ("levels.DRAM.pages.banks", found.banks, MOST_BANKS),
    ):  # fmt: skip
        if value > most:
            raise RtlError(f"{arch.name}: {path} = {value:,}: hardware is simulated up to {most:,}")
    speed = kilocycles_per_s(found.rows, found.cols, found.lanes)
    if speed < LEAST_KILOCYCLES_PER_S:
        fits = max(
            lanes
            for lanes in range(1, found.lanes)
            if lanes == 1 or kilocycles_per_s(found.rows, found.cols, lanes) >= LEAST_KILOCYCLES_PER_S
        )
        raise RtlError(
            f"{arch.name}: {found.rows} x {found.cols} PEs with networks of {found.lanes} elements a cycle: about "
            f"{speed:.1f} kcycles/s, must be >= {LEAST_KILOCYCLES_PER_S}; noc.elems_per_cycle <= {fits} fits"
        )
    return found


def kilocycles_per_s(rows: int, cols: int, lanes: int) -> float:
    """About how fast a machine is simulated while all its PEs and networks work, on one core of 2020."""
    return 1e3 / (0.7 + 0.002 * rows * cols + 0.1 * lanes + 0.004 * lanes * (rows + cols))


def _ratio(arch: Arch, what: str, value: float) -> Fraction:
    found = Fraction(value).limit_denominator(_MOST_DENOMINATOR)
    if float(found) != value:
        raise RtlError(
            f"{arch.name}: {what} = {value!r}: no ratio of whole numbers with a denominator <= {_MOST_DENOMINATOR:,}; "
            f"{float(found)!r} is the nearest"
        )
    return found
