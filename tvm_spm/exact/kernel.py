"""Compiled entry points, cached on disk.

Numba's cache watches only the file of a cached function, so the hash of everything below joins its key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

import cost_model.arrays
from tvm_spm import legality_batch
from tvm_spm.exact import array_tiles, join, spm_tiles
from tvm_spm.exact.array_tiles import Shapes
from tvm_spm.exact.finish import Best
from tvm_spm.exact.pass_time import Ints
from tvm_spm.exact.problem import Problem

_list_tiles, _list_arrays, _single_energies = spm_tiles.list_tiles, array_tiles.list_arrays, array_tiles.single_energies
_bound_floors, _join = join.bound_floors, join.join


_NOT_COMPILED = ("__init__", "search", "relaxed", "unrollings", "balanced")


def _source_hash() -> int:
    models = Path(cost_model.arrays.__file__).parent
    sources = [models / "arrays.py", Path(legality_batch.__file__)]
    here = Path(__file__).parent
    others = (*_NOT_COMPILED, *(path.stem for path in here.glob("balanced_*.py")))
    sources += sorted(path for path in here.glob("*.py") if path.stem not in others)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).digest()
    return int.from_bytes(digest[:7], "big") + 1


def _compile(source_hash: int) -> tuple[Callable[..., Any], ...]:
    @njit(cache=True, nogil=True, error_model="numpy")
    def list_tiles(
        problem: Problem, core_choices: Ints, divisors: Ints, num_divisors: Ints, runs: Ints, floors: NDArray[np.void]
    ) -> int:
        assert source_hash != 0
        return _list_tiles(problem, core_choices, divisors, num_divisors, runs, floors)

    @njit(cache=True, nogil=True, error_model="numpy")
    def list_arrays(
        problem: Problem,
        pairs: Ints,
        hops: Ints,
        fewest_pes: int,
        shapes: Shapes,
        single_pj: NDArray[np.float64],
        least_energy_pj: float,
        limit: float,
        heads: Ints,
        links: Ints,
        entries: NDArray[np.void],
    ) -> int:
        assert source_hash != 0
        return _list_arrays(
            problem, pairs, hops, fewest_pes, shapes, single_pj, least_energy_pj, limit, heads, links, entries
        )

    @njit(cache=True, nogil=True, error_model="numpy")
    def single_energies(
        problem: Problem, shapes: Shapes, floors: NDArray[np.void], single_pj: NDArray[np.float64]
    ) -> None:
        assert source_hash != 0
        _single_energies(problem, shapes, floors, single_pj)

    @njit(cache=True, nogil=True, error_model="numpy")
    def bound_floors(problem: Problem, floors: NDArray[np.void], least_moved_pj: float, most_pes: int) -> None:
        assert source_hash != 0
        _bound_floors(problem, floors, least_moved_pj, most_pes)

    @njit(cache=True, nogil=True, error_model="numpy")
    def search_floors(
        problem: Problem,
        pairs: Ints,
        floors: NDArray[np.void],
        arrays: NDArray[np.void],
        start: int,
        stop: int,
        most_candidates: int,
        runs: Ints,
        found: NDArray[np.void],
        best: Best,
    ) -> int:
        assert source_hash != 0
        return _join(problem, pairs, floors, arrays, start, stop, most_candidates, runs, found, best)

    return list_tiles, list_arrays, single_energies, bound_floors, search_floors


list_tiles, list_arrays, single_energies, bound_floors, search_floors = _compile(_source_hash())
"""The functions of the same names in ``spm_tiles``, ``array_tiles`` and ``join``; the last is ``join.join``."""
