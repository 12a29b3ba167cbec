"""The command ``tvm-spm``: argument parsing and printing only."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tvm_spm import interrupt
from tvm_spm.arch import Arch, load_arch
from tvm_spm.arch import archs as arch_names
from tvm_spm.errors import NoMappingError, SpmError
from tvm_spm.mapping import Mapping
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.constraints import dataflow as dataflow_constraints
from tvm_spm.terminal import EscapedFormatter, console, one_line, printable
from tvm_spm.tuning.text import print_result
from tvm_spm.units import parse_whole, shown
from tvm_spm.workload import Workload

if TYPE_CHECKING:
    from tvm_spm.result import SearchResult

HELP = "Find how a network runs best on an accelerator with scratchpad memory, and show that it computes the same."

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)
search_app = typer.Typer(no_args_is_help=True, help="Find the best mapping of one layer in a stated space.")
app.add_typer(search_app, name="search")


class Objective(str, Enum):
    """What to minimise."""

    edp = "edp"
    energy = "energy"
    latency = "latency"


class Model(str, Enum):
    """Which model prices mappings in ``search``."""

    analytical = "analytical"
    simulator = "simulator"
    dmazerunner = "dmazerunner"


class SearcherName(str, Enum):
    """How ``search`` looks for mappings."""

    exact = "exact"
    evolutionary = "evolutionary"
    random = "random"
    dmazerunner_pruned = "dmazerunner-pruned"


TargetOption = Annotated[str, typer.Option("--target", "--arch", help="A name of `tvm-spm archs` or a TOML file.")]
ObjectiveOption = Annotated[Objective, typer.Option(help="What to minimise.")]
TrialsOption = Annotated[int | None, typer.Option(min=1, help="Measured mappings per task.", show_default="64")]
TimeOption = Annotated[float | None, typer.Option(min=0.0, help="Seconds until the search ends.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
ConstraintOption = Annotated[
    list[str] | None, typer.Option("--constraint", help="Such as SPM.K=32, rows=OY, strict:OY|OX; may be repeated.")
]
DataflowOption = Annotated[
    str | None, typer.Option(help="OS, WS, RS or TPU: unroll just these two loops; OS:replicated unrolls others too.")
]
TraceOption = Annotated[Path | None, typer.Option(help="Write a timeline that Perfetto and chrome://tracing open.")]
PlotOption = Annotated[Path | None, typer.Option(help="Draw the first tiles and the SPM occupancy: .svg or .png.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="An .onnx or .relay file or a built-in model such as resnet18.")],
    target: TargetOption = "spm/dmazerunner-256",
    objective: ObjectiveOption = Objective.edp,
    trials: TrialsOption = None,
    time_limit: TimeOption = None,
    seed: SeedOption = 0,
    workdir: Annotated[Path | None, typer.Option(help="Keeps trials and schedules; a second run continues.")] = None,
    fusion: Annotated[bool, typer.Option("--fusion/--no-fusion", help="Run several layers as one.")] = True,
    plot: Annotated[Path | None, typer.Option(help="Draw the layers and their groups: .svg or .png.")] = None,
    shape: Annotated[list[str] | None, typer.Option(help="NAME=1,3,224,224 for an input without fixed shape.")] = None,
    params: Annotated[
        Path | None, typer.Option(help="Weights of a .relay file: of relay.save_param_dict, or .npz.")
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            help="Refuse a model whose tensors need more, such as 8GiB.", show_default="a quarter of this machine's"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tune, verify and time every layer of a network."""
    from tvm_spm.report.output_file import check_picture
    from tvm_spm.tuner import tune as run

    if plot is not None:
        if not fusion:
            raise SpmError("--plot draws the layers that run as one; leave out --no-fusion")
        check_picture(plot)
    result = run(
        model,
        target,
        objective=objective.value,
        trials=trials,
        time_limit_s=time_limit,
        seed=seed,
        workdir=workdir,
        fusion=fusion,
        shapes=dict(_parse_shape(text) for text in shape or []),
        params=params,
        max_memory_bytes=None if max_memory is None else _parse_bytes(max_memory),
        progress=True,
    )
    if as_json:
        _print(json.dumps(result.as_dict(), indent=1))
    else:
        print_result(result)
    if plot is not None:
        result.draw(plot)
    if result.verified is False:
        raise typer.Exit(1)


