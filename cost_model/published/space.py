"""The published search space of Dave et al. and its prunes, enumerated and priced exhaustively.

A tiling splits every loop bound exactly into DRAM, SPM, RF and spatial factors. It is valid if it uses no more PEs, RF
and SPM than there are; the published tool holds one tile of each operand per RF, and whole SPM banks per operand.

Source: Dave, Kim, Avancha, Lee, Shrivastava: dMazeRunner, ACM TECS 18(5s), 2019, and the authors' released tool (2022
state), including the drift of its thresholds: 0.8 - 0.1 - 0.1 is above 0.6.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cost_model.published.batch import make_tables
from cost_model.published.kernel import Space, search_spatial
from cost_model.published.model import order_classes
from cost_model.published.nest import (
    LEVELS,
    NUM_LOOPS,
    Factors,
    PublishedMachine,
    PublishedNest,
    published_machine,
    published_nest,
)
from tvm_spm.arch import Arch
from tvm_spm.cost import OBJECTIVES
from tvm_spm.errors import NoMappingError, SpmError, did_you_mean
from tvm_spm.workload import DIM_NAMES, Workload

_LOG = logging.getLogger(__name__)

_CHUNK_SPATIAL = 64
_MIN_TILINGS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Prunes:
    """Which valid tilings are left out.

    Attributes:
        min_pe_share: Least share of the PEs in use (OPT1).
        min_rf_share: Least share of the RF in use (OPT1).
        min_spm_share: Least share of one SPM buffer in use (OPT1).
        whole_filters: Leave out tilings that split ``FY`` or ``FX`` at DRAM (OPT2).
        no_spatial_reduction: Leave out tilings that unroll a dim the output does not depend on (OPT3).
        unrolled: Unroll each of these dims; any dims if ``None``.
        unroll_others: Dims besides ``unrolled`` may be unrolled too.
        relax: Lower the shares step by step, at last drop OPT2 and OPT3, until enough tilings are left.
    """

    min_pe_share: float = 0.0
    min_rf_share: float = 0.0
    min_spm_share: float = 0.0
    whole_filters: bool = False
    no_spatial_reduction: bool = False
    unrolled: tuple[str, ...] | None = None
    unroll_others: bool = False
    relax: bool = False

    def __post_init__(self) -> None:
        for name in ("min_pe_share", "min_rf_share", "min_spm_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpmError(f"prunes: {name} = {getattr(self, name)!r}: must be >= 0 and <= 1")
        for dim in self.unrolled or ():
            if dim not in DIM_NAMES:
                raise SpmError(f"prunes: unrolled: unknown dim {dim!r}; {did_you_mean(dim, DIM_NAMES)}")

    @classmethod
    def of(cls, *names: str) -> Prunes:
        """Any of the paper's ``OPT1``, ``OPT2`` and ``OPT3``, with its default thresholds.

        Raises:
            SpmError: An unknown name.
        """
        for name in names:
            if name not in ("OPT1", "OPT2", "OPT3"):
                raise SpmError(f"prunes: unknown step {name!r}; {did_you_mean(name, ('OPT1', 'OPT2', 'OPT3'))}")
        thresholds = (0.8, 0.8, 0.5) if "OPT1" in names else (0.0, 0.0, 0.0)
        return cls(
            min_pe_share=thresholds[0],
            min_rf_share=thresholds[1],
            min_spm_share=thresholds[2],
            whole_filters="OPT2" in names,
            no_spatial_reduction="OPT3" in names,
        )

    def relaxed(self) -> Prunes | None:
        """The next weaker prunes of the automatic mode; ``None`` if the thresholds are used up."""
        pe, rf, spm = self.min_pe_share - 0.1, self.min_rf_share - 0.1, self.min_spm_share
        if pe <= 0.6 or rf <= 0.6:
            spm -= 0.1
        if pe < 0 or rf < 0 or spm < 0:
            return None
        weaker = replace(self, min_pe_share=pe, min_rf_share=rf, min_spm_share=spm)
        if pe <= 0.3 or rf <= 0.3:
            weaker = replace(weaker, whole_filters=False, no_spatial_reduction=False)
        return weaker

    @property
    def enough_tilings(self) -> int:
        """Fewer tilings than this make the automatic mode relax."""
        is_last_resort = self.min_pe_share <= 0.3 or self.min_rf_share <= 0.3
        return 1 if is_last_resort or not self.relax else _MIN_TILINGS


AUTO = replace(Prunes.of("OPT1", "OPT2", "OPT3"), relax=True)
"""The automatic mode of the published tool: all prunes, relaxed if they leave too little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedResult:
    """The best tiling that the prunes left, in its best loop order.

    ``factors`` are (level, ((dim, factor), ...)), those of 1 left out; ``prunes`` are the ones after relaxing.
    """

    num_evaluated: int
    factors: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    cycles: int
    energy_pj: int
    edp: float
    prunes: Prunes

    def named_factors(self) -> dict[str, dict[str, int]]:
        """Factors as ``best_over_orders`` takes them."""
        return {level: dict(row) for level, row in self.factors}


