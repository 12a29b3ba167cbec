"""The published search space of Dave et al.: its prunes, and the spatial factors that they leave.

A tiling splits every loop bound exactly into DRAM, SPM, RF and spatial factors. It is valid if it uses no more PEs, RF
and SPM than there are; the published tool holds one tile of each operand per RF, and whole SPM banks per operand.

Source: Dave, Kim, Avancha, Lee, Shrivastava: dMazeRunner, ACM TECS 18(5s), 2019, and the authors' released tool (2022
state), including the drift of its thresholds: 0.8 - 0.1 - 0.1 is above 0.6.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cost_model.published.nest import PublishedMachine, PublishedNest
from tvm_spm.errors import SpmError, did_you_mean
from tvm_spm.workload import DIM_NAMES

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
