"""What exact searches know of an SPM tile before they look below it, against a walk through all tiles."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from cost_model.transfer import box_transfer
from tests.analytical_cases import draw_workload
from tests.exact_cases import draw_machine
from tvm_spm.arch import Arch
from tvm_spm.exact.any_factors.floor_list import list_floors
from tvm_spm.exact.any_factors.floors import FLOOR_FIELDS
from tvm_spm.exact.any_factors.tables import make_tables
from tvm_spm.exact.case_arrays import CaseArrays, arrays_of
from tvm_spm.exact.perfect.spm_tiles import PERFECT_TILE_FIELDS, list_tiles
from tvm_spm.exact.perfect.unrollings import divisors_of
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.space.constraints_batch import rules_of
from tvm_spm.workload import DIM_NAMES, Dims, Operand, Workload

OBJECTIVES = ("edp", "energy", "latency")


def drawn(seed: int, most: int) -> tuple[Case, CaseArrays, np.random.Generator]:
    """A layer, a machine and what is wanted."""
    rng = np.random.default_rng(seed)
    workload, arch = draw_workload(rng, most=most), draw_machine(rng, int(rng.choice([1, 1, 2, 4])))
    case = Case(workload=workload, arch=arch, objective=Objective.of(OBJECTIVES[seed % len(OBJECTIVES)]))
    return case, arrays_of(case, math.inf), rng


def loaded(workload: Workload, arch: Arch, operand: Operand, part: list[range], tile: Dims) -> tuple[int, int, int]:
    """(cycles, bits in whole bursts, elements) of all tiles of an operand in a part of the loops, each loaded once."""
    projection, total = workload.projection(operand), np.zeros(3, dtype=np.int64)
    matters = [name in projection.relevant_dims for name in DIM_NAMES]
    for point in itertools.product(*(each if used else each[:1] for each, used in zip(part, matters, strict=True))):
        box = tuple(axis.clipped_elems(dict(zip(DIM_NAMES, point, strict=True)), tile) for axis in projection.axes)
        total += (*box_transfer(projection, box, arch), math.prod(box))
    return tuple(total.tolist())


def perfect_tiles(case: Case, arrays: CaseArrays, cores: list[int]) -> NDArray[np.void]:
    """All tiles that divide."""
    rows = [divisors_of(extent // factor) for extent, factor in zip(case.workload.dims, cores, strict=True)]
    counts = np.array([[len(row) for row in rows]], dtype=np.int64)
    divisors = np.ones((1, len(rows), counts.max()), dtype=np.int64)
    for d, row in enumerate(rows):
        divisors[0, d, : len(row)] = row
    tiles = np.zeros(counts.prod(), dtype=PERFECT_TILE_FIELDS)
    runs = np.zeros((len(rows), max(case.workload.dims) + 2), dtype=np.int64)
    return tiles[: list_tiles(arrays, np.array([cores], dtype=np.int64), divisors, counts, runs, tiles)]


@pytest.mark.parametrize("seed", range(40))
def test_loads_of_tiles_that_divide_are_those_of_a_walk(seed: int):
    case, arrays, rng = drawn(seed, most=9)
    workload, arch = case.workload, case.arch
    tiles = perfect_tiles(case, arrays, [1] * len(DIM_NAMES))
    for floor in rng.permutation(tiles)[:20]:
        tile = Dims.of(floor["spm"].tolist())
        part = [range(0, extent, size) for extent, size in zip(workload.dims, tile, strict=True)]
        loads = [loaded(workload, arch, operand, part, tile) for operand in (Operand.I, Operand.W)]
        for operand, (_, bits, elems) in enumerate(loads):
            words = workload.projection(Operand(operand)).elem_bits / arch.word_bits
            wanted_pj = elems * words * (arch.levels.SPM.access_pj + arch.levels.DRAM.access_pj)
            wanted_pj += (bits / arch.word_bits - elems * words) * arch.levels.DRAM.access_pj
            assert floor["elems_pj"][operand] == pytest.approx(wanted_pj, rel=1e-12)
        # an order repeats loads of one operand alone: what differs between the columns is a multiple of its cycles
        (cycles_i, _, _), (cycles_w, _, _) = loads
        repeats = floor["repeats"]
        moved = [
            int(dma) - int(i) * cycles_i - int(w) * cycles_w for dma, (i, w) in zip(floor["dma"], repeats, strict=True)
        ]
        assert moved[0] == moved[1] >= arch.cores.launch_cycles


@pytest.mark.parametrize("seed", range(60))
def test_a_limit_leaves_out_tiles_above_it_and_no_others(seed: int):
    case, arrays, rng = drawn(seed, most=14)
    cores = np.ones(len(DIM_NAMES), dtype=np.int64)
    tables = make_tables(arrays, rules_of(case.constraints, case.workload), cores, case.arch.num_pes)
    floors = np.zeros(math.prod(tables.num_spm.tolist()), dtype=FLOOR_FIELDS)
    everything = floors[: list_floors(arrays, tables, 1, math.inf, floors)].copy()
    if len(everything) == 0:
        pytest.skip("no tile fits")
    for limit in rng.choice(everything["bound"], 5):
        left = floors[: list_floors(arrays, tables, 1, float(limit), floors)].copy()
        wanted = everything[everything["bound"] < limit]
        assert left["spm"].tolist() == wanted["spm"].tolist()
        assert left["bound"].tolist() == wanted["bound"].tolist()
