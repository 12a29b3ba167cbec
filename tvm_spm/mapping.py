"""Every decision about one workload: tiles, order, unrolling, cores, buffering; prints as a loop nest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from operator import mul

from tvm_spm.errors import MappingError, WorkloadError
from tvm_spm.units import ceil_div, parse_whole, shown
from tvm_spm.workload import DIM_NAMES, MAX_DIM, Dims, Operand, Workload

MAX_TEXT_CHARS = 10_000
"""Longest text that ``Mapping.parse`` reads, many times what ``str`` prints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingLevel:
    """What a mapping decides about one memory level.

    Attributes:
        name: As the accelerator calls it.
        tile: Elements per dim that one such memory holds; of the outermost, the whole extents.
        shares: Factor per dim across those who divide a tile among them; each runs the loops on its own part.
        order: Dims that loop, outer to inner, over what the memories of the next level hold.
        unrolled: Factor per dim across memories of the next level that work side by side in one iteration.
        double: Operands with two buffers, so that the link above works ahead.
    """

    name: str
    tile: Dims
    shares: Dims = Dims()
    order: tuple[str, ...] = ()
    unrolled: Dims = Dims()
    double: tuple[Operand, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """How one workload runs.

    The nest is, outer to inner: cores (parallel), ``dram_order`` loops over SPM tiles, ``spm_order`` loops over array
    tiles, PE rows and columns (parallel), and the RF tile inside one PE. An order names, outer to inner, the dims that
    loop at that level; a dim it does not name has one iteration there.

    Attributes:
        cores: Factor per dim across cores; each core works on ``ceil(extent / factor)`` elements.
        spm: Tile per dim held in one core's SPM.
        rows: Factor per dim along the PE rows.
        cols: Factor per dim along the PE columns.
        rf: Tile per dim held in one PE's RF.
        dram_order: Dims that loop over SPM tiles.
        spm_order: Dims that loop over array tiles.
        spm_double: Operands with two SPM buffers, so that DMA overlaps with work.
        rf_double: Operands with two RF buffers, so that the NoC overlaps with work.
        spill: Whether unfinished outputs may leave SPM for DRAM and come back.
    """

    cores: Dims = Dims()
    spm: Dims = Dims()
    rows: Dims = Dims()
    cols: Dims = Dims()
    rf: Dims = Dims()
    dram_order: tuple[str, ...] = ()
    spm_order: tuple[str, ...] = ()
    spm_double: tuple[Operand, ...] = ()
    rf_double: tuple[Operand, ...] = ()
    spill: bool = False

    def __post_init__(self) -> None:
        for level, order in (("DRAM", self.dram_order), ("SPM", self.spm_order)):
            if len(set(order)) != len(order) or not set(order) <= set(DIM_NAMES):
                raise MappingError(f"{level} order {order}: must name each of {' '.join(DIM_NAMES)} at most once")
        for level, operands in (("SPM", self.spm_double), ("RF", self.rf_double)):
            if tuple(sorted(set(operands), key=lambda o: o.value)) != operands:
                raise MappingError(f"{level} double-buffered operands {operands}: must be sorted I W O, each once")
        for what, factors in (("cores", self.cores), ("rows", self.rows), ("cols", self.cols)):
            if factors.product() > MAX_DIM:
                raise MappingError(f"{what} {factors}: {shown(factors.product())} together: must be <= {MAX_DIM:,}")
        for name, rows, cols, tile in zip(DIM_NAMES, self.rows, self.cols, self.rf, strict=True):
            if rows * cols * tile > MAX_DIM:
                raise MappingError(
                    f"array tile of {name}: rows {rows} x cols {cols} x RF tile {tile}: must be <= {MAX_DIM:,}"
                )

    @property
    def array(self) -> Dims:
        """Tile that all PEs of a core hold together."""
        return Dims.of([r * c * t for r, c, t in zip(self.rows, self.cols, self.rf, strict=True)])

    def core_tile(self, extents: Dims) -> Dims:
        """Elements per dim of the largest core's share."""
        return extents.combine(self.cores, ceil_div)

    def dram_factors(self, extents: Dims) -> Dims:
        """Iterations of the DRAM loops on the largest core."""
        return self.core_tile(extents).combine(self.spm, ceil_div)

    def spm_factors(self) -> Dims:
        """Iterations of the SPM loops in a full SPM tile."""
        return self.spm.combine(self.array, ceil_div)

    def levels(self, extents: Dims) -> tuple[MappingLevel, ...]:
        """The decisions by memory level, outermost first (see ``Arch.memory_levels``)."""
        return (
            MappingLevel(name="DRAM", tile=extents, shares=self.cores, order=self.dram_order),
            MappingLevel(
                name="SPM", tile=self.spm, order=self.spm_order, unrolled=self.rows.combine(self.cols, mul),
                double=self.spm_double,
            ),
            MappingLevel(name="RF", tile=self.rf, double=self.rf_double),
        )  # fmt: skip

    def num_buffers(self, level: str, operand: Operand) -> int:
        """1 or 2 buffers of one operand at ``SPM`` or ``RF``."""
        doubled = {"SPM": self.spm_double, "RF": self.rf_double}[level]
        return 2 if operand in doubled else 1

    def __str__(self) -> str:
        lines = [f"cores: {self.cores}"]
        lines += [f"for {name} in DRAM by {self.spm[name]}" for name in self.dram_order]
        lines.append(f"SPM tile: {self.spm}{_doubled(self.spm_double)}{', spill' if self.spill else ''}")
        array = self.array
        lines += [f"for {name} in SPM by {array[name]}" for name in self.spm_order]
        lines += [f"rows: {self.rows}", f"cols: {self.cols}", f"RF tile: {self.rf}{_doubled(self.rf_double)}"]
        depth, shown = 0, []
        for line in lines:
            shown.append("  " * depth + line)
            depth += line.startswith("for ")
        return "\n".join(shown)

    def line(self) -> str:
        """The same text on one line; ``parse`` reads it too."""
        return "; ".join(text.strip() for text in str(self).splitlines())

    def brief(self) -> str:
        """What a table has room for: unrolling, SPM tile and DRAM order."""

        def short(dims: Dims) -> str:
            return " ".join(f"{name}{dims[name]}" for name in DIM_NAMES if dims[name] > 1) or "1"

        cores = f"cores {short(self.cores)} | " if self.cores.product() > 1 else ""
        order = " > ".join(self.dram_order) or "-"
        return (
            f"{cores}{order} | SPM {short(self.spm)} | PE {short(self.rows)} x {short(self.cols)} | RF {short(self.rf)}"
        )

    @classmethod
    def parse(cls, text: str) -> Mapping:
        """Read what ``str`` or ``line`` printed.

        Raises:
            MappingError: A clause is not understood; names it.
        """
        if len(text) > MAX_TEXT_CHARS:
            raise MappingError(f"mapping text of {len(text):,} characters: must be <= {MAX_TEXT_CHARS:,}")
        found: dict[str, object] = {}
        orders: dict[str, list[str]] = {"DRAM": [], "SPM": []}
        loops: list[tuple[str, str, str]] = []
        for clause in _clauses(text):
            loop = re.fullmatch(r"for (\w+) in (DRAM|SPM) by ([0-9]+)", clause)
            if loop:
                orders[loop[2]].append(loop[1])
                loops.append((loop[2], loop[1], loop[3]))
                continue
            head = re.fullmatch(r"(cores|rows|cols): (.*)", clause)
            if head:
                _require_new(head[1], found)
                found[head[1]] = _parse_dims(head[2], clause)
                continue
            tile = re.fullmatch(r"(SPM|RF) tile: ([^,]*)(?:, double ([IWO]+))?(, spill)?", clause)
            if tile is None:
                raise MappingError(f"mapping clause {shown(clause)}: expected 'cores:', 'for D in DRAM|SPM by n', "
                                   "'SPM tile:', 'rows:', 'cols:' or 'RF tile:'")  # fmt: skip
            level = tile[1].lower()
            _require_new(level, found)
            found[level] = _parse_dims(tile[2], clause)
            found[f"{level}_double"] = tuple(Operand[letter] for letter in tile[3] or "")
            found["spill"] = bool(found.get("spill")) or tile[4] is not None
        mapping = cls(dram_order=tuple(orders["DRAM"]), spm_order=tuple(orders["SPM"]), **found)  # type: ignore[arg-type]
        steps = {"DRAM": mapping.spm, "SPM": mapping.array}
        for level, name, step in loops:
            if parse_whole(step) != steps[level][name]:
                raise MappingError(
                    f"mapping clause 'for {name} in {level} by {shown(step)}': the tiles say {steps[level][name]}"
                )
        return mapping

    def canonical(self, workload: Workload) -> Mapping:
        """The same execution without loops that iterate once and tiles beyond the extent."""
        core_tile = self.core_tile(workload.dims)
        spm = self.spm.combine(core_tile, min)
        rf = self.rf.combine(spm, min)
        trimmed = Mapping(cores=self.cores, spm=spm, rows=self.rows, cols=self.cols, rf=rf)
        dram, inner = trimmed.dram_factors(workload.dims), trimmed.spm_factors()
        return Mapping(
            cores=self.cores, spm=spm, rows=self.rows, cols=self.cols, rf=rf, spill=self.spill,
            dram_order=tuple(d for d in self.dram_order if dram[d] > 1),
            spm_order=tuple(d for d in self.spm_order if inner[d] > 1),
            spm_double=self.spm_double, rf_double=self.rf_double,
        )  # fmt: skip


def _doubled(operands: tuple[Operand, ...]) -> str:
    return f", double {''.join(operand.name for operand in operands)}" if operands else ""


def _clauses(text: str) -> Iterator[str]:
    for clause in re.split(r"[;\n]", text):
        if clause.strip():
            yield re.sub(r"\s+", " ", clause.strip())


def _require_new(name: str, found: dict[str, object]) -> None:
    if name in found:
        raise MappingError(f"mapping text: {name} is given twice")


def _parse_dims(text: str, clause: str) -> Dims:
    if text.strip() == "1":
        return Dims()
    values: dict[str, int] = {}
    for item in text.split():
        name, _, digits = item.partition("=")
        value = parse_whole(digits)
        if value is None or name not in DIM_NAMES:
            raise MappingError(
                f"mapping clause {shown(clause)}: {shown(item)} is not DIM=number with DIM of {' '.join(DIM_NAMES)}"
            )
        values[name] = value
    try:
        return Dims(**values)
    except WorkloadError as error:
        raise MappingError(str(error)) from None
