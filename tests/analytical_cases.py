"""Random small layers, accelerators and mappings for tests of the analytical model; capacities are not looked at."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from tvm_spm.arch import Arch, load_arch
from tvm_spm.mapping import Mapping
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Axis, Dims, Epilogue, Operand, Projection, Workload


def draw(rng: Generator, *choices: object) -> object:
    return choices[int(rng.integers(len(choices)))]


def draw_workload(rng: Generator, *, most: int = 6) -> Workload:
    """A convolution or matmul with at most ``most`` elements per dim, often padded, strided, dilated or grouped."""
    if rng.random() < 0.2:
        m, k, n = (int(rng.integers(1, 2 * most)) for _ in range(3))
        workload = Workload.matmul(m=m, k=k, n=n, batch=int(rng.integers(1, 3)), dtype="int8", out_dtype="int32")
    else:
        groups = int(draw(rng, 1, 1, 1, 2, 3))
        channels = 1 if groups == 3 else int(rng.integers(1, most + 1))
        workload = Workload.conv2d(
            N=int(draw(rng, 1, 1, 2)),
            K=groups * int(rng.integers(1, most + 1)),
            C=groups * channels,
            OY=int(rng.integers(1, most + 1)),
            OX=int(rng.integers(1, most + 1)),
            FY=int(rng.integers(1, 4)),
            FX=int(rng.integers(1, 4)),
            stride=int(draw(rng, 1, 1, 2, 3)),
            dilation=int(draw(rng, 1, 1, 2)),
            padding=(0, 0, 0, 0) if rng.random() < 0.3 else tuple(int(p) for p in rng.integers(0, 4, 4)),
            groups=groups,
            dtype=str(draw(rng, "int16", "int8", "int4")),
            out_dtype=str(draw(rng, "int16", "int32")),
            layout=str(draw(rng, "NCHW", "NHWC")),
        )
    if rng.random() < 0.4:
        bias = Projection(axes=tuple(a for a in workload.O.axes if "K" in dict(a.terms)), dtype="int32")
        residual = replace(workload.O, dtype="int8")
        extras = (bias, residual)[: int(rng.integers(1, 3))]
        workload = replace(workload, out_dtype="int8", epilogue=Epilogue(num_ops_per_elem=2, extras=extras))
    return workload


def draw_arch(rng: Generator, *, cores: int = 1) -> Arch:
    """A preset's kind of machine with small and odd numbers."""
    arch = load_arch(str(draw(rng, "edge-256", "dmazerunner-256", "vta-1x16x16")))
    spm = replace(arch.levels.SPM, bytes_per_cycle=draw(rng, None, 3.0, 8.0))
    dram = replace(arch.levels.DRAM, channels=int(draw(rng, 1, 2)))
    return replace(
        arch,
        cores=replace(arch.cores, count=cores, launch_cycles=int(draw(rng, 0, 7))),
        pe=replace(arch.pe, mac_stages=int(draw(rng, 1, 3))),
        noc=replace(arch.noc, elems_per_cycle=float(draw(rng, 1.0, 1.5, 4.0)), elem_pj=1.25, delivery_pj=0.5),
        dma=replace(
            arch.dma, startup_cycles=float(draw(rng, 0, 10, 60)), cycles_per_byte=float(draw(rng, 0.1, 1.0, 4.0))
        ),
        levels=replace(arch.levels, SPM=spm, DRAM=replace(dram, burst_bytes=int(draw(rng, 1, 1, 8, 64)))),
    )


def draw_tile(rng: Generator, outer: int, *, perfect: bool) -> int:
    """A tile of ``outer`` elements, rather the whole than one of any other."""
    tiles = [t for t in range(1, outer + 1) if not perfect or outer % t == 0]
    return outer if rng.random() < 0.25 else int(draw(rng, *tiles))


def draw_mapping(
    rng: Generator, workload: Workload, *, perfect: bool = False, cores: int = 1, max_pes: int = 8
) -> Mapping:
    """A mapping that is legal but for capacities; ``spill`` wherever the order needs it."""
    core_factor, spm, rows, cols, rf = (dict.fromkeys(DIM_NAMES, 1) for _ in range(5))
    left, row_room, col_room = cores, max_pes, max_pes
    for name in rng.permutation(DIM_NAMES):
        extent = workload.dims[name]
        if name not in REDUCTION_DIMS:
            legal = [f for f in range(1, min(extent, left) + 1) if ceil_div(extent, ceil_div(extent, f)) == f]
            core_factor[name] = int(draw(rng, *[f for f in legal if not perfect or extent % f == 0]))
            left //= core_factor[name]
        spm[name] = draw_tile(rng, ceil_div(extent, core_factor[name]), perfect=perfect)
        rf[name] = draw_tile(rng, draw_tile(rng, spm[name], perfect=perfect), perfect=perfect)
        pes = ceil_div(spm[name], rf[name])
        rows[name] = int(draw(rng, *[f for f in range(1, min(pes, row_room) + 1) if not perfect or pes % f == 0]))
        row_room //= rows[name]
        rest = pes // rows[name]
        cols[name] = int(draw(rng, *[f for f in range(1, min(rest, col_room) + 1) if not perfect or rest % f == 0]))
        col_room //= cols[name]
    mapping = Mapping(
        **{k: Dims(**v) for k, v in {"cores": core_factor, "spm": spm, "rows": rows, "cols": cols, "rf": rf}.items()},
        dram_order=tuple(str(d) for d in rng.permutation(DIM_NAMES)),
        spm_order=tuple(str(d) for d in rng.permutation(DIM_NAMES)),
        spm_double=tuple(x for x in Operand if rng.random() < 0.5),
        rf_double=tuple(x for x in Operand if rng.random() < 0.5),
    )
    return replace(mapping, spill=evicts_partial_sums(workload, mapping))


def evicts_partial_sums(workload: Workload, mapping: Mapping) -> bool:
    """Whether a reduction loop lies outside a loop over outputs at DRAM."""
    factors = mapping.dram_factors(workload.dims)
    loops = [name for name in mapping.dram_order if factors[name] > 1]
    innermost = max((i for i, name in enumerate(loops) if name in workload.O.relevant_dims), default=-1)
    return any(name in REDUCTION_DIMS for name in loops[: innermost + 1])


def num_steps(workload: Workload, mapping: Mapping) -> int:
    """Steps of a full core, a bound on the work of a literal walk."""
    return math.prod(mapping.dram_factors(workload.dims)) * math.prod(mapping.spm_factors())


def draw_case(
    seed: int, *, perfect: bool = False, cores: int = 1, most: int = 6, max_steps: int = 600
) -> tuple[Workload, Arch, Mapping]:
    """A layer, a machine, and a mapping with few enough steps to walk."""
    rng = np.random.default_rng(seed)
    while True:
        workload, arch = draw_workload(rng, most=most), draw_arch(rng, cores=cores)
        mapping = draw_mapping(rng, workload, perfect=perfect, cores=cores)
        if num_steps(workload, mapping) * math.prod(mapping.cores) <= max_steps:
            return workload, arch, mapping


__all__ = ["Axis", "draw_case", "draw_mapping", "draw_workload", "evicts_partial_sums", "num_steps"]
