"""Energy of a group from what its cores do; words of another width than the accelerator's scale linearly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.flat import (
    BITS,
    EXTRA,
    IS_MAC,
    LAYER,
    LEAVES,
    NUM_OPS,
    OUT_BITS,
    PRODUCER,
    ROLE,
    SUM_BITS,
    VECTOR,
    FlatGroup,
    Ints,
)
from cost_model.fused.passes import CROSSED, DELIVERED, LEFT
from cost_model.fused.state import (
    MOVED_ELEMS,
    NUM_SHAPES,
    SHAPE_DIMS,
    SHAPE_LAYER,
    SHAPE_STAGES,
    USED_ELEMS,
    Work,
    unused_bits_of,
)
from tvm_spm.arch import Arch
from tvm_spm.cost import Energy
from tvm_spm.graph import Layer
from tvm_spm.workload import Operand, Workload

MAC, RF, NOC, SPM, DRAM, VECTOR_UNIT, PARTS = range(7)

CROSS_PJ, DELIVER_PJ, HOP_PJ, MAC_PJ, PRICES = 0, 3, 6, 7, 8
"""Entries of the prices of a pass: per element of I W O that crosses or is delivered, per element and hop, per MAC."""


def pass_prices(workload: Workload, arch: Arch) -> NDArray[np.float64]:
    """What the events of a pass cost; see ``PRICES``."""
    scales = [workload.projection(operand).elem_bits / arch.word_bits for operand in Operand]
    rf, noc, spm = arch.levels.RF, arch.noc, arch.levels.SPM
    prices = np.zeros(PRICES)
    for operand, scale in enumerate(scales):
        prices[CROSS_PJ + operand] = scale * (noc.elem_pj + spm.access_pj)
        prices[DELIVER_PJ + operand] = scale * (rf.fill_pj + noc.delivery_pj)
    prices[HOP_PJ] = scales[2] * noc.reduction_hop_pj
    prices[MAC_PJ] = arch.mac.op_pj + rf.access_pj * (scales[0] + scales[1] + 2 * scales[2])
    return prices


def pass_pj(records: Ints, prices: NDArray[np.float64], macs: Ints | int, reduction_pes: Ints) -> NDArray[np.float64]:
    """Energy of passes, to compare ways to run them; ``array_energy`` has the same by part.

    Args:
        records: One row per pass.
        prices: Of the workload.
        macs: Per pass.
        reduction_pes: Per pass, PEs that add up one output.
    """
    energy_pj = macs * prices[MAC_PJ] + records[:, LEFT] * (reduction_pes - 1) * prices[HOP_PJ]
    for operand in range(len(Operand)):
        energy_pj = energy_pj + records[:, CROSSED + operand] * prices[CROSS_PJ + operand]
        energy_pj = energy_pj + records[:, DELIVERED + operand] * prices[DELIVER_PJ + operand]
    return np.asarray(energy_pj)


def group_energy(layers: Sequence[Layer], flat: FlatGroup, arch: Arch, work: Work) -> Energy:
    """Energy of all cores.

    Args:
        layers: Of the group.
        flat: Their arrays.
        arch: The accelerator.
        work: What cores do.
    """
    counts = np.zeros((flat.num_layers, 8))
    written, moved, used = np.zeros(flat.num_layers), np.zeros(len(flat.read)), np.zeros(len(flat.read))
    unused_bits = 0
    for walk, count, record in zip(work.walks, work.num_cores, work.records, strict=True):
        shapes = walk.shapes[: int(walk.counters[NUM_SHAPES])]
        weight = count * shapes[:, SHAPE_STAGES]
        found = np.column_stack(
            [np.prod(shapes[:, SHAPE_DIMS:], axis=1), record[:, LEFT], record[:, CROSSED : DELIVERED + 3]]
        )  # fmt: skip
        np.add.at(counts, shapes[:, SHAPE_LAYER], found * weight[:, None])
        written += count * walk.written
        moved += count * walk.reads[:, MOVED_ELEMS]
        used += count * walk.reads[:, USED_ELEMS]
        unused_bits += count * unused_bits_of(walk)
    parts = tensor_energy(flat, arch, written, moved, used)
    parts[DRAM] += unused_bits / arch.word_bits * arch.levels.DRAM.access_pj
    for local, layer in enumerate(layers):
        if layer.workload is None:
            continue
        scales = np.array([layer.workload.projection(operand).elem_bits for operand in Operand]) / arch.word_bits
        parts += array_energy(arch, scales, work.reduction_pes[local], counts[local])
    return Energy(
        mac_pj=float(parts[MAC]), rf_pj=float(parts[RF]), noc_pj=float(parts[NOC]), spm_pj=float(parts[SPM]),
        dram_pj=float(parts[DRAM]), vector_pj=float(parts[VECTOR_UNIT]),
    )  # fmt: skip


def array_energy(
    arch: Arch, scales: NDArray[np.float64], reduction_pes: int, counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Energy of passes by part.

    Args:
        arch: The accelerator.
        scales: Words per element of I, W, O.
        reduction_pes: PEs that add up one output.
        counts: MACs, outputs that left, then elements of I, W, O that crossed and that were delivered.
    """
    macs, left, crossed, delivered = counts[0], counts[1], counts[2:5] @ scales, counts[5:8] @ scales
    rf, noc = arch.levels.RF, arch.noc
    parts = np.zeros(PARTS)
    parts[MAC] = macs * arch.mac.op_pj
    parts[RF] = macs * rf.access_pj * (scales[0] + scales[1] + 2 * scales[2]) + delivered * rf.fill_pj
    parts[NOC] = crossed * noc.elem_pj + delivered * noc.delivery_pj
    parts[NOC] += left * (reduction_pes - 1) * scales[2] * noc.reduction_hop_pj
    parts[SPM] = crossed * arch.levels.SPM.access_pj
    return parts


