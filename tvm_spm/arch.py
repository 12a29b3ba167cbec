"""The accelerator: cores, PE array, memory levels, DMA and energies, from a TOML file checked field by field."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import sys
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from tvm_spm.errors import ArchError, did_you_mean
from tvm_spm.input_file import read_regular
from tvm_spm.pages import Pages, refuse
from tvm_spm.units import format_capacity, format_si, shown
from tvm_spm.workload import Operand

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_FILE_BYTES = 2**20
"""Largest accelerator file."""

_CONFIG = ConfigDict(extra="forbid")

Count = Annotated[int, Field(ge=1, le=65536, strict=True)]
CapacityBytes = Annotated[int, Field(ge=1, le=2**40, strict=True)]
Rate = Annotated[float, Field(ge=1e-6, le=1e9, strict=True)]
Overhead = Annotated[float, Field(ge=0, le=1e9, strict=True)]
EnergyPj = Annotated[float, Field(ge=0, le=1e9, strict=True)]
Hertz = Annotated[float, Field(ge=1e3, le=1e12, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Cores:
    """``count`` equal cores, and the cycles to configure and launch a task."""

    count: Count
    launch_cycles: Annotated[int, Field(ge=0, le=10**9, strict=True)] = 0


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class PeArray:
    """PEs of one core; each does one MAC per cycle once its pipeline is full."""

    rows: Count
    cols: Count
    mac_stages: Annotated[int, Field(ge=1, le=1024, strict=True)] = 1


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class RegisterFile:
    """The memory of one PE. ``fill_pj`` is paid for each word that arrives from the NoC."""

    capacity_bytes: CapacityBytes
    access_pj: EnergyPj
    fill_pj: EnergyPj


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class SplitBytes:
    """Capacity of a scratchpad that is split by operand."""

    I: CapacityBytes  # noqa: E741
    W: CapacityBytes
    O: CapacityBytes  # noqa: E741


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Scratchpad:
    """SPM of one core; a buffer takes whole banks. ``bytes_per_cycle``, if given, bounds all networks together."""

    capacity_bytes: CapacityBytes | SplitBytes
    bank_bytes: CapacityBytes
    access_pj: EnergyPj
    bytes_per_cycle: Rate | None = None

    def capacity_of(self, operand: Operand) -> int:
        """Bytes that one operand may take at most."""
        if isinstance(self.capacity_bytes, SplitBytes):
            return int(getattr(self.capacity_bytes, operand.name))
        return self.capacity_bytes

    @property
    def is_split(self) -> bool:
        """Whether each operand has a scratchpad of its own."""
        return isinstance(self.capacity_bytes, SplitBytes)


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Dram:
    """Shared memory. One transfer holds one channel.

    ``burst_bytes`` is the least that a burst moves, and what longer ones grow by: a contiguous run of a tile starts at
    such an address and moves whole multiples, and time, channel and ``access_pj`` are charged for all of them. With 1
    nothing is rounded. Without ``pages`` it makes no difference where a run lies.
    """

    access_pj: EnergyPj
    channels: Count = 1
    channel_bytes_per_cycle: Rate
    burst_bytes: Annotated[int, Field(ge=1, le=65536, strict=True)] = 1
    pages: Pages | None = None

    @model_validator(mode="after")
    def _check(self) -> Dram:
        if self.pages is not None and self.pages.block_bytes % self.burst_bytes:
            refuse(
                f"burst_bytes = {self.burst_bytes:,}: must divide the {self.pages.block_bytes:,} B in one bank (pages)"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Levels:
    """The three memory levels, by name."""

    RF: RegisterFile
    SPM: Scratchpad
    DRAM: Dram


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Noc:
    """One multicast network per operand from SPM to the PEs, a separate write network, and a reduction network.

    ``elem_pj`` is paid once per element that crosses, ``delivery_pj`` once per PE that receives it.
    """

    elems_per_cycle: Rate
    elem_pj: EnergyPj
    delivery_pj: EnergyPj
    reduction_hop_pj: EnergyPj


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Dma:
    """DMA engine of one core; its numbers count cycles of its own clock."""

    clock_hz: Hertz
    startup_cycles: Overhead
    cycles_per_byte: Annotated[float, Field(ge=1e-9, le=1e6, strict=True)]


class MemoryLevel(NamedTuple):
    """One level of the memory hierarchy.

    Attributes:
        name: In files and texts.
        memory: Its numbers.
        link: What moves tiles between it and the level above; None above the outermost.
        num_sharers: PEs that share one such memory.
    """

    name: str
    memory: Dram | Scratchpad | RegisterFile
    link: Dma | Noc | None
    num_sharers: int


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Mac:
    """Energy of one multiply-accumulate."""

    op_pj: EnergyPj


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class VectorUnit:
    """Element-wise unit of one core."""

    ops_per_cycle: Rate
    op_pj: EnergyPj


@dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Arch:
    """One accelerator. Energies are per word of ``word_bits``; other element widths scale them linearly."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
    description: str
    clock_hz: Hertz
    word_bits: Annotated[int, Field(ge=1, le=128, strict=True)]
    cores: Cores
    pe: PeArray
    mac: Mac
    levels: Levels
    noc: Noc
    dma: Dma
    vector: VectorUnit
    sources: tuple[tuple[str, str], ...] = ()

    @property
    def num_pes(self) -> int:
        """PEs of one core."""
        return self.pe.rows * self.pe.cols

    @property
    def peak_macs_per_cycle(self) -> int:
        """All PEs of all cores."""
        return self.num_pes * self.cores.count

    @property
    def memory_levels(self) -> tuple[MemoryLevel, ...]:
        """The memories, outermost first."""
        return (
            MemoryLevel("DRAM", self.levels.DRAM, None, self.peak_macs_per_cycle),
            MemoryLevel("SPM", self.levels.SPM, self.dma, self.num_pes),
            MemoryLevel("RF", self.levels.RF, self.noc, 1),
        )

    @property
    def burst_startup_cycles(self) -> float:
        """Accelerator cycles before the first byte of a burst; with ``pages``, if its row is open."""
        startup = self.dma.startup_cycles * self.clock_hz / self.dma.clock_hz
        pages = self.levels.DRAM.pages
        return startup if pages is None else startup + pages.hit_cycles

    @property
    def burst_bits(self) -> int:
        """Every burst moves a multiple of so many bits; 1 without ``burst_bytes``: then tiles move in whole bytes."""
        burst_bytes = self.levels.DRAM.burst_bytes
        return 8 * burst_bytes if burst_bytes > 1 else 1

    @property
    def dma_bytes_per_cycle(self) -> float:
        """Bytes per accelerator cycle once a burst runs: the slower of DMA engine and DRAM channel."""
        engine = self.dma.clock_hz / self.clock_hz / self.dma.cycles_per_byte
        return min(engine, self.levels.DRAM.channel_bytes_per_cycle)

    @property
    def has_energy(self) -> bool:
        """Whether any energy is above 0; without one, all mappings need the same."""
        return any(value for path, value in self.numbers() if path.endswith("_pj"))

    def sha256(self) -> str:
        """Hash of every number, not of name, description or sources."""
        plain = {k: v for k, v in asdict(self).items() if k not in ("name", "description", "sources")}
        if self.levels.DRAM.burst_bytes == 1:
            # logs written before there were least transfers, or pages, belong to the same machine
            del plain["levels"]["DRAM"]["burst_bytes"]
        if self.levels.DRAM.pages is None:
            del plain["levels"]["DRAM"]["pages"]
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def numbers(self) -> tuple[tuple[str, object], ...]:
        """Every numeric field as (dotted path, value)."""
        return tuple(_numbers("", self))

    def __str__(self) -> str:
        spm = self.levels.SPM
        size = (
            " + ".join(f"{o.name} {format_capacity(spm.capacity_of(o))}" for o in Operand)
            if spm.is_split
            else format_capacity(spm.capacity_of(Operand.I))
        )
        burst_bytes, pages = self.levels.DRAM.burst_bytes, self.levels.DRAM.pages
        least = (f" of whole {burst_bytes} B" if burst_bytes > 1 else "") + (f", {pages}" if pages is not None else "")
        return (
            f"{self.name}: {self.cores.count} x {self.pe.rows}x{self.pe.cols} PEs at {format_si(self.clock_hz, 'Hz')}, "
            f"RF {self.levels.RF.capacity_bytes} B, SPM {size}, DMA {self.dma_bytes_per_cycle:.4g} B/cycle "
            f"+ {self.burst_startup_cycles:.4g} cycles/burst{least}"
        )


