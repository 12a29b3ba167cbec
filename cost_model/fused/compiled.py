"""The compiled entry points; a hash of the sources joins the key of numba's cache, which watches only this file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cost_model.fused.flat import FlatGroup, Ints
from cost_model.fused.inner import choose_inner
from cost_model.fused.kinds import fill_signatures
from cost_model.fused.passes import fill_records
from cost_model.fused.probe import peak_bytes, probe_shares
from cost_model.fused.state import Rates, Share, Walk
from cost_model.fused.timeline import run_cores
from cost_model.fused.walk import walk_core
from cost_model.simulator.state import Tensors
from tvm_spm.mapping_batch import MappingBatch


def _source_hash() -> str:
    here = Path(__file__).parent
    sources = sorted(here.glob("*.py")) + sorted((here.parent / "simulator").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _compile(source_hash: str) -> tuple[Callable[..., Any], ...]:
    @njit(cache=True, nogil=True, error_model="numpy")
    def walk(flat: FlatGroup, rates: Rates, share: Share, most_chunks: int, walked: Walk) -> int:
        if len(source_hash) == 0:
            raise RuntimeError("no source")
        return walk_core(flat, rates, share, most_chunks, walked)

    @njit(cache=True, nogil=True, error_model="numpy")
    def records(
        problem: NDArray[np.void], tensors: Tensors, batch: MappingBatch, row: int, dims: Ints, found: Ints
    ) -> None:
        if len(source_hash) == 0:
            raise RuntimeError("no source")
        fill_records(problem, tensors, batch, row, dims, found)

    @njit(cache=True, nogil=True, error_model="numpy")
    def timeline(
        stages: Ints, loads: Ints, cycles: Ints, spans: Ints, kind: Ints, launch_cycles: int, num_channels: int,
        is_double: bool, finished: Ints,
    ) -> None:  # fmt: skip
        if len(source_hash) == 0:
            raise RuntimeError("no source")
        run_cores(stages, loads, cycles, spans, kind, launch_cycles, num_channels, is_double, finished)

    @njit(cache=True, nogil=True, error_model="numpy")
    def inner(
        problem: NDArray[np.void], tensors: Tensors, pe_rows: int, pe_cols: int, rf_bytes: int,
        prices: NDArray[np.float64], objective: int, dims: Ints, choices: Ints,
    ) -> None:  # fmt: skip
        if len(source_hash) == 0:
            raise RuntimeError("no source")
        choose_inner(problem, tensors, pe_rows, pe_cols, rf_bytes, prices, objective, dims, choices)

    @njit(cache=True, nogil=True, error_model="numpy")
    def probe(
        flat: FlatGroup, rates: Rates, bank_bytes: int, chunk: Ints, tile: Ints, kept: Ints, k_tile: Ints, walked: Walk,
        found: Ints,
    ) -> None:  # fmt: skip
        if len(source_hash) == 0:
            raise RuntimeError("no source")
        probe_shares(flat, rates, bank_bytes, chunk, tile, kept, k_tile, walked, found)

    @njit(cache=True, nogil=True, error_model="numpy")
    def signatures(flat: FlatGroup, chunks: Ints, needed: Ints, loops: Ints, box: Ints, found: Ints) -> None:
        if len(source_hash) == 0:
            raise RuntimeError("no source")
        fill_signatures(flat, chunks, needed, loops, box, found)

    @njit(cache=True, nogil=True, error_model="numpy")
    def peak(flat: FlatGroup, share: Share, walked: Walk, bank_bytes: int) -> int:
        if len(source_hash) == 0:
            raise RuntimeError("no source")
        return peak_bytes(flat, share, walked, bank_bytes, share.is_double, np.full(len(share.tile), 2))

    return walk, records, timeline, inner, probe, signatures, peak


(
    walk_tiles,
    pass_records,
    run_timeline,
    choose_inners,
    probe_tiles,
    core_signatures,
    peak_spm_bytes,
) = _compile(_source_hash())
