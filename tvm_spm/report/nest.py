"""The passes of a mapping on each core: tiles, what is loaded before a pass, and what leaves after it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from tvm_spm.arch import Arch
from tvm_spm.errors import MappingError
from tvm_spm.mapping import Mapping
from tvm_spm.space import legality
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Workload

Index = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One core's part of the loop nest.

    Attributes:
        core: Its number, row-major over the dims.
        first: First loop index per dim, in canonical order.
        extent: Elements per dim.
        counts: Iterations per DRAM loop of the nest.
    """

    core: int
    first: tuple[int, ...]
    extent: Dims
    counts: Index

    @property
    def num_passes(self) -> int:
        """Iterations of all DRAM loops."""
        return math.prod(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassShape:
    """All that the PE array's time depends on; passes of equal shape take equally long.

    Attributes:
        tile: Elements per dim.
        loads: Whether I and W enter the RF before the first step.
        enters: Whether O enters the RF at the first step, be it empty.
        summed: Whether an earlier pass has added to these outputs: they are read back.
        leaves: Whether O leaves the RF after the last step.
    """

    tile: Dims
    loads: tuple[bool, bool]
    enters: bool
    summed: bool
    leaves: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One iteration of the DRAM loops.

    Attributes:
        number: From 0, in order.
        first: First loop index per dim.
        shape: Tile and state of the array's registers.
        loads: Operands that DMA brings before it.
        leaves: Whether the output tile leaves SPM after it.
        complete: Whether that tile is finished.
    """

    number: int
    first: dict[str, int]
    shape: PassShape
    loads: tuple[Operand, ...]
    leaves: bool
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Nest:
    """A legal mapping, ready to walk.

    Attributes:
        workload: What is computed.
        arch: Where.
        mapping: How.
        dram_loops: Dims that iterate over SPM tiles, outer to inner.
        spm_loops: Dims that iterate over array tiles, outer to inner.
        spm_position: Per operand, the innermost DRAM loop it depends on; -1 for none.
        rf_position: The same among DRAM and SPM loops together.
    """

    workload: Workload
    arch: Arch
    mapping: Mapping
    dram_loops: tuple[str, ...]
    spm_loops: tuple[str, ...]
    spm_position: tuple[int, ...]
    rf_position: tuple[int, ...]

    @classmethod
    def of(cls, workload: Workload, arch: Arch, mapping: Mapping) -> Nest:
        """The nest of a mapping.

        Raises:
            MappingError: The mapping is not legal for this workload on this accelerator; says which rule it breaks.
        """
        rejection = legality.check(workload, arch, mapping)
        if rejection is not None:
            raise MappingError(f"illegal mapping for {workload} on {arch.name}: {rejection}")
        return cls.of_unchecked(workload, arch, mapping)

    @classmethod
    def of_unchecked(cls, workload: Workload, arch: Arch, mapping: Mapping) -> Nest:
        """The nest of a mapping known to be legal but perhaps for capacities."""
        dram, spm = mapping.dram_factors(workload.dims), mapping.spm_factors()
        dram_loops = tuple(name for name in mapping.dram_order if dram[name] > 1)
        spm_loops = tuple(name for name in mapping.spm_order if spm[name] > 1)
        relevant = [workload.projection(operand).relevant_dims for operand in Operand]
        return cls(
            workload=workload, arch=arch, mapping=mapping, dram_loops=dram_loops, spm_loops=spm_loops,
            spm_position=tuple(_innermost(dram_loops, dims) for dims in relevant),
            rf_position=tuple(_innermost(dram_loops + spm_loops, dims) for dims in relevant),
        )  # fmt: skip

    def is_double(self, level: str, operand: Operand) -> bool:
        """Whether an operand has two buffers at ``SPM`` or ``RF``."""
        return self.mapping.num_buffers(level, operand) == 2

    def shares(self) -> list[Share]:
        """Every core's part, by core number."""
        extents, tile = self.workload.dims, self.mapping.core_tile(self.workload.dims)
        shares = []
        for core, index in enumerate(itertools.product(*(range(factor) for factor in self.mapping.cores))):
            first = tuple(at * size for at, size in zip(index, tile, strict=True))
            extent = Dims.of([min(t, e - f) for t, e, f in zip(tile, extents, first, strict=True)])
            counts = tuple(ceil_div(extent[name], self.mapping.spm[name]) for name in self.dram_loops)
            shares.append(Share(core=core, first=first, extent=extent, counts=counts))
        return shares

    def passes(self, share: Share) -> Iterator[Pass]:
        """All passes of a core, in order."""
        for index in itertools.product(*(range(count) for count in share.counts)):
            yield self.look_at(share, index)

    def look_at(self, share: Share, index: Index) -> Pass:
        """The pass at one index of the DRAM loops."""
        spm = self.mapping.spm
        first = dict(zip(DIM_NAMES, share.first, strict=True))
        tile = {name: min(spm[name], share.extent[name]) for name in DIM_NAMES}
        number, moved, moves, summed, complete = 0, -1, -1, False, True
        for loop, (name, at, count) in enumerate(zip(self.dram_loops, index, share.counts, strict=True)):
            number = number * count + at
            first[name] += at * spm[name]
            tile[name] = min(spm[name], share.extent[name] - at * spm[name])
            if at > 0:
                moved = loop
                summed = summed or name in REDUCTION_DIMS
            if at < count - 1:
                moves = loop
                complete = complete and name not in REDUCTION_DIMS
        enters = [moved <= position for position in self.spm_position]
        enters_rf = [
            enters[i] or position >= len(self.dram_loops) for i, position in enumerate(self.rf_position)
        ]  # fmt: skip
        leaves = moves <= self.spm_position[Operand.O.value]
        wanted = {Operand.I: enters[0], Operand.W: enters[1], Operand.O: enters[2] and summed}
        return Pass(
            number=number,
            first=first,
            shape=PassShape(
                tile=Dims(**tile), loads=(enters_rf[0], enters_rf[1]), enters=enters_rf[2], summed=summed,
                leaves=leaves or self.rf_position[Operand.O.value] >= len(self.dram_loops),
            ),
            loads=tuple(operand for operand in Operand if wanted[operand]),
            leaves=leaves,
            complete=complete,
        )  # fmt: skip


def _innermost(loops: tuple[str, ...], dims: tuple[str, ...]) -> int:
    return max((at for at, name in enumerate(loops) if name in dims), default=-1)


def neighbour(index: Index, counts: Index, offset: int) -> Index | None:
    """The next (1) or the previous (-1) index of a nest; None if there is none."""
    moved = list(index)
    for loop in range(len(counts) - 1, -1, -1):
        first, last = (0, counts[loop] - 1) if offset > 0 else (counts[loop] - 1, 0)
        if moved[loop] != last:
            moved[loop] += offset
            return tuple(moved)
        moved[loop] = first
    return None