def tensor_energy(
    flat: FlatGroup, arch: Arch, written: NDArray[np.float64], moved: NDArray[np.float64], used: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Energy of DMA and vector unit by part.

    Args:
        flat: The group.
        arch: The accelerator.
        written: Per layer elements of its output; where that leaves, all of them go to DRAM. Rows of it, here and
            below, are cases of their own.
        moved: Per read elements from DRAM.
        used: Per read elements in the boxes of stages.

    Returns:
        ``PARTS`` numbers, a row per case if several are given.
    """
    layer, read, sink = flat.layer, flat.read, flat.num_layers - 1
    is_mac, reader = layer[:, IS_MAC] == 1, read[:, LAYER]
    out_words, sum_words = layer[:, OUT_BITS] / arch.word_bits, layer[:, SUM_BITS] / arch.word_bits
    read_words = read[:, BITS] / arch.word_bits
    is_streamed = (reader == sink) & is_mac[reader] & (read[:, ROLE] == EXTRA) & (read[:, PRODUCER] < 0)
    by_vector = (read[:, ROLE] == VECTOR) | (read[:, ROLE] == EXTRA)
    has_epilogue = is_mac & (layer[:, NUM_OPS] > 0)
    has_epilogue[sink] = False
    spm = np.sum(moved * read_words * ~is_streamed, axis=-1)
    spm = spm + np.sum(used * read_words * (by_vector & ~is_streamed), axis=-1)
    spm += np.sum(written * (out_words + sum_words) * has_epilogue, axis=-1)
    spm += np.sum(written * out_words * ~is_mac, axis=-1)
    stored = written * layer[:, LEAVES]
    # what streams out of the sink passes the vector unit on its way
    spm += np.sum(stored[..., :sink] * out_words[:sink], axis=-1) + stored[..., sink] * sum_words[sink]
    parts = np.zeros((*written.shape[:-1], PARTS))
    parts[..., SPM] = spm * arch.levels.SPM.access_pj
    moved_words = np.sum(moved * read_words, axis=-1) + np.sum(stored * out_words, axis=-1)
    parts[..., DRAM] = moved_words * arch.levels.DRAM.access_pj
    parts[..., VECTOR_UNIT] = np.sum(written * layer[:, NUM_OPS], axis=-1) * arch.vector.op_pj
    return parts