@search_app.command("conv2d")
def search_conv2d(
    K: Annotated[int, typer.Option("--K", help="Output channels.")],
    C: Annotated[int, typer.Option("--C", help="Input channels.")],
    OY: Annotated[int, typer.Option("--OY", help="Output rows.")],
    OX: Annotated[int, typer.Option("--OX", help="Output columns.")],
    FY: Annotated[int, typer.Option("--FY", help="Filter rows.")],
    FX: Annotated[int, typer.Option("--FX", help="Filter columns.")],
    N: Annotated[int, typer.Option("--N", help="Batch.")] = 1,
    stride: Annotated[int, typer.Option(help="Both directions.")] = 1,
    dilation: Annotated[int, typer.Option(help="Both directions.")] = 1,
    padding: Annotated[int, typer.Option(help="All sides.")] = 0,
    groups: Annotated[int, typer.Option(help="Divides K and C.")] = 1,
    IY: Annotated[int | None, typer.Option("--IY", help="Input rows; default the smallest that fits.")] = None,
    IX: Annotated[int | None, typer.Option("--IX", help="Input columns.")] = None,
    dtype: Annotated[str, typer.Option(help="Of input and weight.")] = "int16",
    out_dtype: Annotated[str | None, typer.Option(help="Of the accumulated output.", show_default="dtype")] = None,
    target: TargetOption = "dmazerunner-256",
    objective: ObjectiveOption = Objective.edp,
    model: Annotated[Model, typer.Option(help="Who prices.")] = Model.analytical,
    searcher: Annotated[SearcherName, typer.Option(help="Who looks.")] = SearcherName.exact,
    trials: TrialsOption = None,
    time_limit: TimeOption = None,
    seed: SeedOption = 0,
    constraint: ConstraintOption = None,
    dataflow: DataflowOption = None,
    trace: TraceOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """A convolution; K and C count channels over all groups."""
    workload = Workload.conv2d(
        N=N, K=K, C=C, OY=OY, OX=OX, FY=FY, FX=FX, stride=stride, dilation=dilation, padding=padding, groups=groups,
        IY=IY, IX=IX, dtype=dtype, out_dtype=out_dtype,
    )  # fmt: skip
    constraints = _constraints(constraint, dataflow)
    _search(
        workload, target, objective, model, searcher, constraints, trials, time_limit, seed, trace, plot,
        as_json=as_json,
    )  # fmt: skip


@search_app.command("matmul")
def search_matmul(
    m: Annotated[int, typer.Option("--m", help="Rows of the result.")],
    k: Annotated[int, typer.Option("--k", help="Summed extent.")],
    n: Annotated[int, typer.Option("--n", help="Columns of the result.")],
    batch: Annotated[int, typer.Option(help="Independent products.")] = 1,
    dtype: Annotated[str, typer.Option(help="Of both inputs.")] = "int16",
    out_dtype: Annotated[str | None, typer.Option(help="Of the accumulated output.", show_default="dtype")] = None,
    target: TargetOption = "dmazerunner-256",
    objective: ObjectiveOption = Objective.edp,
    model: Annotated[Model, typer.Option(help="Who prices.")] = Model.analytical,
    searcher: Annotated[SearcherName, typer.Option(help="Who looks.")] = SearcherName.exact,
    trials: TrialsOption = None,
    time_limit: TimeOption = None,
    seed: SeedOption = 0,
    constraint: ConstraintOption = None,
    dataflow: DataflowOption = None,
    trace: TraceOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """A (batched) matrix product."""
    workload = Workload.matmul(m=m, k=k, n=n, batch=batch, dtype=dtype, out_dtype=out_dtype)
    constraints = _constraints(constraint, dataflow)
    _search(
        workload, target, objective, model, searcher, constraints, trials, time_limit, seed, trace, plot,
        as_json=as_json,
    )  # fmt: skip


@app.command()
def show(
    workdir: Annotated[Path, typer.Argument(help="A directory that `tune --workdir` filled.")],
    task: Annotated[str | None, typer.Option(help="Name of a task.", show_default="the first")] = None,
    objective: ObjectiveOption = Objective.edp,
    trace: TraceOption = None,
    plot: PlotOption = None,
) -> None:
    """Show the best mapping of a task: its nest, its cost, and where cycles and energy go; and the fused groups."""
    from tvm_spm.report.show import show_text
    from tvm_spm.tuning.saved_run import best_trial, load_plan

    _check_outputs(trace, plot)
    _, workload, arch, trial = best_trial(workdir, task, objective.value)
    _print(show_text(workload, arch, trial.mapping))
    _write_timeline(workload, arch, trial.mapping, trace, plot)
    fused = [group for group in load_plan(workdir) if len(group.layers) > 1]
    if fused:
        _print("\n".join(["", "layers that run as one:", *(f"  {group}" for group in fused)]))


@app.command()
def replay(
    workdir: Annotated[Path, typer.Argument(help="A directory that `tune --workdir` filled.")],
    objective: ObjectiveOption = Objective.edp,
    as_json: JsonOption = False,
) -> None:
    """Measure the best mapping of every task again and compare with the log; exit code 1 if one differs."""
    from tvm_spm.tuner import evaluate
    from tvm_spm.tuning.saved_run import best_trials

    rows = []
    for name, workload, arch, trial in best_trials(workdir, objective.value):
        assert trial.cost is not None
        again = evaluate(workload, arch, trial.mapping)
        same = (again.cycles, again.energy_pj) == (trial.cost.cycles, trial.cost.energy_pj)
        rows.append({"name": name, "mapping": trial.mapping.line(), "logged_cycles": trial.cost.cycles,
                     "cycles": again.cycles, "energy_pj": again.energy_pj, "same": same})  # fmt: skip
    if as_json:
        _print(json.dumps(rows, indent=1))
    else:
        table = Table("task")
        for heading in ("cycles in the log", "cycles now"):
            table.add_column(heading, justify="right")
        table.add_column("same")
        for row in rows:
            table.add_row(
                one_line(str(row["name"])),
                f"{row['logged_cycles']:,}",
                f"{row['cycles']:,}",
                "yes" if row["same"] else "NO",
            )
        console().print(table)
    if not rows or not all(row["same"] for row in rows):
        raise typer.Exit(1)


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="dlfusion or dmazerunner")],
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes long.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write CSV files and pictures there.")] = None,
) -> None:
    """Compute the tables of a paper again and print them beside what the paper says."""
    from tvm_spm.reproduce import reproduce as run

    _print(run(paper, quick=quick, out_dir=out))


