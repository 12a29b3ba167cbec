"""Small random layers, machines and mappings for tests of the simulator; capacities are not looked at."""

from __future__ import annotations

import random
from dataclasses import replace

from tvm_spm.arch import Arch, Cores, Dram, Levels, load_arch
from tvm_spm.mapping import Mapping
from tvm_spm.pages import Pages
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Axis, Dims, Epilogue, Operand, Projection, Workload


def random_workload(rng: random.Random, *, small: bool = True) -> Workload:
    """A convolution or matmul with odd extents, stride, dilation, padding, groups, both layouts, and an epilogue."""
    top = 7 if small else 13
    if rng.random() < 0.2:
        work = Workload.matmul(
            m=rng.randint(1, top), k=rng.randint(1, top), n=rng.randint(1, top), batch=rng.choice([1, 1, 2, 3]),
            transposed_weight=rng.random() < 0.5, dtype=rng.choice(["int8", "int16"]), out_dtype="int32",
        )  # fmt: skip
    else:
        groups = rng.choice([1, 1, 1, 2, 3])
        taps = rng.randint(1, 3), rng.randint(1, 3)
        work = Workload.conv2d(
            N=rng.randint(1, 2), K=groups * rng.randint(1, 4), C=groups * rng.randint(1, 4), FY=taps[0], FX=taps[1],
            OY=rng.randint(1, top), OX=rng.randint(1, top), stride=rng.choice([1, 1, 2]),
            dilation=rng.choice([1, 1, 2]), padding=rng.choice([0, 0, min(1, min(taps) - 1)]), groups=groups,
            layout=rng.choice(["NCHW", "NHWC"]), dtype=rng.choice(["int8", "int16"]),
            out_dtype=rng.choice([None, "int32"]),
        )  # fmt: skip
    if rng.random() < 0.4:
        return work
    bias = Projection(axes=(Axis(terms=(("K", 1),), extent=work.dims.K),), dtype="int32")
    extras = rng.choice([(), (bias,), (bias, work.final_projection())])
    epilogue = Epilogue(num_ops_per_elem=rng.choice([0, 1, 3, 40]), extras=extras)
    return replace(work, epilogue=epilogue, out_dtype=rng.choice(["int8", "int16", work.out_dtype]))


def random_arch(rng: random.Random, *, num_cores: int = 1, num_channels: int = 1) -> Arch:
    """A preset with other core, channel, port, pipeline and launch numbers."""
    arch = load_arch(rng.choice(["dmazerunner-256", "edge-256", "eyeriss-168", "vta-1x16x16"]))
    dram, spm = arch.levels.DRAM, arch.levels.SPM
    return replace(
        arch,
        cores=Cores(count=num_cores, launch_cycles=rng.choice([0, 17])),
        pe=replace(arch.pe, mac_stages=rng.choice([1, 3])),
        noc=replace(arch.noc, elems_per_cycle=rng.choice([1.0, 2.5, 8.0])),
        vector=replace(arch.vector, ops_per_cycle=rng.choice([1.0, 3.0])),
        levels=Levels(
            RF=arch.levels.RF,
            SPM=replace(spm, bytes_per_cycle=rng.choice([None, 1.5, 8.0])),
            DRAM=Dram(
                access_pj=dram.access_pj,
                channels=num_channels,
                channel_bytes_per_cycle=rng.choice([1.0, 7.3, 25.6]),
                burst_bytes=rng.choice([1, 1, 8, 64]),
            ),  # fmt: skip
        ),
    )


def with_pages(rng: random.Random, arch: Arch) -> Arch:
    """The same machine with banks so few and rows so short that small layers miss, and hit, in all of them."""
    dram = arch.levels.DRAM
    block = max(rng.choice([8, 16, 64, 256]), dram.burst_bytes)
    pages = Pages(
        banks=rng.choice([1, 2, 4, 8]), row_bytes=block * rng.choice([1, 1, 2, 8]),
        interleave_bytes=block, hit_cycles=rng.choice([0, 0, 3]), miss_cycles=rng.choice([3, 14, 40]),
    )  # fmt: skip
    return replace(arch, levels=replace(arch.levels, DRAM=replace(dram, pages=pages)))


def random_mapping(rng: random.Random, workload: Workload, arch: Arch, *, perfect: bool = False) -> Mapping:
    """Tiles, orders, unrolling and buffering at random; legal but for capacities."""
    extents = workload.dims
    left = {"cores": arch.cores.count, "rows": min(arch.pe.rows, 4), "cols": min(arch.pe.cols, 4)}
    picked: dict[str, dict[str, int]] = {name: {} for name in ("cores", "rows", "cols", "spm", "rf")}
    for d in rng.sample(DIM_NAMES, len(DIM_NAMES)):
        factors = [f for f in range(1, left["cores"] + 1) if _fills(extents[d], f, perfect)]
        cores = 1 if d in REDUCTION_DIMS else rng.choice(factors)
        left["cores"] //= cores
        core_tile = ceil_div(extents[d], cores)
        spm = _tile(rng, core_tile, perfect)
        rf = _tile(rng, spm, perfect) if rng.random() < 0.5 else 1
        rows, cols = 1, 1
        if rng.random() < 0.5:
            rows = rng.choice(
                [f for f in range(1, min(left["rows"], ceil_div(spm, rf)) + 1) if _cut(spm, rf * f, perfect)]
            )
            left["rows"] //= rows
            most = min(left["cols"], ceil_div(spm, rf) // rows)
            cols = rng.choice([f for f in range(1, most + 1) if _cut(spm, rf * rows * f, perfect)])
            left["cols"] //= cols
        for name, value in (("cores", cores), ("spm", spm), ("rf", rf), ("rows", rows), ("cols", cols)):
            picked[name][d] = value
    subset = [tuple(o for o in Operand if rng.random() < 0.5) for _ in range(2)]
    return Mapping(
        **{name: Dims(**values) for name, values in picked.items()},
        dram_order=tuple(rng.sample(DIM_NAMES, len(DIM_NAMES))), spm_order=tuple(rng.sample(DIM_NAMES, len(DIM_NAMES))),
        spm_double=subset[0], rf_double=subset[1], spill=True,
    )  # fmt: skip


def random_case(rng: random.Random, *, num_cores: int = 1, num_channels: int = 1) -> tuple[Workload, Arch, Mapping]:
    """One of each."""
    workload = random_workload(rng)
    arch = random_arch(rng, num_cores=num_cores, num_channels=num_channels)
    return workload, arch, random_mapping(rng, workload, arch)


def _fills(extent: int, factor: int, perfect: bool) -> bool:
    return ceil_div(extent, ceil_div(extent, factor)) == factor and (not perfect or extent % factor == 0)


def _cut(extent: int, tile: int, perfect: bool) -> bool:
    return not perfect or extent % tile == 0


def _tile(rng: random.Random, extent: int, perfect: bool) -> int:
    return rng.choice([tile for tile in range(1, extent + 1) if _cut(extent, tile, perfect)])