def archs() -> tuple[str, ...]:
    """Names of the built-in accelerators."""
    return tuple(sorted(path.stem for path in _preset_dir().glob("*.toml")))


def load_arch(name_or_path: str | Path | Arch) -> Arch:
    """An accelerator by preset name or from a TOML file.

    Args:
        name_or_path: A name of ``archs()``, with or without a leading ``spm/``, or the path of a file.

    Raises:
        ArchError: No such preset or file, or a field is missing, misspelt or out of range; names the field.
    """
    if isinstance(name_or_path, Arch):
        return name_or_path
    text = str(name_or_path)
    preset = text.removeprefix("spm/")
    if preset in archs():
        return parse_arch((_preset_dir() / f"{preset}.toml").read_text(encoding="utf-8"), origin=f"archs/{preset}.toml")
    path = Path(text)
    if path.suffix != ".toml" and not os.path.exists(path):
        raise ArchError(
            f"unknown accelerator {shown(text)}: {did_you_mean(preset, archs())} (or give the path of a .toml file)"
        )
    content = read_regular(path, max_bytes=MAX_FILE_BYTES, error=ArchError)
    try:
        return parse_arch(content.decode(), origin=str(path))
    except UnicodeDecodeError as error:
        raise ArchError(f"{path}: cannot read: not a UTF-8 text file") from error


