"""One layer of BERT base, Llama 3.2 1B and ViT-Ti: apart and fused, beside the roofs that no mapping can pass.

Source: ours; nothing published is compared. "Apart" runs every layer alone, in the mapping that the same run found for
it, so that only fusion differs. The roof of a product is what the resource that is met first needs for it (PEs, DRAM
channels, networks, SPM port, vector unit); that of a network adds those of its products and times of its vector work
as it runs alone, so a fused network may pass it. "First loads" are the cycles of all products before the array starts,
for tiles that nobody loaded ahead: loading weights of the next layer while this one runs could save those at most.

Then products of one row, as decode has them: what they reach and what bounds it, by the exact search under the
analytical model, for weights of 16, 8 and 4 bits. Expected time: half an hour on two cores, mostly for compiling and
running generated code; ``--quick`` takes the layer of ViT-Ti and the rows, a minute.

    python benchmarks/transformers.py [--quick] [--csv FILE] [--arch NAME ...] [--case NAME ...] [--trials N]
                                      [--table layers rows]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kept_rows import made_apart, read_rows, with_rows

import tvm_spm
from cost_model.roofs import roof_of
from tvm_spm.arch import load_arch
from tvm_spm.report.breakdown import explain
from tvm_spm.workload import Workload

CASES: dict[str, tuple[str, dict[str, tuple[int, ...]] | None]] = {
    "BERT 128": ("bert_base_layer", None),
    "BERT 512": ("bert_base_layer", {"data": (1, 512, 768)}),
    "Llama prefill 512": ("llama_layer", None),
    "Llama decode 2,048": ("llama_layer_decode", None),
    "ViT-Ti 197": ("vit_tiny_block", None),
}
"""Built-in networks, and shapes that differ from theirs."""

QUICK = "ViT-Ti 197"
ARCHS = ("edge-256", "quad-edge")
ROWS = {"4096 x 4096": (4096, 4096), "GPT-2 768 x 3072": (768, 3072), "Llama 2048 x 8192": (2048, 8192)}
"""Summed extent and columns of a product of one row."""

WIDTHS = {16: ("int16", "int16"), 8: ("int8", "int8"), 4: ("int8", "int4")}
"""Inputs and weights; sums have 32 bits."""

SHOWN = {
    "layers": [
        "case", "arch", "layers", "layers_fused", "cycles_apart", "cycles", "energy_pj_apart", "energy_pj", "edp_gain",
        "dram_bytes_apart", "dram_bytes", "utilization", "of_roof", "first_loads", "verified",
    ],
    "rows": [
        "case", "arch", "weight_bits", "cycles", "utilization", "bound_by", "roof", "roof_utilization", "of_roof",
        "certified",
    ],
}  # fmt: skip
"""Columns of either table."""

_KEY = ["table", "case", "arch"]


def tune(case: str, arch: str, trials: int) -> dict[str, object]:
    """One row of the first table."""
    start, (network, shapes) = time.monotonic(), CASES[case]
    result = tvm_spm.tune(network, f"spm/{arch}", trials=trials, shapes=shapes)
    machine = load_arch(arch)
    roof_cycles = first_loads = 0
    for task in result.tasks:
        count, work = task.task.count, task.task.work
        is_product = isinstance(work, Workload)
        roof_cycles += count * (roof_of(work, machine).cycles if is_product else task.cost.cycles)
        if task.mapping is not None and is_product:
            first_loads += count * explain(work, machine, task.mapping).cycles_of("first load")
    fused, apart = result.cost, result.unfused_cost
    return {
        "case": case,
        "arch": arch,
        "arch_sha256": machine.sha256()[:12],
        "trials": trials,
        "layers": sum(task.task.count for task in result.tasks),
        "groups": json.dumps([(list(group.names), group.count) for group in result.groups]),
        "layers_fused": sum(len(group.names) * group.count for group in result.groups),
        "cycles_apart": apart.cycles,
        "cycles": fused.cycles,
        "energy_pj_apart": apart.energy_pj,
        "energy_pj": fused.energy_pj,
        "edp_gain": apart.edp_pj_cycles / fused.edp_pj_cycles,
        "dram_bytes_apart": sum(apart.dram_bytes),
        "dram_bytes": sum(fused.dram_bytes),
        "utilization": fused.utilization,
        "of_roof": roof_cycles / fused.cycles,
        "first_loads": first_loads / fused.cycles,
        "verified": result.verified,
        "wall_s": time.monotonic() - start,
        "source": "simulated",
    }


def decode_rows(arch: str) -> Iterator[dict[str, object]]:
    """Rows of the second table."""
    machine = load_arch(arch)
    for name, (summed, columns) in ROWS.items():
        for bits, (inputs, weights) in WIDTHS.items():
            work = Workload.matmul(m=1, k=summed, n=columns, dtype=inputs, out_dtype="int32")
            work = replace(work, W=replace(work.W, dtype=weights))
            found, roof = tvm_spm.search(work, machine, objective="latency", time_limit_s=30.0), roof_of(work, machine)
            yield {
                "case": f"1 x {name}", "arch": arch, "arch_sha256": machine.sha256()[:12], "weight_bits": bits,
                "cycles": found.cost.cycles, "utilization": found.cost.utilization, "bound_by": found.cost.bound_by,
                "roof": roof.resource, "roof_cycles": roof.cycles, "roof_utilization": roof.utilization,
                "of_roof": roof.reached_by(found.cost.cycles), "certified": found.certified, "source": "analytical",
            }  # fmt: skip


def main() -> None:
    """Tune, search, write the rows and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--arch", nargs="*", default=list(ARCHS))
    parser.add_argument("--case", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--table", nargs="*", choices=list(SHOWN), default=list(SHOWN))
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    cases, archs = ([QUICK], ["edge-256"]) if options.quick else (options.case, options.arch)
    table = read_rows(options.csv)
    if "rows" in options.table:
        made = [{"commit": commit, "table": "rows", **row} for arch in archs for row in decode_rows(arch)]
        table = with_rows(options.csv, table, made, _KEY)
    for case in cases if "layers" in options.table else ():
        for arch in archs:
            found = made_apart(tune, case, arch, options.trials)
            print({key: found[key] for key in ("case", "arch", "edp_gain", "verified", "wall_s")}, flush=True)
            table = with_rows(options.csv, table, [{"commit": commit, "table": "layers", **found}], _KEY)
    for kind, columns in SHOWN.items():
        part = table[table["table"] == kind]
        if len(part):
            print(part[columns].to_string(index=False, float_format=lambda value: f"{value:.4g}"))


if __name__ == "__main__":
    main()
