"""Workload and Arch as flat numpy arrays and scalars, for compiled code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.arch import Arch
from tvm_spm.space.tensors import Tensors
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Workload

UNBOUNDED = 0.0
"""Stands for "no bound" in ``ArchArrays.spm_bytes_per_cycle``."""


class WorkloadArrays(NamedTuple):
    """A workload; dims are indices into ``DIM_NAMES``.

    Projections are numbered I = 0, W = 1, O = 2, then the extras of the epilogue. Axes of projection ``p`` are
    ``axis_start[p]:axis_start[p + 1]``, outermost first; terms of axis ``a`` are ``term_start[a]:term_start[a + 1]``.

    Attributes:
        dims: int64 ``(8,)`` extents.
        is_reduction: bool ``(8,)``: C, FY, FX.
        is_relevant: bool ``(projections, 8)``.
        elem_bits: int64 ``(projections,)``; that of O is the width of a partial sum.
        axis_start: int64 ``(projections + 1,)``.
        axis_extent: int64 ``(axes,)``.
        axis_offset: int64 ``(axes,)``, minus the padding in front.
        term_start: int64 ``(axes + 1,)``.
        term_dim: int64 ``(terms,)``.
        term_coefficient: int64 ``(terms,)``.
        out_bits: Width of one finished output.
        num_ops_per_elem: Vector operations per finished output.
        macs: Multiply-accumulates of the nest.
    """

    dims: NDArray[np.int64]
    is_reduction: NDArray[np.bool_]
    is_relevant: NDArray[np.bool_]
    elem_bits: NDArray[np.int64]
    axis_start: NDArray[np.int64]
    axis_extent: NDArray[np.int64]
    axis_offset: NDArray[np.int64]
    term_start: NDArray[np.int64]
    term_dim: NDArray[np.int64]
    term_coefficient: NDArray[np.int64]
    out_bits: int
    num_ops_per_elem: int
    macs: int

    @classmethod
    def of(cls, workload: Workload) -> WorkloadArrays:
        """Flatten a workload."""
        projections = (workload.I, workload.W, workload.O, *workload.epilogue.extras)
        return cls(
            dims=_ints(workload.dims.as_tuple()),
            is_reduction=np.array([name in REDUCTION_DIMS for name in DIM_NAMES]),
            is_relevant=np.array([[name in p.relevant_dims for name in DIM_NAMES] for p in projections]),
            **Tensors.of(workload)._asdict(),
            out_bits=workload.out_bits,
            num_ops_per_elem=workload.epilogue.num_ops_per_elem,
            macs=workload.macs,
        )


class ArchArrays(NamedTuple):
    """An accelerator; cycles are accelerator cycles, energies are per word of ``word_bits``."""

    word_bits: int
    num_cores: int
    launch_cycles: int
    pe_rows: int
    pe_cols: int
    mac_stages: int
    mac_op_pj: float
    rf_access_pj: float
    rf_fill_pj: float
    spm_access_pj: float
    spm_bytes_per_cycle: float
    dram_access_pj: float
    dram_channels: int
    noc_elems_per_cycle: float
    noc_elem_pj: float
    noc_delivery_pj: float
    noc_reduction_hop_pj: float
    burst_bits: int
    burst_startup_cycles: float
    dma_bytes_per_cycle: float
    vector_ops_per_cycle: float
    vector_op_pj: float

    @classmethod
    def of(cls, arch: Arch) -> ArchArrays:
        """Flatten an accelerator."""
        rf, spm, dram = arch.levels.RF, arch.levels.SPM, arch.levels.DRAM
        return cls(
            word_bits=arch.word_bits,
            num_cores=arch.cores.count,
            launch_cycles=arch.cores.launch_cycles,
            pe_rows=arch.pe.rows,
            pe_cols=arch.pe.cols,
            mac_stages=arch.pe.mac_stages,
            mac_op_pj=float(arch.mac.op_pj),
            rf_access_pj=float(rf.access_pj),
            rf_fill_pj=float(rf.fill_pj),
            spm_access_pj=float(spm.access_pj),
            spm_bytes_per_cycle=UNBOUNDED if spm.bytes_per_cycle is None else float(spm.bytes_per_cycle),
            dram_access_pj=float(dram.access_pj),
            dram_channels=dram.channels,
            noc_elems_per_cycle=float(arch.noc.elems_per_cycle),
            noc_elem_pj=float(arch.noc.elem_pj),
            noc_delivery_pj=float(arch.noc.delivery_pj),
            noc_reduction_hop_pj=float(arch.noc.reduction_hop_pj),
            burst_bits=arch.burst_bits,
            burst_startup_cycles=float(arch.burst_startup_cycles),
            dma_bytes_per_cycle=float(arch.dma_bytes_per_cycle),
            vector_ops_per_cycle=float(arch.vector.ops_per_cycle),
            vector_op_pj=float(arch.vector.op_pj),
        )


def _ints(values: list[int] | tuple[int, ...]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
