"""Energy of one mapping from trip counts (compiled)."""

from __future__ import annotations

from cost_model.analytical.traffic import FINAL, count_traffic
from cost_model.analytical.transfers import Scratch
from cost_model.nest import PE, Nest, levels_outside, summed_elems
from cost_model.problem import I, O, Problem, W
from tvm_spm.jit import lean, small
from tvm_spm.space.mapping_batch import NUM_DIMS

MAC, RF, NOC, SPM, DRAM, VECTOR, NUM_PARTS = 0, 1, 2, 3, 4, 5, 6
"""Parts of the energy, in the order of ``Energy``."""


@small
def energy_pj(problem: Problem, nest: Nest, scratch: Scratch) -> float:
    """Fill ``scratch.parts_pj`` and what ``count_traffic`` fills; return the sum of the parts.

    Every access is priced; words other than ``word_bits`` wide count in proportion.
    """
    extras, unused_bits = count_traffic(problem, nest, scratch)
    parts, elems = scratch.parts_pj, scratch.moved_elems
    words_i, words_w, words_o = problem.words[I], problem.words[W], problem.words[O]
    crossed_i, delivered_i = rf_elems(problem, nest, I)
    crossed_w, delivered_w = rf_elems(problem, nest, W)
    left_o, _ = rf_elems(problem, nest, O)
    crossed_o = left_o - array_elems(problem, nest, O) + left_o
    crossed = crossed_i * words_i + crossed_w * words_w + crossed_o * words_o
    delivered = delivered_i * words_i + delivered_w * words_w + crossed_o * words_o
    moved = elems[I] * words_i + elems[W] * words_w + elems[O] * words_o
    hops = left_o * (nest.reduction_pes - 1)
    parts[MAC] = problem.macs * problem.mac_op_pj
    parts[RF] = problem.macs * (words_i + words_w + 2 * words_o) * problem.rf_access_pj
    parts[RF] += delivered * problem.rf_fill_pj
    parts[NOC] = crossed * problem.noc_elem_pj + delivered * problem.noc_delivery_pj
    parts[NOC] += hops * words_o * problem.noc_reduction_hop_pj
    parts[SPM] = (crossed + moved + elems[FINAL] * words_o) * problem.spm_access_pj
    parts[DRAM] = moved + elems[FINAL] * problem.out_words + extras + unused_bits / problem.word_bits
    parts[DRAM] *= problem.dram_access_pj
    parts[VECTOR] = problem.out_elems * problem.num_ops_per_elem * problem.vector_op_pj
    return parts[MAC] + parts[RF] + parts[NOC] + parts[SPM] + parts[DRAM] + parts[VECTOR]


@small
def array_elems(problem: Problem, nest: Nest, operand: int) -> int:
    """Elements of all distinct array tiles."""
    elems = 1
    for axis in range(problem.axis_start[operand], problem.axis_start[operand + 1]):
        elems *= summed_elems(problem, axis, nest.num_tiles[PE + 1])
    for d in range(NUM_DIMS):
        if problem.relevant[operand] >> d & 1 == 0:
            elems *= nest.cores[d]
    return elems


@lean
def rf_elems(problem: Problem, nest: Nest, operand: int) -> tuple[int, int]:
    """(elements that cross to the PEs, deliveries) over all loads of one operand."""
    crossed, delivered = 1, 1
    for axis in range(problem.axis_start[operand], problem.axis_start[operand + 1]):
        crossed *= summed_elems(problem, axis, nest.num_tiles[PE + 1])
        delivered *= summed_elems(problem, axis, nest.num_pieces[PE + 1])
    for d in range(NUM_DIMS):
        if problem.relevant[operand] >> d & 1 == 0:
            level = levels_outside(nest, PE, operand, d)
            crossed *= nest.num_tiles[level, d]
            delivered *= nest.num_pieces[level, d]
    return crossed, delivered
