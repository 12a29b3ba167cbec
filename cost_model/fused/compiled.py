"""The compiled entry points: what Python calls. Records come in as arrays that Python holds."""

from __future__ import annotations

import numpy as np
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
from tvm_spm.jit import entry
from tvm_spm.space.mapping_batch import MappingBatch


@entry
def walk_tiles(flat: FlatGroup, rates: Rates, share: Share, most_chunks: int, walked: Walk) -> int:
    """See ``walk.walk_core``."""
    return walk_core(flat, rates, share, most_chunks, walked)


@entry
def pass_records(
    problems: NDArray[np.void],
    tensors: Tensors,
    batch: MappingBatch,
    row: int,
    nests: NDArray[np.void],
    dims: Ints,
    found: Ints,
) -> None:
    """See ``passes.fill_records``; ``nests`` is room for one record of ``NEST_FIELDS``."""
    fill_records(problems[0], tensors, batch, row, nests[0], dims, found)


@entry
def run_timeline(
    stages: Ints, loads: Ints, cycles: Ints, spans: Ints, kind: Ints, launch_cycles: int, num_channels: int,
    is_double: bool, finished: Ints,
) -> None:  # fmt: skip
    """See ``timeline.run_cores``."""
    run_cores(stages, loads, cycles, spans, kind, launch_cycles, num_channels, is_double, finished)


@entry
def choose_inners(
    problems: NDArray[np.void], tensors: Tensors, pe_rows: int, pe_cols: int, rf_bytes: int,
    prices: NDArray[np.float64], objective: int, nests: NDArray[np.void], dims: Ints, choices: Ints,
) -> None:  # fmt: skip
    """See ``inner.choose_inner``; ``nests`` is room for one record of ``NEST_FIELDS``."""
    choose_inner(problems[0], tensors, pe_rows, pe_cols, rf_bytes, prices, objective, nests[0], dims, choices)


@entry
def probe_tiles(
    flat: FlatGroup, rates: Rates, bank_bytes: int, chunk: Ints, tile: Ints, kept: Ints, k_tile: Ints, walked: Walk,
    found: Ints,
) -> None:  # fmt: skip
    """See ``probe.probe_shares``."""
    probe_shares(flat, rates, bank_bytes, chunk, tile, kept, k_tile, walked, found)


@entry
def core_signatures(flat: FlatGroup, chunks: Ints, needed: Ints, loops: Ints, box: Ints, found: Ints) -> None:
    """See ``kinds.fill_signatures``."""
    fill_signatures(flat, chunks, needed, loops, box, found)


@entry
def peak_spm_bytes(flat: FlatGroup, share: Share, walked: Walk, bank_bytes: int) -> int:
    """See ``probe.peak_bytes``, with two buffers everywhere."""
    return peak_bytes(flat, share, walked, bank_bytes, share.is_double, np.full(len(share.tile), 2))
