"""Workload and accelerator as the published execution model of Dave et al. sees them: seven loops, three tensors.

Source: Dave, Kim, Avancha, Lee, Shrivastava: dMazeRunner, ACM TECS 18(5s), 2019, and the authors' released tool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tvm_spm.arch import Arch
from tvm_spm.errors import ArchError, MappingError, WorkloadError, did_you_mean
from tvm_spm.workload import DIM_NAMES, Axis, Operand, Workload

LEVELS = ("DRAM", "SPM", "RF", "spatial")
"""Where a loop's trip counts go; the four factors of a loop multiply to its extent."""

NUM_LOOPS = 7

Factors = tuple[tuple[int, ...], ...]
"""Factors by level (``LEVELS``), then by loop (``PublishedNest.dims``)."""

OPERAND_ORDER = (Operand.O, Operand.I, Operand.W)
"""The order in which the authors' tool adds up operands; energies are floats, so it shows in the last digit."""

_CONV_DIMS = ("N", "K", "C", "OX", "OY", "FX", "FY")
_DEPTHWISE_DIMS = ("N", "K", "G", "OX", "OY", "FX", "FY")
_MATMUL_DIMS = ("G", "K", "C", "OX", "OY", "FX", "FY")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAxis:
    """One axis of a tensor in DRAM; ``extent`` includes the padding, which the published model stores."""

    terms: tuple[tuple[int, int], ...]
    extent: int

    def tile_elems(self, tile: tuple[int, ...]) -> int:
        """Elements a tile spans; terms are (loop, coefficient)."""
        return 1 + sum(coefficient * (tile[loop] - 1) for loop, coefficient in self.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNest:
    """Seven loops, the paper's ``N M C Ox Oy Fx Fy`` under our names, and the tensors ``I W O`` in DRAM order.

    The paper stores maps and filters with x outside y, so y is the contiguous axis, and knows no other layout.
    """

    dims: tuple[str, ...]
    extents: tuple[int, ...]
    tensors: tuple[tuple[StoredAxis, ...], ...]
    filter_loops: tuple[int, ...]

    def axes(self, operand: Operand) -> tuple[StoredAxis, ...]:
        """Axes of one tensor, outermost first."""
        return self.tensors[operand.value]

    def depends(self, operand: Operand, loop: int) -> bool:
        """Whether a tensor is indexed by a loop."""
        return any(loop == term for axis in self.axes(operand) for term, _ in axis.terms)

    def footprint_elems(self, operand: Operand, tile: tuple[int, ...]) -> int:
        """Elements of the bounding box of a tile, padding included."""
        return math.prod(axis.tile_elems(tile) for axis in self.axes(operand))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the layer."""
        return math.prod(self.extents)

    @property
    def reduction_loops(self) -> tuple[int, ...]:
        """Loops the output does not depend on."""
        return tuple(loop for loop in range(NUM_LOOPS) if not self.depends(Operand.O, loop))

    def named(self, factors: Sequence[Sequence[int]]) -> dict[str, dict[str, int]]:
        """Factors by level and dim name, those of 1 left out."""
        return {
            level: {dim: factor for dim, factor in zip(self.dims, row, strict=True) if factor != 1}
            for level, row in zip(LEVELS, factors, strict=True)
        }


class PublishedMachine(NamedTuple):
    """The numbers of one core that the published model uses; every element is one word."""

    num_pes: int
    rf_elems: int
    spm_buffer_bytes: int
    bank_bytes: int
    elem_bytes: int
    mac_pj: float
    rf_pj: float
    noc_pj: float
    spm_pj: float
    dram_pj: float
    dma_startup_cycles: float
    dma_cycles_per_byte: float
    dma_clock_hz: float
    clock_hz: float

    def burst_cycles(self, elems: int) -> int:
        """Accelerator cycles of one contiguous DMA transfer."""
        dma_cycles = self.dma_startup_cycles + self.dma_cycles_per_byte * self.elem_bytes * elems
        return math.ceil(dma_cycles * self.clock_hz / self.dma_clock_hz)


def published_machine(arch: Arch) -> PublishedMachine:
    """The published model's view of an accelerator: half of the SPM is the buffer in use, the other half fills.

    Raises:
        ArchError: More than one core, an SPM split by operand, or a word that is not whole bytes.
    """
    capacity = arch.levels.SPM.capacity_bytes
    if arch.cores.count != 1:
        raise ArchError(f"{arch.name}: cores.count = {arch.cores.count}: the model of Dave et al. has 1 core")
    if not isinstance(capacity, int):
        raise ArchError(f"{arch.name}: levels.SPM is split by operand: the model of Dave et al. shares one SPM")
    if arch.word_bits % 8:
        raise ArchError(f"{arch.name}: word_bits = {arch.word_bits}: the model of Dave et al. needs whole bytes")
    elem_bytes = arch.word_bits // 8
    return PublishedMachine(
        num_pes=arch.num_pes,
        rf_elems=arch.levels.RF.capacity_bytes // elem_bytes,
        spm_buffer_bytes=capacity // 2,
        bank_bytes=arch.levels.SPM.bank_bytes,
        elem_bytes=elem_bytes,
        mac_pj=arch.mac.op_pj,
        rf_pj=arch.levels.RF.access_pj,
        noc_pj=arch.noc.delivery_pj,
        spm_pj=arch.levels.SPM.access_pj,
        dram_pj=arch.levels.DRAM.access_pj,
        dma_startup_cycles=arch.dma.startup_cycles,
        dma_cycles_per_byte=arch.dma.cycles_per_byte,
        dma_clock_hz=arch.dma.clock_hz,
        clock_hz=arch.clock_hz,
    )


def published_nest(workload: Workload) -> PublishedNest:
    """The seven loops and stored tensors of a convolution, depthwise convolution or matrix product.

    Raises:
        WorkloadError: A grouped convolution that is not depthwise with one output per channel.
    """
    if workload.kind == "matmul":
        return _nest(workload, _MATMUL_DIMS, filter_loops=())
    dims = workload.dims
    if dims.G > 1 and (dims.K > 1 or dims.C > 1):
        raise WorkloadError(
            f"{workload}: {dims.G} groups of {dims.C} -> {dims.K} channels: the model of Dave et al. has groups only "
            "as a depthwise convolution of 1 -> 1 channels"
        )
    return _nest(workload, _DEPTHWISE_DIMS if dims.G > 1 else _CONV_DIMS, filter_loops=(5, 6))


def published_factors(nest: PublishedNest, named: Mapping[str, Mapping[str, int]]) -> Factors:
    """Factors by level and loop from names; what is not named is 1.

    A depthwise convolution takes its channel factor under ``G``, ``C`` or ``K``.

    Raises:
        MappingError: An unknown level or dim, a factor below 1, or factors that do not multiply to the extent.
    """
    for level in named:
        if level not in LEVELS:
            raise MappingError(f"factors: unknown level {level!r}; {did_you_mean(level, LEVELS)}")
    factors = tuple(_level_factors(nest, level, named.get(level, {})) for level in LEVELS)
    for loop, (dim, extent) in enumerate(zip(nest.dims, nest.extents, strict=True)):
        terms = [row[loop] for row in factors]
        if math.prod(terms) != extent:
            product = " x ".join(f"{level} {term}" for level, term in zip(LEVELS, terms, strict=True))
            raise MappingError(f"factors of {dim}: {product} = {math.prod(terms):,}, must equal the extent {extent:,}")
    return factors


def _level_factors(nest: PublishedNest, level: str, named: Mapping[str, int]) -> tuple[int, ...]:
    row = [1] * NUM_LOOPS
    for dim, factor in named.items():
        if dim not in DIM_NAMES:
            raise MappingError(f"factors of {level}: unknown dim {dim!r}; {did_you_mean(dim, DIM_NAMES)}")
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
            raise MappingError(f"factors of {level}: {dim} = {factor!r}: must be an integer >= 1")
        if factor == 1:
            continue
        own = "G" if nest.dims == _DEPTHWISE_DIMS and dim in ("C", "K") else dim
        if own not in nest.dims:
            raise MappingError(f"factors of {level}: {dim} = {factor}: the loop nest has only {' '.join(nest.dims)}")
        row[nest.dims.index(own)] *= factor
    return tuple(row)


def _nest(workload: Workload, dims: tuple[str, ...], *, filter_loops: tuple[int, ...]) -> PublishedNest:
    def stored(axis: Axis) -> StoredAxis:
        terms = tuple((dims.index(name), coefficient) for name, coefficient in axis.terms if name in dims)
        spanned = axis.tile_elems(workload.dims)
        # The axis knows only the padding in front; the same is taken behind, and never less than the loops touch.
        return StoredAxis(terms=terms, extent=max(axis.extent - 2 * axis.offset, spanned))

    def tensor(operand: Operand) -> tuple[StoredAxis, ...]:
        axes = tuple(stored(axis) for axis in workload.projection(operand).axes)
        if workload.kind == "matmul":
            return axes
        return tuple(sorted(axes, key=lambda axis: min((loop for loop, _ in axis.terms), default=0)))

    return PublishedNest(
        dims=dims,
        extents=tuple(workload.dims[name] for name in dims),
        tensors=tuple(tensor(operand) for operand in Operand),
        filter_loops=filter_loops,
    )
