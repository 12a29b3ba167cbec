"""Small workloads, machines and mappings for tests of the map space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from tvm_spm.arch import Arch, SplitBytes, load_arch
from tvm_spm.mapping import Mapping
from tvm_spm.space.constraints import Constraints
from tvm_spm.workload import DIM_NAMES, Dims, Operand, Workload

EDGE = load_arch("edge-256")


def small_arch(
    *, cores: int = 1, rows: int = 2, cols: int = 2, rf: int = 512, spm: int | SplitBytes = 1 << 17, bank: int = 16
) -> Arch:
    """``edge-256`` with other sizes."""
    return replace(
        EDGE,
        cores=replace(EDGE.cores, count=cores),
        pe=replace(EDGE.pe, rows=rows, cols=cols),
        levels=replace(
            EDGE.levels,
            RF=replace(EDGE.levels.RF, capacity_bytes=rf),
            SPM=replace(EDGE.levels.SPM, capacity_bytes=spm, bank_bytes=bank),
        ),
    )


@st.composite
def workloads(draw: st.DrawFn, *, most: int = 12) -> Workload:
    """Convolutions of every kind, and matmuls."""
    extent = st.integers(1, most)
    if draw(st.booleans()):
        return Workload.matmul(m=draw(extent), k=draw(extent), n=draw(extent), batch=draw(st.integers(1, 3)))
    groups = draw(st.integers(1, 3))
    return Workload.conv2d(
        N=draw(st.integers(1, 2)), K=groups * draw(extent), C=groups * draw(extent), OY=draw(extent), OX=draw(extent),
        FY=draw(st.integers(1, 3)), FX=draw(st.integers(1, 3)), stride=draw(st.integers(1, 3)), groups=groups,
        dilation=draw(st.integers(1, 2)), dtype=draw(st.sampled_from(["int8", "int16", "float32"])),
        layout=draw(st.sampled_from(["NCHW", "NHWC"])), out_dtype=draw(st.sampled_from([None, "int32"])),
    )  # fmt: skip


@st.composite
def machines(draw: st.DrawFn) -> Arch:
    """Machines so small that every limit matters."""
    spm: int | SplitBytes = draw(st.integers(12, 4000))
    if draw(st.booleans()):
        spm = SplitBytes(**{operand.name: draw(st.integers(8, 2000)) for operand in Operand})
    return small_arch(
        cores=draw(st.integers(1, 6)), rows=draw(st.integers(1, 6)), cols=draw(st.integers(1, 6)),
        rf=draw(st.integers(6, 200)), spm=spm, bank=draw(st.sampled_from([1, 4, 16])),
    )  # fmt: skip


def any_mapping(rng: np.random.Generator, workload: Workload) -> Mapping:
    """Numbers without any regard for the rules, near the extents so that some are kept."""

    def dims(share: float) -> Dims:
        return Dims.of(
            [int(rng.integers(1, extent + 2)) if rng.random() < share else 1 for extent in workload.dims]
        )  # fmt: skip

    def order() -> tuple[str, ...]:
        names = rng.permutation(DIM_NAMES)
        return tuple(str(name) for name in names[: 8 if rng.random() < 0.8 else int(rng.integers(0, 9))])

    def operands() -> tuple[Operand, ...]:
        return tuple(operand for operand in Operand if rng.random() < 0.4)

    return Mapping(
        cores=dims(0.1), spm=dims(0.8), rows=dims(0.1), cols=dims(0.1), rf=dims(0.3), dram_order=order(),
        spm_order=order(), spm_double=operands(), rf_double=operands(), spill=bool(rng.random() < 0.3),
    )  # fmt: skip


def satisfies(constraints: Constraints, mapping: Mapping, workload: Workload) -> bool:
    """Whether a mapping keeps to every clause; says nothing about legality."""
    dram, inner = mapping.dram_factors(workload.dims), mapping.spm_factors()
    numbers = {
        "cores": mapping.cores, "DRAM": dram, "SPM": mapping.spm, "rows": mapping.rows, "cols": mapping.cols,
        "RF": mapping.rf,
    }  # fmt: skip
    for level, dim, low, high in constraints.bounds(workload.dims):
        if not low <= numbers[level][dim] <= high:
            return False
    loops = {
        "DRAM": [name for name in mapping.dram_order if dram[name] > 1],
        "SPM": [name for name in mapping.spm_order if inner[name] > 1],
    }
    for level, outside, inside in constraints.loop_pairs():
        order = loops[level]
        if outside in order and inside in order and order.index(outside) > order.index(inside):
            return False
    doubled = {"SPM": mapping.spm_double, "RF": mapping.rf_double}
    return all(constraints.double_buffers(level) in (None, operands) for level, operands in doubled.items())
