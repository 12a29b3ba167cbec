"""Workload and Arch as one record, so that compiled code passes a single pointer."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cost_model.arrays import ArchArrays, WorkloadArrays
from cost_model.record import record
from tvm_spm.arch import Arch
from tvm_spm.errors import WorkloadError
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, Axis, Workload

I, W, O = 0, 1, 2  # noqa: E741 (the operands' own letters)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

WHOLE, LINEAR, CLIPPED = 0, 1, 2
"""Kinds of axes: one dim with coefficient 1, so that its tiles add up to its extent; any other whose tiles stay inside
the tensor; and one whose tiles may stick out into padding."""

MAX_PROJECTIONS = 16

_MAX_AXES = MAX_PROJECTIONS * NUM_DIMS
_BEYOND = 1 << 60


class Problem(Protocol):
    """A record of ``PROBLEM_FIELDS``: see ``WorkloadArrays`` and ``ArchArrays`` for what is not told here.

    Attributes:
        clip_low: Per dim, the first index from which on no axis reaches into padding in front.
        clip_end: Per dim, the index from which on some axis may reach into padding behind.
        relevant: Per projection, bits of the dims it depends on.
        words: Per projection, energy words of one element; ``out_words`` of one finished output.
        out_elems: Elements of the output tensor.
        axis_kind: ``WHOLE``, ``LINEAR`` or ``CLIPPED``.
        pipeline_cycles: Of the MAC stages after the first.
        spm_bytes_per_cycle: Of SPM, ``UNBOUNDED`` if not given.
    """

    dims: Ints
    is_reduction: Ints
    clip_low: Ints
    clip_end: Ints
    num_projections: int
    relevant: Ints
    elem_bits: Ints
    words: Floats
    out_bits: int
    out_words: float
    out_elems: int
    num_ops_per_elem: int
    macs: int
    axis_start: Ints
    axis_extent: Ints
    axis_offset: Ints
    axis_kind: Ints
    term_start: Ints
    term_dim: Ints
    term_coefficient: Ints
    launch_cycles: int
    pipeline_cycles: int
    dram_channels: int
    spm_bytes_per_cycle: float
    noc_elems_per_cycle: float
    burst_bits: int
    word_bits: int
    burst_startup_cycles: float
    dma_bytes_per_cycle: float
    vector_ops_per_cycle: float
    mac_op_pj: float
    rf_access_pj: float
    rf_fill_pj: float
    noc_elem_pj: float
    noc_delivery_pj: float
    noc_reduction_hop_pj: float
    spm_access_pj: float
    dram_access_pj: float
    vector_op_pj: float


_PER_DIM, _PER_PROJECTION, _PER_AXIS = NUM_DIMS, MAX_PROJECTIONS, _MAX_AXES
PROBLEM_FIELDS = record(Problem, {
    "dims": _PER_DIM, "is_reduction": _PER_DIM, "clip_low": _PER_DIM, "clip_end": _PER_DIM,
    "relevant": _PER_PROJECTION, "elem_bits": _PER_PROJECTION, "words": _PER_PROJECTION,
    "axis_start": _PER_PROJECTION + 1, "axis_extent": _PER_AXIS, "axis_offset": _PER_AXIS, "axis_kind": _PER_AXIS,
    "term_start": _PER_AXIS + 1, "term_dim": _PER_AXIS, "term_coefficient": _PER_AXIS,
})  # fmt: skip


_NUMBERS = [name for name in PROBLEM_FIELDS.fields or () if name in (*ArchArrays._fields, "pipeline_cycles")]
"""Fields that are numbers of the machine."""


@lru_cache(maxsize=32)
def problem_of(workload: Workload, arch: Arch) -> NDArray[np.void]:
    """The record, as an array of one.

    Raises:
        WorkloadError: More extras than a record has room for.
    """
    problem = _problem_of_tensors(workload, arch.word_bits).copy()
    machine = ArchArrays.of(arch)
    values = {**machine._asdict(), "pipeline_cycles": machine.mac_stages - 1}
    for name in _NUMBERS:
        problem[name][0] = values[name]
    return problem


@lru_cache(maxsize=256)
def _problem_of_tensors(workload: Workload, word_bits: int) -> NDArray[np.void]:
    """The record without the numbers of a machine, which a fit of these changes all the time; not to be written to."""
    room = MAX_PROJECTIONS - 3
    if len(workload.epilogue.extras) > room:
        raise WorkloadError(f"epilogue: {len(workload.epilogue.extras)} extras: must be <= {room}")
    tensors = WorkloadArrays.of(workload)
    axes = _axes(workload)
    problem = np.zeros(1, dtype=PROBLEM_FIELDS)
    limits = [_clip_limits(workload, name) for name in DIM_NAMES]
    derived: dict[str, object] = {
        "clip_low": [low for low, _ in limits],
        "clip_end": [end for _, end in limits],
        "num_projections": len(tensors.elem_bits),
        "relevant": [sum(1 << d for d in range(NUM_DIMS) if row[d]) for row in tensors.is_relevant],
        "words": tensors.elem_bits / word_bits,
        "out_words": tensors.out_bits / word_bits,
        "out_elems": workload.O.tensor_elems(),
        "axis_kind": [_axis_kind(workload, axis) for axis in axes],
    }
    values = {**tensors._asdict(), **derived}
    for name in (PROBLEM_FIELDS.fields or {}).keys() - set(_NUMBERS):
        field, value = problem[name], values[name]
        if field.ndim == 1:
            field[0] = value
        else:
            numbers = np.asarray(value)
            field[0, : len(numbers)] = numbers
    return problem


def num_cut_indices(workload: Workload, name: str) -> int:
    """Indices of a dim where a tile of one element may stick out of a tensor; larger tiles have fewer."""
    extent = workload.dims[name]
    low, end = _clip_limits(workload, name)
    return min(extent, max(0, low) + max(0, extent - end))


def _axes(workload: Workload) -> list[Axis]:
    projections = (workload.I, workload.W, workload.O, *workload.epilogue.extras)
    return [axis for projection in projections for axis in projection.axes]


def _axis_kind(workload: Workload, axis: Axis) -> int:
    reach = sum(coefficient * (workload.dims[name] - 1) for name, coefficient in axis.terms)
    if axis.offset < 0 or axis.offset + reach >= axis.extent:
        return CLIPPED
    return WHOLE if [coefficient for _, coefficient in axis.terms] == [1] else LINEAR


def _clip_limits(workload: Workload, name: str) -> tuple[int, int]:
    """[low, end): indices of a dim at which no axis leaves its tensor, wherever the other dims are."""
    low, end = 0, _BEYOND
    for axis in _axes(workload):
        coefficient = dict(axis.terms).get(name)
        if coefficient is not None and _axis_kind(workload, axis) == CLIPPED:
            others = sum(c * (workload.dims[d] - 1) for d, c in axis.terms if d != name)
            low = max(low, ceil_div(-axis.offset, coefficient))
            end = min(end, (axis.extent - 1 - axis.offset - others) // coefficient + 1)
    return low, end
