"""``tvm-spm search``: the best mapping of one layer."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tvm_spm.arch import load_arch
from tvm_spm.cli.options import DtypeOutOption, Factors, Model, SearchOptions, spread
from tvm_spm.cli.output import check_outputs, print_text, write_timeline
from tvm_spm.errors import SpmError
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.constraints import dataflow as dataflow_constraints
from tvm_spm.workload import Workload

if TYPE_CHECKING:
    from tvm_spm.result import SearchResult

search_app = typer.Typer(no_args_is_help=True, help="Find the best mapping of one layer in a stated space.")


@search_app.command("conv2d")
@spread
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
    out_dtype: DtypeOutOption = None,
    *,
    options: SearchOptions,
) -> None:
    """A convolution; K and C count channels over all groups."""
    workload = Workload.conv2d(
        N=N, K=K, C=C, OY=OY, OX=OX, FY=FY, FX=FX, stride=stride, dilation=dilation, padding=padding, groups=groups,
        IY=IY, IX=IX, dtype=dtype, out_dtype=out_dtype,
    )  # fmt: skip
    _search(workload, options)


@search_app.command("matmul")
@spread
def search_matmul(
    m: Annotated[int, typer.Option("--m", help="Rows of the result.")],
    k: Annotated[int, typer.Option("--k", help="Summed extent.")],
    n: Annotated[int, typer.Option("--n", help="Columns of the result.")],
    batch: Annotated[int, typer.Option(help="Independent products.")] = 1,
    dtype: Annotated[str, typer.Option(help="Of both inputs.")] = "int16",
    out_dtype: DtypeOutOption = None,
    *,
    options: SearchOptions,
) -> None:
    """A (batched) matrix product."""
    _search(Workload.matmul(m=m, k=k, n=n, batch=batch, dtype=dtype, out_dtype=out_dtype), options)


def _search(workload: Workload, options: SearchOptions) -> None:
    from tvm_spm.report.roofs import roof_columns, roof_text
    from tvm_spm.report.show import show_text
    from tvm_spm.tuner import evaluate, search
    from tvm_spm.tuning.warm_up import NOTICE, is_compiled, parts_of_search

    constraints = _constraints(options.constraint, options.dataflow)
    check_outputs(options.trace, options.plot)
    arch = load_arch(options.target)
    measures = options.model is Model.simulator or arch.levels.DRAM.pages is not None
    perfect = options.factors is Factors.perfect
    parts = parts_of_search(measures=measures, is_exact=options.searcher == "exact", perfect=perfect)
    if options.model is not Model.dmazerunner and not is_compiled(parts):
        typer.echo(f"tvm-spm: {NOTICE}", err=True)
    result = search(
        workload, arch, objective=options.objective, model=options.model.value, searcher=options.searcher,
        factors=options.factors.value, constraints=constraints, trials=options.trials,
        time_limit_s=options.time_limit, seed=options.seed, progress=sys.stderr.isatty(),
    )  # fmt: skip
    if options.as_json:
        print_text(json.dumps(result.as_dict() | roof_columns(workload, arch, result.cost), indent=1))
    else:
        print_text(_search_text(workload, options.target, result))
        print_text(roof_text(workload, arch, result.cost))
        if options.model is Model.analytical and arch.levels.DRAM.pages is not None:
            cost = evaluate(workload, arch, result.mapping, model=options.model.value)
            print_text(f"open pages are priced by the simulator; the analytical model says {cost}")
        if options.trace is not None or options.plot is not None:
            print_text(f"\n{show_text(workload, arch, result.mapping)}")
    write_timeline(workload, arch, result.mapping, options.trace, options.plot)


def _constraints(clauses: list[str] | None, name: str | None) -> Constraints:
    found = Constraints.parse(clauses or [])
    if name is None:
        return found
    base, _, kind = name.partition(":")
    if kind not in ("", "strict", "replicated"):
        raise SpmError(f"--dataflow {name!r}: after the colon comes 'strict' or 'replicated'")
    return found + dataflow_constraints(base, strict=kind != "replicated")


def _search_text(workload: Workload, target: str, result: SearchResult) -> str:
    gain = 1.0 if result.gain is None else result.gain
    against = f"{gain:.2f}x better {result.objective} than the default mapping"
    if gain < 1:
        why = "is outside of the space searched: its factors need not divide, nor keep to constraints"
        if "with perfect factors" in result.space:
            why += "; --factors any searches all factors"
        if result.ended_by:
            why = "the search had not reached when it ended"
        against = f"{1 / gain:.2f}x worse {result.objective} than the default mapping, which {why}"
    lines = [f"{workload} on {target}\n", str(result), against]
    if result.ended_by.startswith("a budget"):
        lines.append("--time-limit SECONDS searches longer")
    return "\n".join(lines)
