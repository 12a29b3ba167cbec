"""Five small machines that are built as hardware, thirty small layers, and where hardware cannot keep to the rule."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from tvm_spm.arch import Arch, parse_arch
from tvm_spm.stream.instructions import DimSetup, NestSetup, RunPass, Stream
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Workload

_TEXT = """
name = "{name}"
description = "small enough to simulate in a blink"
clock_hz = 100e6
word_bits = 16
[cores]
count = {cores}
launch_cycles = {launch}
[pe]
rows = {rows}
cols = {cols}
mac_stages = 1
[mac]
op_pj = 0.1
[levels.RF]
capacity_bytes = {rf}
access_pj = 1.0
fill_pj = 0.5
[levels.SPM]
capacity_bytes = {spm}
bank_bytes = {bank}
access_pj = 10.0
[levels.DRAM]
access_pj = 200.0
channels = 1
channel_bytes_per_cycle = {rate}
burst_bytes = {burst}
{pages}
[noc]
elems_per_cycle = {noc}
elem_pj = 2.0
delivery_pj = 0.5
reduction_hop_pj = 1.0
[dma]
clock_hz = 100e6
startup_cycles = {startup}
cycles_per_byte = {per_byte}
[vector]
ops_per_cycle = {vector}
op_pj = 0.1
"""

_NUMBERS = {
    "rows": 2, "cols": 2, "rf": 64, "spm": 1024, "bank": 16, "noc": 1, "rate": 4.0, "burst": 1, "startup": 3,
    "per_byte": 0.25, "vector": 8, "launch": 0, "cores": 1,
}  # fmt: skip


def machine(name: str, **numbers: float | str) -> Arch:
    """A machine of 2x2 PEs, but for what is given."""
    return parse_arch(machine_text(name, **numbers), origin=f"{name}.toml")


def machine_text(name: str, **numbers: float | str) -> str:
    """The file of a machine."""
    pages = f"[levels.DRAM.pages]\n{numbers.pop('pages')}" if "pages" in numbers else ""
    return _TEXT.format(name=name, pages=pages, **{**_NUMBERS, **numbers})


SMALLEST = machine("two")
PAGED = (
    machine("paged", pages="banks = 2\nrow_bytes = 64\nmiss_cycles = 9"),
    machine("turns", rate=5.0, per_byte=0.2, burst=8, startup=2.5,
            pages="banks = 4\nrow_bytes = 32\ninterleave_bytes = 8\nhit_cycles = 2\nmiss_cycles = 5"),
)  # fmt: skip
"""With a DRAM whose banks are so few and rows so short that small layers miss and hit."""

MACHINES = (
    SMALLEST,
    machine("four", rows=4, cols=4, rf=128, spm=4096, bank=64, noc=2, rate=8.0, per_byte=0.125, burst=8, startup=10,
            vector=8, launch=7),
    machine("wide", cols=8, rf=96, spm=2048, bank=32, noc=4, rate=2.0, per_byte=0.5, startup=0, vector=4),
    machine("tall", rows=8, cols=4, rf=256, spm=8192, bank=128, noc=3, rate=5.0, per_byte=0.2, burst=16, startup=2.5,
            vector=16, launch=1),
    machine("slow", rows=3, cols=5, rf=80, spm=3072, bank=1, noc=0.75, rate=6.4, per_byte=0.15625, burst=4,
            startup=7.25, vector=1.5),
)  # fmt: skip

_conv, _matmul = Workload.conv2d, Workload.matmul
_I8, _I16 = {"dtype": "int8", "out_dtype": "int32"}, {"dtype": "int16", "out_dtype": "int32"}

LAYERS = (
    _matmul(m=3, k=4, n=5, **_I8),
    _matmul(m=8, k=8, n=8, **_I8),
    _matmul(m=7, k=13, n=5, **_I8),
    _matmul(m=1, k=16, n=12, **_I8),
    _matmul(m=6, k=5, n=4, batch=3, **_I8),
    _matmul(m=5, k=9, n=7, transposed_weight=True, **_I16),
    _matmul(m=4, k=6, n=10, dtype="int16"),
    _matmul(m=12, k=3, n=12, **_I8),
    _conv(K=4, C=3, OY=5, OX=5, FY=3, FX=3, padding=1, **_I8),
    _conv(K=4, C=4, OY=4, OX=4, FY=3, FX=3, stride=2, **_I8),
    _conv(K=3, C=2, OY=4, OX=5, FY=3, FX=3, dilation=2, padding=2, **_I8),
    _conv(K=6, C=6, OY=4, OX=4, FY=3, FX=3, padding=1, groups=6, **_I8),
    _conv(K=8, C=4, OY=3, OX=3, FY=1, FX=1, groups=2, **_I8),
    _conv(K=6, C=6, OY=5, OX=3, FY=3, FX=1, groups=3, padding=(1, 0), **_I8),
    _conv(K=5, C=3, OY=6, OX=6, FY=1, FX=1, **_I8),
    _conv(K=2, C=3, OY=3, OX=7, FY=2, FX=5, **_I8),
    _conv(N=2, K=3, C=4, OY=3, OX=3, FY=3, FX=3, padding=1, **_I8),
    _conv(K=4, C=3, OY=5, OX=5, FY=3, FX=3, padding=1, layout="NHWC", **_I8),
    _conv(K=4, C=4, OY=3, OX=4, FY=3, FX=3, stride=(2, 1), padding=(1, 1, 0, 2), layout="NHWC", **_I16),
    _conv(K=8, C=8, OY=4, OX=4, FY=3, FX=3, padding=1, groups=8, stride=2, **_I8),
    _conv(K=4, C=2, OY=4, OX=4, FY=5, FX=5, padding=2, **_I8),
    _conv(K=3, C=5, OY=2, OX=9, FY=1, FX=3, stride=3, **_I8),
    _conv(K=7, C=5, OY=3, OX=3, FY=3, FX=3, dilation=(1, 2), stride=(2, 1), padding=1, **_I8),
    _conv(K=4, C=8, OY=2, OX=2, FY=2, FX=2, padding=1, **_I8),
    _conv(K=16, C=4, OY=2, OX=2, FY=1, FX=1, **_I8),
    _conv(K=4, C=4, OY=7, OX=7, FY=3, FX=3, padding=1, dtype="int8"),
    _conv(K=6, C=4, OY=3, OX=3, FY=3, FX=3, groups=2, padding=1, layout="NHWC", **_I8),
    _conv(K=1, C=1, OY=10, OX=10, FY=3, FX=3, padding=1, **_I8),
    _conv(K=10, C=2, OY=1, OX=6, FY=1, FX=4, padding=(0, 2), **_I16),
    _conv(K=3, C=7, OY=5, OX=2, FY=3, FX=2, stride=2, padding=(2, 1), **_I8),
)


class _Step(NamedTuple):
    """Index of an array tile per dim, and its size."""

    index: tuple[int, ...]
    size: tuple[int, ...]


_SUMMED = tuple(DIM_NAMES.index(name) for name in REDUCTION_DIMS)


def sums_collide(stream: Stream) -> bool:
    """Whether double-buffered sums are timed as read back where hardware cannot read them yet.

    Either the tile that leaves is the next one too, or the next tile goes into the buffer of the one before the last,
    and is the longer one along one dim and the shorter one along another, so that it comes to places still to be read.
    """
    nest = next(each for each in stream.instructions if isinstance(each, NestSetup))
    dims = {each.dim: each for each in stream.instructions if isinstance(each, DimSetup)}
    runs = {(each.counts, each.lasts, each.reads_o) for each in stream.instructions if isinstance(each, RunPass)}
    return bool(nest.rf_double[2]) and any(_collide(nest, dims, *run) for run in runs)


def _collide(
    nest: NestSetup, dims: dict[str, DimSetup], counts: tuple[int, ...], lasts: tuple[int, ...], reads: int
) -> bool:
    loops = [DIM_NAMES.index(name) for name in nest.loops]
    steps = []
    for at in product(*(range(counts[d]) for d in loops)):
        index = [0] * len(DIM_NAMES)
        for d, value in zip(loops, at, strict=True):
            index[d] = value
        size = [lasts[d] if index[d] == counts[d] - 1 else dims[name].array for d, name in enumerate(DIM_NAMES)]
        steps.append(_Step(tuple(index), tuple(size)))
    moves = [
        min(place for place, d in enumerate(loops) if a.index[d] != b.index[d]) < nest.depths[2]
        for a, b in zip(steps, steps[1:], strict=False)
    ]
    for at, moved in enumerate(moves):
        now, following = _outputs(steps[at]), _outputs(steps[at + 1])
        if not moved or not (reads or any(steps[at + 1].index[d] for d in _SUMMED)):
            continue
        if now == following:
            return True
        if at and moves[at - 1]:
            before = _outputs(steps[at - 1])
            pairs = list(zip(before.size, following.size, strict=True))
            if before != following and any(a < b for a, b in pairs) and any(a > b for a, b in pairs):
                return True
    return False


def _outputs(step: _Step) -> _Step:
    kept = [d for d in range(len(DIM_NAMES)) if d not in _SUMMED]
    return _Step(tuple(step.index[d] for d in kept), tuple(step.size[d] for d in kept))