@app.command()
def archs(
    name: Annotated[str | None, typer.Argument(help="Show every number of one accelerator, with its source.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the built-in accelerators, or show one in full."""
    chosen = [load_arch(each) for each in (arch_names() if name is None else (name,))]
    if as_json:
        _print(json.dumps([{"name": a.name, "sha256": a.sha256(), **dict(a.numbers())} for a in chosen], indent=1))
        return
    if name is None:
        for arch in chosen:
            _print(f"{arch}\n    {one_line(arch.description)}")
        return
    sources = dict(chosen[0].sources)
    table = Table("field", "value", "source", title=one_line(chosen[0].description), title_justify="left")
    for path, value in chosen[0].numbers():
        table.add_row(path, f"{value:,}", one_line(sources.get(path, "not given")))
    console().print(table)


def main() -> None:
    """Run the command line: exit code 0 for a result, 1 for none, 2 for a user's mistake, which gets one message.

    ``tvm_spm.__main__`` takes signals over before: one that comes before there is a result, or a second one, ends the
    process with 130 (Ctrl-C) or 143 (SIGTERM).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name may hold characters that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings = logging.StreamHandler()
    warnings.setFormatter(EscapedFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[warnings])
    try:
        app()
    except SpmError as error:
        print(printable(f"tvm-spm: {error}"), file=sys.stderr)  # noqa: T201 (the command line's own output)
        raise SystemExit(1 if isinstance(error, NoMappingError) else 2) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT) or error.filename is not None:
            raise
        print(f"tvm-spm: the result cannot be written to stdout: {error.strerror}", file=sys.stderr)  # noqa: T201
        # What is still buffered would fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(2) from None


def _search(
    workload: Workload,
    target: str,
    objective: Objective,
    model: Model,
    searcher: SearcherName,
    constraints: Constraints,
    trials: int | None,
    time_limit: float | None,
    seed: int,
    trace: Path | None,
    plot: Path | None,
    *,
    as_json: bool,
) -> None:
    from tvm_spm.report.show import show_text
    from tvm_spm.tuner import search as run
    from tvm_spm.tuning.warm_up import NOTICE, is_compiled, parts_of_search

    _check_outputs(trace, plot)
    parts = parts_of_search(measures=model is Model.simulator, is_exact=searcher is SearcherName.exact, perfect=True)
    if model is not Model.dmazerunner and not is_compiled(parts):
        typer.echo(f"tvm-spm: {NOTICE}", err=True)
    result = run(
        workload,
        load_arch(target),
        objective=objective.value,
        model=model.value,
        searcher=searcher.value,
        constraints=constraints,
        trials=trials,
        time_limit_s=time_limit,
        seed=seed,
    )
    if as_json:
        _print(json.dumps(result.as_dict(), indent=1))
    else:
        _print(_search_text(workload, target, result))
        if trace is not None or plot is not None:
            _print(f"\n{show_text(workload, load_arch(target), result.mapping)}")
    _write_timeline(workload, load_arch(target), result.mapping, trace, plot)


def _constraints(clauses: list[str] | None, name: str | None) -> Constraints:
    found = Constraints.parse(clauses or [])
    if name is None:
        return found
    base, _, kind = name.partition(":")
    if kind not in ("", "strict", "replicated"):
        raise SpmError(f"--dataflow {name!r}: after the colon comes 'strict' or 'replicated'")
    return found + dataflow_constraints(base, strict=kind != "replicated")


def _check_outputs(trace: Path | None, plot: Path | None) -> None:
    """Refuse files that cannot be written, before the search."""
    from tvm_spm.report.output_file import check_picture, check_writable

    if trace is not None:
        check_writable(trace)
    if plot is not None:
        check_picture(plot)


def _write_timeline(workload: Workload, arch: Arch, mapping: Mapping, trace: Path | None, plot: Path | None) -> None:
    """Write what is asked for; stdout is for the result, so what was written is said on stderr."""
    if trace is None and plot is None:
        return
    from tvm_spm.report.timeline import timeline

    events = timeline(workload, arch, mapping)
    if trace is not None:
        events.write_trace(trace)
        typer.echo(f"wrote {trace}", err=True)
    if plot is not None:
        events.plot(plot)
        typer.echo(f"wrote {plot}", err=True)


def _search_text(workload: Workload, target: str, result: SearchResult) -> str:
    gain = 1.0 if result.gain is None else result.gain
    against = f"{gain:.2f}x better {result.objective} than the default mapping"
    if gain < 1:
        against = (
            f"{1 / gain:.2f}x worse {result.objective} than the default mapping, which is outside of the space "
            "searched: its factors need not divide, nor keep to constraints; --searcher evolutionary tries such"
        )
    return f"{workload} on {target}\n\n{result}\n{against}"


def _parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, separator, dims = text.rpartition("=")
    extents = [parse_whole(part.strip()) for part in dims.split(",")]
    known = tuple(extent for extent in extents if extent)
    if not separator or not name or len(known) != len(extents):
        raise SpmError(f"--shape {shown(text)}: expected NAME=1,3,224,224 with whole numbers >= 1 of at most 18 digits")
    return name, known


def _parse_bytes(text: str) -> int:
    digits = text.rstrip("BKMGTi")
    factor = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}.get(text[len(digits) :])
    number = parse_whole(digits)
    if number is None or factor is None:
        raise SpmError(f"--max-memory {shown(text)}: expected a whole number of bytes, or of KiB, MiB, GiB or TiB")
    return number * factor


def _print(text: str) -> None:
    typer.echo(printable(text))


if __name__ == "__main__":
    interrupt.own_process()
    main()
