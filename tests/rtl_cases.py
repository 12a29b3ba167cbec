"""Small machines that are built as hardware, and thirty small layers."""

from __future__ import annotations

from tvm_spm.arch import Arch, parse_arch
from tvm_spm.workload import Workload

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
mac_stages = {stages}
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
{port}
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
    "per_byte": 0.25, "vector": 8, "launch": 0, "cores": 1, "stages": 1, "port": "",
}  # fmt: skip


def machine(name: str, **numbers: float | str) -> Arch:
    """A machine of 2x2 PEs, but for what is given."""
    return parse_arch(machine_text(name, **numbers), origin=f"{name}.toml")


def machine_text(name: str, **numbers: float | str) -> str:
    """The file of a machine."""
    pages = f"[levels.DRAM.pages]\n{numbers.pop('pages')}" if "pages" in numbers else ""
    return _TEXT.format(name=name, pages=pages, **{**_NUMBERS, **numbers})


SMALLEST = machine("two")
DEEP = machine("deep", rows=3, cols=2, rf=96, spm=2048, noc=1.5, stages=3, vector=0.75)
PORT = machine("port", rows=2, cols=3, rf=96, spm=2048, noc=2, stages=2, port="bytes_per_cycle = 2.5", vector=1)
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
    machine("wide", cols=8, rf=96, spm=2048, bank=32, noc=4, rate=2.0, per_byte=0.5, startup=0, vector=4,
            port="bytes_per_cycle = 6"),
    machine("tall", rows=8, cols=4, rf=256, spm=8192, bank=128, noc=3, rate=5.0, per_byte=0.2, burst=16, startup=2.5,
            vector=16, launch=1, stages=3),
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
