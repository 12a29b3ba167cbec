"""Options that several commands share, each declared once, and texts that are read as values."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, get_type_hints

import typer

from tvm_spm.errors import SpmError
from tvm_spm.objective import Objective
from tvm_spm.units import parse_whole, shown


class Model(str, Enum):
    """Which model prices mappings in ``search``."""

    analytical = "analytical"
    simulator = "simulator"
    dmazerunner = "dmazerunner"


class Factors(str, Enum):
    """Into what loops are cut in ``search``."""

    any = "any"
    perfect = "perfect"


class MeasuredBy(str, Enum):
    """Who measures mappings in ``tune``."""

    simulator = "simulator"
    rtl = "rtl"


TargetOption = Annotated[str, typer.Option("--target", "--arch", help="A name of `tvm-spm archs` or a TOML file.")]
ObjectiveOption = Annotated[Objective, typer.Option(help="What to minimise.")]
TrialsOption = Annotated[int | None, typer.Option(min=1, help="Mappings measured per task at most.", show_default="64")]
TuneTrialsOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Mappings measured per task at most; on average with a measurer of your own.", show_default="64"
    ),
]
TimeOption = Annotated[float | None, typer.Option(min=0.0, help="Seconds until the search ends.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
TraceOption = Annotated[Path | None, typer.Option(help="Write a timeline that Perfetto and chrome://tracing open.")]
PlotOption = Annotated[Path | None, typer.Option(help="Draw the first tiles and the SPM occupancy: .svg or .png.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
DtypeOutOption = Annotated[str | None, typer.Option(help="Of the accumulated output.", show_default="dtype")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What every search of a layer can be told."""

    target: TargetOption = "dmazerunner-256"
    objective: ObjectiveOption = Objective.EDP
    model: Annotated[Model, typer.Option(help="Who prices.")] = Model.analytical
    # A text and no choice of the parser, so that a wrong name is answered with the nearest right one.
    searcher: Annotated[
        str, typer.Option(help="Who looks.", metavar="<exact|evolutionary|random|dmazerunner-pruned>")
    ] = "exact"
    factors: Annotated[
        Factors, typer.Option(help="Only for exact: with perfect factors, all tiles divide what they are tiles of.")
    ] = Factors.any
    trials: TrialsOption = None
    time_limit: TimeOption = None
    seed: SeedOption = 0
    constraint: Annotated[
        list[str] | None,
        typer.Option("--constraint", help="Such as SPM.K=32, rows=OY, strict:OY|OX; may be repeated."),
    ] = None
    dataflow: Annotated[
        str | None,
        typer.Option(help="OS, WS, RS or TPU: unroll just these two loops; OS:replicated unrolls others too."),
    ] = None
    trace: TraceOption = None
    plot: PlotOption = None
    as_json: JsonOption = False


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters of dataclasses are options, one for each field, in their place."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not (isinstance(kind, type) and is_dataclass(kind)):
            parameters.append(parameter)
            continue
        hints = get_type_hints(kind, include_extras=True)
        groups[parameter.name] = kind, [field.name for field in fields(kind)]
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[field.name],
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
            )
            for field in fields(kind)
        ]  # fmt: skip

    @functools.wraps(command)
    def called(**given: object) -> None:
        grouped = {name: kind(**{each: given.pop(each) for each in names}) for name, (kind, names) in groups.items()}
        command(**given, **grouped)

    signature = inspect.Signature([each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters])
    called.__signature__ = signature  # type: ignore[attr-defined]
    return called


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``NAME=1,3,224,224`` as a name and a shape.

    Raises:
        SpmError: It is something else.
    """
    name, separator, dims = text.rpartition("=")
    extents = [parse_whole(part.strip()) for part in dims.split(",")]
    known = tuple(extent for extent in extents if extent)
    if not separator or not name or len(known) != len(extents):
        raise SpmError(f"--shape {shown(text)}: expected NAME=1,3,224,224 with whole numbers >= 1 of at most 18 digits")
    return name, known


def parse_value(text: str) -> tuple[str, list[float]]:
    """``NAME=16000`` or ``NAME=1,0.5`` as a name and numbers.

    Raises:
        SpmError: It is something else.
    """
    name, separator, numbers = text.rpartition("=")
    parts = [part.strip() for part in numbers.split(",")]
    try:
        known = [parse_whole(part) if part.isdigit() else float(part) for part in parts]
    except ValueError:
        known = [None]
    found = [number for number in known if number is not None]
    if not separator or not name or len(found) != len(parts):
        raise SpmError(f"--value {shown(text)}: expected NAME=16000, or as many numbers as the input has: NAME=1,0.5,2")
    return name, found


def parse_bytes(text: str) -> int:
    """An amount of memory in bytes.

    Raises:
        SpmError: It is something else.
    """
    digits = text.rstrip("BKMGTi")
    factor = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}.get(text[len(digits) :])
    number = parse_whole(digits)
    if number is None or factor is None:
        raise SpmError(f"--max-memory {shown(text)}: expected a whole number of bytes, or of KiB, MiB, GiB or TiB")
    return number * factor
