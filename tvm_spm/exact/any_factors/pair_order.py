"""What a pair moves if the order of all loops is known."""

from __future__ import annotations

from typing import NamedTuple

from tvm_spm.exact.any_factors.floors import Floor
from tvm_spm.exact.any_factors.pair import PIECE_PJ, STEP_PJ, Pair
from tvm_spm.exact.any_factors.tables import ALL_STEPS, ALL_TILES, PIECES, PIECES_DRAM, PIECES_ONCE, CoreTables
from tvm_spm.exact.case_arrays import CaseArrays, Ints, O
from tvm_spm.jit import lean
from tvm_spm.space.mapping_batch import NUM_DIMS


class PairOrder(NamedTuple):
    """Dims of the loops that iterate at DRAM and at SPM, outer to inner; those in use fill the arrays."""

    outer: Ints
    inner: Ints


@lean
def order_pj(case: CaseArrays, tables: CoreTables, pair: Pair, loops: PairOrder, operand: int) -> float:
    """Energy of all that moves of an operand between SPM and RF, with the loops in this order."""
    workload, position, num_outer = case.workload, -1, len(loops.outer)
    for loop in range(num_outer + len(loops.inner)):
        d = loops.outer[loop] if loop < num_outer else loops.inner[loop - num_outer]
        if workload.is_relevant[operand, d]:
            position = loop
    steps, pieces = 1.0, 1.0
    for d in range(NUM_DIMS):
        if workload.is_relevant[operand, d]:
            continue
        all_dram, all_spm = pair.all.passes[d] == 1, pair.loops[d] == 1
        for loop in range(position):
            if loop < num_outer and loops.outer[loop] == d:
                all_dram = True
            if loop >= num_outer and loops.inner[loop - num_outer] == d:
                all_spm = True
        if all_dram and all_spm:
            steps, pieces = steps * pair.all.cuts[ALL_STEPS, d], pieces * pair.all.cuts[PIECES, d]
        elif all_dram:
            steps, pieces = steps * pair.tiles[d], pieces * pair.all.cuts[PIECES_DRAM, d]
        else:
            steps, pieces = steps * tables.cores[d], pieces * pair.all.cuts[PIECES_ONCE, d]
    if operand == O:
        return pair.all.operands[STEP_PJ, O] * steps - pair.all.operands[PIECE_PJ, O]
    return pair.all.operands[STEP_PJ, operand] * steps + pair.all.operands[PIECE_PJ, operand] * pieces


@lean
def dram_repeats(case: CaseArrays, tables: CoreTables, floor: Floor, loops: PairOrder, operand: int) -> float:
    """How often each tile of an operand passes between DRAM and SPM."""
    workload, position, repeats = case.workload, -1, 1.0
    for loop in range(len(loops.outer)):
        if workload.is_relevant[operand, loops.outer[loop]]:
            position = loop
    for d in range(NUM_DIMS):
        if not workload.is_relevant[operand, d]:
            repeats *= tables.cores[d]
    for loop in range(position):
        d = loops.outer[loop]
        if not workload.is_relevant[operand, d]:
            # exact: the product over all such loops is a whole number
            repeats *= tables.tiles[d, floor.at[d], ALL_TILES] / tables.cores[d]
    return repeats