def pruned_search(workload: Workload, arch: Arch, *, prunes: Prunes = AUTO, objective: str = "edp") -> PrunedResult:
    """Price every tiling that the prunes leave, in every loop order, and return the best.

    Memory does not grow with the space. Of equally good tilings the first in enumeration order wins.

    Args:
        workload: Convolution, depthwise convolution or matrix product.
        arch: One core with a unified SPM.
        prunes: What to leave out.
        objective: ``edp``, ``energy`` or ``latency``.

    Raises:
        NoMappingError: No tiling is left.
        SpmError: An unknown objective.
        WorkloadError: The published model cannot describe the workload.
        ArchError: The published model cannot describe the accelerator.
    """
    if objective not in OBJECTIVES:
        raise SpmError(f"unknown objective {objective!r}; {did_you_mean(objective, OBJECTIVES)}")
    nest, machine = published_nest(workload), published_machine(arch)
    used: Prunes | None = prunes
    while used is not None:
        num, best = _search(nest, machine, used, OBJECTIVES.index(objective))
        if best is not None and num >= used.enough_tilings:
            return _result(workload, arch, nest, objective, num, best, used)
        _LOG.info("%s: %d tilings left by %s", workload, num, used)
        used = used.relaxed() if used.relax else None
    raise NoMappingError(f"{workload} on {arch.name}: no tiling is left by {prunes}")


def _search(nest: PublishedNest, machine: PublishedMachine, prunes: Prunes, metric: int) -> tuple[int, Factors | None]:
    tables, space = make_tables(nest, machine), _space(nest, machine, prunes)
    total, best_value, best = 0, math.inf, None
    for chunk in _spatial_chunks(nest, machine, prunes):
        num, value, factors = search_spatial(tables, space, chunk, metric, best_value)
        total += int(num)
        if value < best_value:
            best_value, best = float(value), tuple(tuple(int(f) for f in row) for row in factors)
    return total, best


def _result(
    workload: Workload, arch: Arch, nest: PublishedNest, objective: str, num: int, best: Factors, prunes: Prunes
) -> PrunedResult:
    named = nest.named(best)
    order = min(
        order_classes(workload, arch, named),
        key=lambda c: {"edp": c.edp, "energy": c.energy_pj, "latency": c.cycles}[objective],
    )
    return PrunedResult(
        num_evaluated=num,
        factors=tuple((level, tuple(named[level].items())) for level in LEVELS),
        cycles=order.cycles,
        energy_pj=order.energy_pj,
        edp=order.edp,
        prunes=prunes,
    )


def _space(nest: PublishedNest, machine: PublishedMachine, prunes: Prunes) -> Space:
    values = sorted({d for extent in nest.extents for d in divisors(extent)})
    row_of = np.full(max(values) + 1, -1, np.int64)
    counts = np.array([len(divisors(value)) for value in values], np.int64)
    table = np.ones((len(values), int(counts.max())), np.int64)
    for row, value in enumerate(values):
        row_of[value] = row
        table[row, : counts[row]] = divisors(value)
    keep_whole = np.zeros(NUM_LOOPS, np.bool_)
    if prunes.whole_filters:
        keep_whole[list(nest.filter_loops)] = True
    return Space(
        extents=np.array(nest.extents, np.int64),
        divisor_row=row_of,
        divisor_count=counts,
        divisors=table,
        whole_at_dram=keep_whole,
        rf_elems=machine.rf_elems,
        min_rf_elems=prunes.min_rf_share * machine.rf_elems,
        bank_bytes=machine.bank_bytes,
        num_banks=machine.spm_buffer_bytes // machine.bank_bytes,
        min_spm_bytes=prunes.min_spm_share * machine.spm_buffer_bytes,
    )


def spatial_rows(nest: PublishedNest, machine: PublishedMachine, prunes: Prunes) -> Iterator[tuple[int, ...]]:
    """Spatial factors that fit the PEs and that the prunes leave."""
    choices = [divisors(extent) for extent in nest.extents]
    for loop, dim in enumerate(nest.dims):
        if prunes.unrolled is not None:
            if dim in prunes.unrolled:
                choices[loop] = choices[loop][1:]
            elif not prunes.unroll_others:
                choices[loop] = (1,)
        if prunes.no_spatial_reduction and loop in nest.reduction_loops:
            choices[loop] = tuple(factor for factor in choices[loop] if factor == 1)
    for row in _products(choices, machine.num_pes):
        if math.prod(row) >= prunes.min_pe_share * machine.num_pes:
            yield row


def _spatial_chunks(nest: PublishedNest, machine: PublishedMachine, prunes: Prunes) -> Iterator[NDArray[np.int64]]:
    """Spatial factors, some at a time, so that an interrupt is noticed between chunks."""
    rows = spatial_rows(nest, machine, prunes)
    while chunk := list(itertools.islice(rows, _CHUNK_SPATIAL)):
        yield np.array(chunk, np.int64)


def _products(choices: Sequence[tuple[int, ...]], limit: int) -> Iterator[tuple[int, ...]]:
    """All tuples of one choice each with a product up to ``limit``."""
    if not choices:
        yield ()
        return
    for factor in choices[0]:
        if factor <= limit:
            for rest in _products(choices[1:], limit // factor):
                yield (factor, *rest)


def divisors(value: int) -> tuple[int, ...]:
    """All divisors, ascending."""
    small = [d for d in range(1, math.isqrt(value) + 1) if value % d == 0]
    return tuple(small + [value // d for d in reversed(small) if d * d != value])
