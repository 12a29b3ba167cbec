"""Compiled entry points of the search among balanced factors, cached on disk like those of ``kernel``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

import cost_model.arrays
from tvm_spm import legality_batch, mapspace_tiles
from tvm_spm.constraints_batch import Rules
from tvm_spm.exact import balanced_array_list, balanced_floors, balanced_join, balanced_tables
from tvm_spm.exact.balanced_tables import Tables
from tvm_spm.exact.pass_time import Ints
from tvm_spm.exact.problem import Problem
from tvm_spm.mapping_batch import MappingBatch

_make_tables, _list_floors = balanced_tables.make_tables, balanced_floors.list_floors
_list_arrays, _join, _list_mappings = balanced_array_list.list_arrays, balanced_join.join, balanced_join.list_mappings

_SHARED = ("boxes", "compiled", "finish", "pass_time", "problem", "spm_tiles", "timeline", "contention")


def _source_hash() -> int:
    here = Path(__file__).parent
    sources = [Path(cost_model.arrays.__file__), Path(legality_batch.__file__), Path(mapspace_tiles.__file__)]
    sources += sorted(here.glob("balanced_*.py")) + [here / f"{name}.py" for name in _SHARED]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).digest()
    return int.from_bytes(digest[:7], "big") + 1


def _compile(source_hash: int) -> tuple[Callable[..., Any], ...]:
    @njit(cache=True, nogil=True, error_model="numpy")
    def make_tables(problem: Problem, rules: Rules, cores: Ints, most_pes: int) -> Tables:
        assert source_hash != 0
        return _make_tables(problem, rules, cores, most_pes)

    @njit(cache=True, nogil=True, error_model="numpy")
    def list_floors(
        problem: Problem,
        tables: Tables,
        least_moved_pj: float,
        least_time: int,
        limit: float,
        floors: NDArray[np.void],
        least: NDArray[np.float64],
    ) -> int:
        assert source_hash != 0
        return _list_floors(problem, tables, least_moved_pj, least_time, limit, floors, least)

    @njit(cache=True, nogil=True, error_model="numpy")
    def list_arrays(
        problem: Problem,
        tables: Tables,
        pes: Ints,
        hops: Ints,
        around: NDArray[np.float64],
        limit: float,
        start: int,
        found: NDArray[np.void],
    ) -> tuple[int, int]:
        assert source_hash != 0
        return _list_arrays(problem, tables, pes, hops, around, limit, start, found)

    @njit(cache=True, nogil=True, error_model="numpy")
    def join(
        problem: Problem,
        tables: Tables,
        pes: Ints,
        hops: Ints,
        floors: NDArray[np.void],
        arrays: NDArray[np.void],
        start: int,
        stop: int,
        limit: float,
        found: NDArray[np.void],
        counters: Ints,
    ) -> int:
        assert source_hash != 0
        return _join(problem, tables, pes, hops, floors, arrays, start, stop, limit, found, counters)

    @njit(cache=True, nogil=True, error_model="numpy")
    def list_mappings(
        problem: Problem,
        tables: Tables,
        pairs: Ints,
        hops: Ints,
        floors: NDArray[np.void],
        candidates: NDArray[np.void],
        start: int,
        limit: float,
        batch: MappingBatch,
    ) -> tuple[int, int]:
        assert source_hash != 0
        return _list_mappings(problem, tables, pairs, hops, floors, candidates, start, limit, batch)

    return make_tables, list_floors, list_arrays, join, list_mappings


make_tables, list_floors, list_arrays, join, list_mappings = _compile(_source_hash())
"""The functions of the same names in the modules ``balanced_*``."""