def parse_arch(text: str, *, origin: str) -> Arch:
    """An accelerator from TOML text.

    Args:
        text: The file's content.
        origin: What errors call the file.

    Raises:
        ArchError: Not TOML, or a field is missing, misspelt or out of range.
    """
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except RecursionError:
        raise ArchError(f"{origin}: not valid TOML: brackets or tables are nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or Python's limit for the digits of a number
        raise ArchError(f"{origin}: not valid TOML: {error}") from error
    sources = data.pop("sources", {})
    if not isinstance(sources, dict) or not all(isinstance(v, str) for v in sources.values()):
        raise ArchError(f"{origin}: sources: must map field paths to texts")
    data["sources"] = tuple(sorted(sources.items()))
    try:
        arch = TypeAdapter(Arch).validate_python(data)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if not _is_untaken_branch(problem)]
        raise ArchError("\n".join(_explain(origin, data, problem) for problem in problems[:5])) from None
    known = {path for path, _ in arch.numbers()}
    for path, _ in arch.sources:
        if path not in known:
            raise ArchError(f"{origin}: sources.{path!r}: no such numeric field; {did_you_mean(path, known)}")
    return arch


def _preset_dir() -> Path:
    return Path(__file__).parent / "archs"


def _numbers(prefix: str, node: Any) -> list[tuple[str, object]]:  # noqa: ANN401 (a tree of dataclasses)
    found: list[tuple[str, object]] = []
    for field in fields(node):
        value = getattr(node, field.name)
        path = f"{prefix}{field.name}"
        if is_dataclass(value):
            found += _numbers(path + ".", value)
        elif isinstance(value, (int, float)):
            found.append((path, value))
    return found


_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def _is_untaken_branch(problem: Any) -> bool:  # noqa: ANN401 (pydantic's error dict)
    """Whether this is about the form of a scratchpad capacity that the file did not choose: one number, or a split."""
    if (
        "SPM" not in problem["loc"]
        or "capacity_bytes" not in problem["loc"]
        or problem["type"] not in ("int_type", "dataclass_type")
    ):
        return False
    return isinstance(problem["input"], dict) == (problem["type"] == "int_type")


def _explain(origin: str, data: dict[str, Any], problem: Any) -> str:  # noqa: ANN401 (pydantic's error dict)
    parts = [str(part) for part in problem["loc"] if str(part) not in ("int", "constrained-int", "SplitBytes")]
    path, kind, value = ".".join(parts), problem["type"], problem["input"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        siblings = _field_names(parts[:-1])
        near = difflib.get_close_matches(parts[-1], siblings, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(siblings)}"
        return f"{origin}: {path}: unknown field; {hint}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        given = data
        for part in parts[:-1]:
            given = given.get(part, {}) if isinstance(given, dict) else {}
        return f"{origin}: {path}: missing; this section has {', '.join(sorted(given)) or 'no fields'}"
    if isinstance(value, dict) and kind == "int_type":
        parts_given = ", ".join(f"{name}={shown(part)}" for name, part in list(value.items())[:8])
        return f"{origin}: {path} = {{{parts_given}}}: must be one number; only levels.SPM may be split per operand"
    if isinstance(value, dict) and kind == "pair":
        return f"{origin}: {path}.{problem['msg']}"
    context = problem.get("ctx", {})
    bounds = [f"{sign} {context[name]:,.13g}" for name, sign in _BOUNDS.items() if name in context]
    if bounds:
        return f"{origin}: {path} = {shown(value)}: must be {' and '.join(bounds)}"
    return f"{origin}: {path} = {shown(value)}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def _field_names(parts: list[str]) -> list[str]:
    node: Any = Arch
    sections = {
        "cores": Cores, "pe": PeArray, "mac": Mac, "levels": Levels, "noc": Noc, "dma": Dma, "vector": VectorUnit,
        "RF": RegisterFile, "SPM": Scratchpad, "DRAM": Dram, "capacity_bytes": SplitBytes, "pages": Pages,
    }  # fmt: skip
    if parts:
        node = sections.get(parts[-1], Arch)
    return [field.name for field in fields(node)]
