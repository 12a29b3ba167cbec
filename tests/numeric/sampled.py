"""Mappings with every awkward feature at once, layers of awkward shapes, and their result by brute force."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np

from schedules.layer.footprint import load_positions
from tvm_spm.mapping import Mapping
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Projection, Workload

INT = {"dtype": "int8", "out_dtype": "int32"}

LAYERS = {
    "odd extents, uneven padding": Workload.conv2d(
        N=2, K=5, C=3, OY=7, OX=9, FY=3, FX=3, padding=(1, 2, 0, 1), dtype="int16", out_dtype="int32"
    ),
    "stride 2, rows left over": Workload.conv2d(
        K=6, C=4, OY=5, OX=6, FY=3, FX=2, stride=2, IY=14, IX=13, padding=1, **INT
    ),
    "stride larger than the filter": Workload.conv2d(K=7, C=5, OY=4, OX=5, FY=1, FX=2, stride=3, **INT),
    "dilation": Workload.conv2d(K=3, C=4, OY=5, OX=6, FY=3, FX=3, dilation=2, padding=2, **INT),
    "1x1": Workload.conv2d(K=11, C=7, OY=5, OX=3, FY=1, FX=1, **INT),
    "one column": Workload.conv2d(K=4, C=3, OY=7, OX=1, FY=3, FX=1, padding=(1, 0), **INT),
    "groups": Workload.conv2d(K=6, C=4, OY=5, OX=6, FY=3, FX=3, groups=2, padding=1, **INT),
    "depthwise": Workload.conv2d(K=7, C=7, OY=6, OX=5, FY=3, FX=3, groups=7, padding=1, **INT),
    "depthwise, multiplier 2": Workload.conv2d(K=10, C=5, OY=5, OX=6, FY=3, FX=3, groups=5, stride=2, **INT),
    "NHWC": Workload.conv2d(N=2, K=5, C=3, OY=5, OX=7, FY=3, FX=3, stride=2, padding=1, layout="NHWC", **INT),
    "NHWC groups": Workload.conv2d(K=6, C=9, OY=3, OX=5, FY=3, FX=2, groups=3, layout="NHWC", **INT),
    "matmul": Workload.matmul(m=7, k=13, n=11, **INT),
    "batched matmul": Workload.matmul(m=5, k=9, n=7, batch=3, **INT),
    "one row, weight transposed": Workload.matmul(m=1, k=29, n=13, transposed_weight=True, **INT),
    "float convolution": Workload.conv2d(K=5, C=6, OY=5, OX=7, FY=3, FX=3, padding=1, dtype="float32"),
    "half precision, wide sum": Workload.matmul(m=5, k=37, n=7, dtype="float16", out_dtype="float32"),
}


def sample_mapping(
    workload: Workload, rng: random.Random, *, num_cores: int = 4, array: int = 8, spills: bool = False
) -> Mapping:
    """A mapping that keeps all rules except capacities; its order evicts unfinished outputs from SPM or does not."""
    while True:
        mapping = _draw(workload.dims, rng, num_cores, array).canonical(workload)
        if load_positions(workload, mapping).evicts_partial("SPM") == spills:
            return replace(mapping, spill=spills)


def _draw(extents: Dims, rng: random.Random, num_cores: int, array: int) -> Mapping:
    found: dict[str, dict[str, int]] = {level: {} for level in ("cores", "spm", "rows", "cols", "rf")}
    free_cores, free_rows, free_cols = num_cores, array, array
    for name in DIM_NAMES:
        extent = extents[name]
        cores = rng.randint(1, min(free_cores, extent)) if name not in REDUCTION_DIMS and rng.random() < 0.3 else 1
        cores = ceil_div(extent, ceil_div(extent, cores))
        chunk = ceil_div(extent, cores)
        spm = rng.choice([chunk, rng.randint(1, chunk), rng.randint(1, chunk)])
        rf = rng.choice([1, rng.randint(1, spm)])
        busy = ceil_div(spm, rf)
        rows = rng.randint(1, min(free_rows, busy)) if rng.random() < 0.4 else 1
        cols = rng.randint(1, max(1, min(free_cols, busy // rows))) if rng.random() < 0.4 else 1
        free_cores, free_rows, free_cols = free_cores // cores, free_rows // rows, free_cols // cols
        for level, value in (("cores", cores), ("spm", spm), ("rows", rows), ("cols", cols), ("rf", rf)):
            found[level][name] = value
    orders = [list(DIM_NAMES), list(DIM_NAMES)]
    for order in orders:
        rng.shuffle(order)
    return Mapping(
        cores=Dims(**found["cores"]), spm=Dims(**found["spm"]), rows=Dims(**found["rows"]), cols=Dims(**found["cols"]),
        rf=Dims(**found["rf"]), dram_order=tuple(orders[0]), spm_order=tuple(orders[1]),
        spm_double=tuple(operand for operand in Operand if rng.random() < 0.5),
        rf_double=tuple(operand for operand in Operand if rng.random() < 0.5),
    )  # fmt: skip


def draw_operands(workload: Workload, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Input and weight; integers small enough that no sum overflows, floats of both signs."""

    def draw(projection: Projection) -> np.ndarray:
        shape = [axis.extent for axis in projection.axes]
        if projection.dtype.startswith("float"):
            return rng.standard_normal(shape).astype(projection.dtype)
        return rng.integers(-9, 10, shape).astype(projection.dtype)

    return draw(workload.I), draw(workload.W)


def brute_force(workload: Workload, data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Every product of the nest, by index arithmetic alone, in 64 bits."""
    names = [name for name in DIM_NAMES if workload.dims[name] > 1]
    grid = dict(zip(names, np.indices([workload.dims[name] for name in names], sparse=True), strict=True))
    wide = np.float64 if data.dtype.kind == "f" else np.int64

    def at(projection: Projection) -> list[np.ndarray]:
        return [
            sum((grid[d] * c for d, c in axis.terms if d in grid), np.zeros((1,) * len(names), np.int64)) + axis.offset
            for axis in projection.axes
        ]

    def gather(array: np.ndarray, projection: Projection) -> np.ndarray:
        indices, inside = [], np.True_
        for index, extent in zip(at(projection), array.shape, strict=True):
            inside = inside & (index >= 0) & (index < extent)
            indices.append(np.clip(index, 0, extent - 1))
        return np.where(inside, array[tuple(indices)].astype(wide), 0)

    products = gather(data, workload.I) * gather(weight, workload.W)
    result = np.zeros([axis.extent for axis in workload.O.axes], wide)
    where = np.broadcast_arrays(products, *at(workload.O))[1:]
    np.add.at(result, tuple(where), np.broadcast_to(products, where[0].shape))
    return result


def num_terms(workload: Workload) -> int:
    """Terms of one sum."""
    return math.prod(workload.dims[name] for name in REDUCTION_DIMS)
