"""What the numbers of a mapping mean, worked out from its tiles and factors alone."""

from __future__ import annotations

import itertools

from tests.oracle.boxes import num_parts
from tvm_spm.mapping import Mapping
from tvm_spm.workload import DIM_NAMES, Operand, Projection, Workload

Point = dict[str, int]
"""A number per loop dim."""


def relevant(projection: Projection) -> set[str]:
    """Dims that index a tensor."""
    return {name for axis in projection.axes for name, _ in axis.terms}


def core_tile(workload: Workload, mapping: Mapping) -> Point:
    """Extents of the largest core's share."""
    return {name: num_parts(workload.dims[name], mapping.cores[name]) for name in DIM_NAMES}


def array_tile(mapping: Mapping) -> Point:
    """What all PEs hold together."""
    return {name: mapping.rows[name] * mapping.cols[name] * mapping.rf[name] for name in DIM_NAMES}


def loops(workload: Workload, mapping: Mapping) -> list[tuple[str, str]]:
    """(level, dim) of every loop of the largest core that turns more than once, outer to inner."""
    core, array = core_tile(workload, mapping), array_tile(mapping)
    dram = [("DRAM", name) for name in mapping.dram_order if num_parts(core[name], mapping.spm[name]) > 1]
    return dram + [("SPM", name) for name in mapping.spm_order if num_parts(mapping.spm[name], array[name]) > 1]


def inside(projection: Projection, nest: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Loops strictly inside the innermost one that changes the tile of a tensor."""
    changing = [place for place, (_, name) in enumerate(nest) if name in relevant(projection)]
    return nest[max(changing, default=-1) + 1 :]


def shares(workload: Workload, mapping: Mapping) -> list[tuple[Point, Point]]:
    """First index and extent of every core's part, row-major in the order of the dims."""
    tile, parts = core_tile(workload, mapping), []
    for core in itertools.product(*(range(mapping.cores[name]) for name in DIM_NAMES)):
        first = {name: k * tile[name] for name, k in zip(DIM_NAMES, core, strict=True)}
        parts.append((first, {name: min(tile[name], workload.dims[name] - first[name]) for name in DIM_NAMES}))
    return parts


def odometer(order: tuple[str, ...], counts: Point) -> list[Point]:
    """Index vectors of a nest in execution order; a dim not named stays at 0."""
    vectors = itertools.product(*(range(counts[name]) for name in order))
    return [dict.fromkeys(DIM_NAMES, 0) | dict(zip(order, vector, strict=True)) for vector in vectors]


def is_double(mapping: Mapping, level: str, operand: Operand) -> bool:
    """Whether an operand has two buffers at ``SPM`` or ``RF``."""
    return operand in {"SPM": mapping.spm_double, "RF": mapping.rf_double}[level]
