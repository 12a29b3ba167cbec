"""All commands but ``search``, and what ends the process with which exit code."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tvm_spm import __version__
from tvm_spm.arch import archs as arch_names
from tvm_spm.arch import load_arch
from tvm_spm.cli.options import (
    JsonOption,
    MeasuredBy,
    ObjectiveOption,
    PlotOption,
    SeedOption,
    TargetOption,
    TimeOption,
    TraceOption,
    TuneTrialsOption,
    parse_bytes,
    parse_shape,
    parse_value,
)
from tvm_spm.cli.output import check_outputs, print_text, write_timeline
from tvm_spm.cli.search import search_app
from tvm_spm.cli.workers import DaskOption, WorkersOption, executor_of
from tvm_spm.errors import NoMappingError, SpmError
from tvm_spm.objective import Objective
from tvm_spm.terminal import EscapedFormatter, console, one_line, printable
from tvm_spm.tuning.measurer import CommandMeasurer, Measurer
from tvm_spm.tuning.text import print_result
from tvm_spm.units import shown

HELP = "Find how a network runs best on an accelerator with scratchpad memory, and show that it computes the same."

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)
app.add_typer(search_app, name="search")


def _show_version(asked: bool) -> None:  # noqa: FBT001 (typer calls it so)
    if asked:
        print_text(f"tvm-spm {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that stand before a command."""


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="An .onnx, .relay or .pt2 file or a built-in model such as resnet18.")],
    target: TargetOption = "spm/dmazerunner-256",
    objective: ObjectiveOption = Objective.EDP,
    trials: TuneTrialsOption = None,
    time_limit: TimeOption = None,
    seed: SeedOption = 0,
    workdir: Annotated[Path | None, typer.Option(help="Keeps trials and schedules; a second run continues.")] = None,
    fusion: Annotated[bool, typer.Option("--fusion/--no-fusion", help="Run several layers as one.")] = True,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Compare with prior dataflows and random search.")
    ] = True,
    measurer: Annotated[
        MeasuredBy,
        typer.Option(help="Who says how long a mapping takes: the simulator, or hardware simulated by Verilator."),
    ] = MeasuredBy.simulator,
    measure_command: Annotated[
        str | None, typer.Option(help="A command that reads a mapping as JSON and prints cycles, instead of both.")
    ] = None,
    measure_timeout: Annotated[
        float | None, typer.Option(help="Seconds until --measure-command counts as failed.", show_default="600")
    ] = None,
    measure_groups: Annotated[
        bool, typer.Option("--measure-groups", help="Let --measure-command say how long layers take that run as one.")
    ] = False,
    workers: WorkersOption = None,
    dask: DaskOption = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Where answers of hardware are kept for all networks: a file, or none.",
            show_default="in the user's cache",
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the layers and their groups: .svg or .png.")] = None,
    shape: Annotated[list[str] | None, typer.Option(help="NAME=1,3,224,224 for an input without fixed shape.")] = None,
    value: Annotated[list[str] | None, typer.Option(help="NAME=16000 for an input that never changes.")] = None,
    params: Annotated[
        Path | None, typer.Option(help="Weights of a .relay file: of relay.save_param_dict, or .npz.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Of a built-in model: float32, float16, bfloat16 or int8.",
            show_default="as wide as the accelerator's word",
        ),
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

    if measure_command is not None and measurer is not MeasuredBy.simulator:
        raise SpmError(f"--measurer {measurer.value} and --measure-command: give one of them")
    if measure_command is None and measure_timeout is not None:
        raise SpmError(f"--measure-timeout {measure_timeout:g}: only with --measure-command")
    if measure_command is None and measure_groups:
        raise SpmError("--measure-groups: only with --measure-command")
    if plot is not None:
        if not fusion:
            raise SpmError("--plot draws the layers that run as one; leave out --no-fusion")
        check_picture(plot)
    with ExitStack() as until_tuned:
        executor = until_tuned.enter_context(executor_of(workers, dask))
        result = run(
            model,
            target,
            objective=objective,
            trials=trials,
            time_limit_s=time_limit,
            seed=seed,
            workdir=workdir,
            measurer=_measurer(measurer, target)
            if measure_command is None
            else _command(measure_command, measure_timeout, times_groups=measure_groups),
            store=store,
            executor=executor,
            fusion=fusion,
            baselines=baselines,
            shapes=dict(parse_shape(text) for text in shape or []),
            values=dict(parse_value(text) for text in value or []),
            params=params,
            dtype=dtype,
            max_memory_bytes=None if max_memory is None else parse_bytes(max_memory),
            progress=True,
        )
    if as_json:
        print_text(json.dumps(result.as_dict(), indent=1))
    else:
        print_result(result)
    if plot is not None:
        result.draw(plot)
    if result.verified is False:
        raise typer.Exit(1)


def _command(text: str, timeout_s: float | None, *, times_groups: bool) -> Measurer:
    """The measurer of a command line.

    Raises:
        SpmError: It is none, or the time is not positive.
    """
    try:
        command = tuple(shlex.split(text))
    except ValueError as error:
        raise SpmError(f"--measure-command {shown(text)}: {error}") from None
    if not command:
        raise SpmError("--measure-command: must name a program")
    made = CommandMeasurer(name="command", command=command, times_groups=times_groups)
    if timeout_s is None:
        return made
    if not timeout_s > 0:
        raise SpmError(f"--measure-timeout {timeout_s:g}: must be > 0")
    return replace(made, timeout_s=timeout_s)


def _measurer(who: MeasuredBy, target: str) -> Measurer | None:
    if who is MeasuredBy.simulator:
        return None
    from tvm_spm.tuning.rtl import RtlMeasurer

    return RtlMeasurer.of(load_arch(target))


@app.command()
def show(
    workdir: Annotated[Path, typer.Argument(help="A directory that `tune --workdir` filled.")],
    task: Annotated[str | None, typer.Option(help="Name of a task.", show_default="the first")] = None,
    objective: ObjectiveOption = Objective.EDP,
    trace: TraceOption = None,
    plot: PlotOption = None,
) -> None:
    """Show the best mapping of a task: its nest, its cost, and where cycles and energy go; and the fused groups."""
    from tvm_spm.report.show import show_text
    from tvm_spm.tuning.saved_run import best_trial, load_plan

    check_outputs(trace, plot)
    _, workload, arch, trial = best_trial(workdir, task, objective)
    print_text(show_text(workload, arch, trial.mapping))
    write_timeline(workload, arch, trial.mapping, trace, plot)
    plan = load_plan(workdir)
    fused = [group for group in plan if len(group.layers) > 1 and group.together is None]
    together = [group for group in plan if group.together is not None]
    for title, groups in (("layers that run as one:", fused), ("at the same time as others:", together)):
        if groups:
            print_text("\n".join(["", title, *(f"  {group}" for group in groups)]))


@app.command()
def replay(
    workdir: Annotated[Path, typer.Argument(help="A directory that `tune --workdir` filled.")],
    objective: ObjectiveOption = Objective.EDP,
    as_json: JsonOption = False,
) -> None:
    """Measure the best mapping of every task again and compare with the log; exit code 1 if one differs."""
    from tvm_spm.tuner import evaluate
    from tvm_spm.tuning.saved_run import best_trials

    rows = []
    for name, workload, arch, trial in best_trials(workdir, objective):
        assert trial.cost is not None
        again = evaluate(workload, arch, trial.mapping)
        same = (again.cycles, again.energy_pj) == (trial.cost.cycles, trial.cost.energy_pj)
        rows.append({"name": name, "mapping": trial.mapping.line(), "logged_cycles": trial.cost.cycles,
                     "cycles": again.cycles, "energy_pj": again.energy_pj, "same": same})  # fmt: skip
    if as_json:
        print_text(json.dumps(rows, indent=1))
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
def export(
    workdir: Annotated[Path, typer.Argument(help="A directory that `tune --workdir` filled.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to write; made if it is missing.")],
    task: Annotated[str | None, typer.Option(help="Name of a task.", show_default="all")] = None,
    objective: ObjectiveOption = Objective.EDP,
    model: Annotated[
        str | None, typer.Option(help="The network that was tuned.", show_default="where tune found it")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write what every core executes: instructions, constants, memory map, C header and a README of all fields."""
    from tvm_spm.tuning.export import export_workdir

    done = export_workdir(workdir, out, objective=objective, task=task, model=model)
    if as_json:
        found = {
            "directories": [str(path) for path in done.directories],
            "left_out": [{"name": name, "reason": reason} for name, reason in done.left_out],
        }
        print_text(json.dumps(found, indent=1))
        return
    for path in done.directories:
        print_text(one_line(str(path)))
    for name, reason in done.left_out:
        print_text(f"without streams: {one_line(name)}: {one_line(reason)}")
    print_text(f"{one_line(str(out / 'README.md'))} explains all fields")


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="dlfusion or dmazerunner")],
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes long.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write CSV files and pictures there.")] = None,
) -> None:
    """Compute the tables of a paper again and print them beside what the paper says."""
    from tvm_spm.reproduce import reproduce as run

    print_text(run(paper, quick=quick, out_dir=out))


@app.command()
def rtl(
    arch: Annotated[str, typer.Argument(help="A name of `tvm-spm archs` or a TOML file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A directory; made if it is missing.")],
    area: Annotated[bool, typer.Option("--area/--no-area", help="Count cells and memory bits with Yosys.")] = True,
) -> None:
    """Write an accelerator as SystemVerilog with a testbench, and count what it is made of."""
    from tvm_spm.rtl.area import area_text, count_area
    from tvm_spm.rtl.build import make_folder, write_sources
    from tvm_spm.rtl.parameters import parameters_of

    parameters = parameters_of(load_arch(arch))
    folder = make_folder(out)
    # counted for what stood there before
    (out / "area.txt").unlink(missing_ok=True)
    for path in write_sources(parameters, folder):
        typer.echo(f"wrote {path}", err=True)
    if area:
        typer.echo("counting cells with Yosys, about a minute; --no-area leaves it out", err=True)
        text = area_text(count_area(parameters))
        (out / "area.txt").write_text(text + "\n", encoding="utf-8")
        print_text(text)


@app.command()
def archs(
    name: Annotated[str | None, typer.Argument(help="Show every number of one accelerator, with its source.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the built-in accelerators, or show one in full."""
    chosen = [load_arch(each) for each in (arch_names() if name is None else (name,))]
    if as_json:
        print_text(json.dumps([{"name": a.name, "sha256": a.sha256(), **dict(a.numbers())} for a in chosen], indent=1))
        return
    if name is None:
        for arch in chosen:
            print_text(f"{arch}\n    {one_line(arch.description)}")
        return
    sources = dict(chosen[0].sources)
    table = Table("field", "value", "source", title=one_line(chosen[0].description), title_justify="left")
    for path, value in chosen[0].numbers():
        table.add_row(path, f"{value:,}", one_line(sources.get(path, "not given")))
    console().print(table)


@app.command()
def models(as_json: JsonOption = False) -> None:
    """List the built-in networks."""
    from tvm_spm.frontend.models import BUILT_IN, DTYPES

    listed = [
        {"name": name, "summary": each.summary, "inputs": {key: list(shape) for key, shape in each.inputs.items()}}
        for name, each in BUILT_IN.items()
    ]
    if as_json:
        print_text(json.dumps(listed, indent=1))
        return
    table = Table("network", "what", "input", title=f"--dtype {' | '.join(DTYPES)}", title_justify="left")
    for name, each in BUILT_IN.items():
        first, *more = each.inputs.items()
        shape = ",".join(str(extent) for extent in first[1])
        table.add_row(name, each.summary, f"{first[0]} {shape}{f' and {len(more)} more' if more else ''}")
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
