"""What is known of one SPM tile with one array tile."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tvm_spm.exact.any_factors.tables import CUT_FIELDS
from tvm_spm.exact.case_arrays import SINGLE_STEP, Floats, Ints
from tvm_spm.jit import kernel
from tvm_spm.space.mapping_batch import NUM_DIMS

(
    FULL_PJ,
    DRAM_PJ,
    ONCE_PJ,
    LOADS,
    FIRSTS,
    READS,
    MOST_LOAD,
    STEP_PJ,
    PIECE_PJ,
    KEPT_LOADS,
    KEPT_TILES,
    ONCE_ELEMS,
    PAIR_FIELDS,
) = range(13)
"""Per operand: energy if it moves with every step, once per SPM tile, once per core; cycles of all its tiles (outputs:
leaving), of the first of each pass (outputs: the last), of partial sums read back; of the largest tile; energy per
step, and per piece of a PE (outputs: what the first entry of each tile saves); cycles of all tiles, and tiles, if each
moves once per pass; elements of all its tiles, each counted once."""

NUM_PASSES, PASS_TIME, PASS_LAST_TIME, MOST_TIME, MAY_RETURN, NUM_TIMES = range(6)


class Steps(NamedTuple):
    """Scratch: the steps of some passes of the first core.

    Attributes:
        cuts: ``(CUT_FIELDS, 8)``, see ``CoreTables.cuts``.
        passes: SPM tiles per dim.
        operands: ``(PAIR_FIELDS, 3)``.
        times: Passes. Cycles of all steps, of the last steps of all passes, of the longest step. Then 1 if sums may
            leave and be the next ones too, as a smaller last SPM tile is but one array tile along a dim.
    """

    cuts: Ints
    passes: Ints
    operands: Floats
    times: Floats


class Pair(NamedTuple):
    """Scratch: one SPM tile with one array tile.

    Attributes:
        tiles: SPM tiles of all cores per dim.
        loops: Iterations of the SPM loops in a full tile per dim.
        array: Elements of a full array tile, none beyond the SPM tile.
        rf: Elements of a PE.
        end: Elements of the last SPM tile of the first core.
        all: All passes.
        last: The last pass, once it is asked for.
        cycles: ``(5, 8)`` by the operand that stays and by buffers: a floor under all passes of the first core.
        last_cycles: The same under its last pass, 0 where nobody asked.
    """

    tiles: Ints
    loops: Ints
    array: Ints
    rf: Ints
    end: Ints
    all: Steps
    last: Steps
    cycles: Floats
    last_cycles: Floats


@kernel
def _make_steps() -> Steps:
    return Steps(
        np.ones((CUT_FIELDS, NUM_DIMS), dtype=np.int64), np.ones(NUM_DIMS, dtype=np.int64),
        np.zeros((PAIR_FIELDS, 3), dtype=np.float64), np.zeros(NUM_TIMES, dtype=np.float64),
    )  # fmt: skip


@kernel
def make_pair() -> Pair:
    """Scratch for one pair."""
    ints, floats = np.ones((5, NUM_DIMS), dtype=np.int64), np.zeros((2, SINGLE_STEP + 1, 8), dtype=np.float64)
    return Pair(
        ints[0], ints[1], ints[2], ints[3], ints[4], _make_steps(), _make_steps(), floats[0], floats[1]
    )  # fmt: skip
