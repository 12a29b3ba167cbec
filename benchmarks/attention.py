"""Price attention of BERT-base three ways: one function after another, whole rows of scores in SPM, online softmax.

Source: ours; the recurrence is that of Milakov & Gimelshein 2018 and Dao et al. 2022, whose machines are others. Twelve
heads of depth 64, batch 1, int16 throughout, no mask. Unfused: exact search for each product with simulator costs, and
the softmax streamed through the vector units; an exact search that runs out of time says how far off it may be (gap).
Whole rows: all keys of a head stay in SPM. All three minimise energy times delay. Expected time: a few minutes, most of
it for compiling on the first run; ``--quick`` prices 128 tokens on one machine.

    python benchmarks/attention.py [--quick] [--csv FILE] [--arch NAME ...] [--tokens N ...] [--limit SECONDS]
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cost_model.attention.search import attention_search
from cost_model.simulator.model import SimulatorModel
from tvm_spm.arch import Arch, load_arch
from tvm_spm.attention import Attention
from tvm_spm.cost import Cost
from tvm_spm.errors import NoMappingError
from tvm_spm.exact import exact_search
from tvm_spm.space.case import Case
from tvm_spm.workload import VectorWork

HEADS, DEPTH, BYTES = 12, 64, 2
TOKENS = (128, 512, 2048, 8192)
ARCHS = ("edge-256", "quad-edge")
OPS_PER_PROBABILITY = 5
"""Of a softmax on its own: maximum, difference, power, sum, quotient."""


def unfused(work: Attention, arch: Arch, limit_s: float) -> tuple[list[Cost], float]:
    """Costs of the three functions, and the largest gap of the searches."""
    model = SimulatorModel()
    found = [
        exact_search(Case(workload=product, arch=arch), time_limit_s=limit_s) for product in (work.scores, work.context)
    ]
    costs = [
        model.cost(product, arch, result.mapping)
        for product, result in zip((work.scores, work.context), found, strict=True)
    ]
    num_scores = work.heads * work.queries * work.keys
    softmax = VectorWork(
        operator="softmax", read_bytes=BYTES * num_scores, write_bytes=BYTES * num_scores,
        num_ops=OPS_PER_PROBABILITY * num_scores,
    )  # fmt: skip
    return [*costs, model.vector_cost(softmax, arch)], max(result.gap for result in found)


def rows(arch: Arch, tokens: int, limit_s: float, commit: str) -> Iterator[dict[str, object]]:
    """One per scheme that fits."""
    work = Attention.of(heads=HEADS, queries=tokens, keys=tokens, depth=DEPTH)

    def row(scheme: str, costs: list[Cost], mapping: str, gap: float, start: float) -> dict[str, object]:
        cycles, energy_pj = sum(cost.cycles for cost in costs), sum(cost.energy_pj for cost in costs)
        return {
            "commit": commit,
            "arch": arch.name,
            "arch_sha256": arch.sha256()[:12],
            "workload": str(work),
            "tokens": tokens,
            "scheme": scheme,
            "cycles": cycles,
            "energy_pj": energy_pj,
            "edp_pj_cycles": cycles * energy_pj,
            "dram_bytes": sum(sum(cost.dram_bytes) for cost in costs),
            "gap": gap,
            "mapping": mapping,
            "wall_s": time.monotonic() - start,
            "source": "simulated",
        }

    start = time.monotonic()
    costs, gap = unfused(work, arch, limit_s)
    yield row("unfused", costs, "", gap, start)
    for scheme in ("whole rows", "online"):
        start = time.monotonic()
        try:
            found = attention_search(work, arch, whole_rows=scheme == "whole rows")
        except NoMappingError:
            continue
        yield row(scheme, [found.cost], str(found.mapping).replace("\n", "; "), 0.0, start)


def main() -> None:
    """Search, write the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--arch", nargs="*", default=list(ARCHS))
    parser.add_argument("--tokens", nargs="*", type=int, default=list(TOKENS))
    parser.add_argument("--limit", type=float, default=30.0)
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    found = []
    for name in options.arch[: 1 if options.quick else None]:
        for tokens in options.tokens[: 1 if options.quick else None]:
            found += rows(load_arch(name), tokens, options.limit, commit)
            print(f"{name}, {tokens} tokens: done", flush=True)
    table = pd.DataFrame(found)
    if options.csv:
        table.to_csv(options.csv, index=False)
    table["speedup"] = table["energy_ratio"] = table["dram_ratio"] = 0.0
    for _, group in table.groupby(["arch", "tokens"], sort=False):
        base = group[group["scheme"] == "unfused"].iloc[0]
        table.loc[group.index, "speedup"] = base["cycles"] / group["cycles"]
        table.loc[group.index, "energy_ratio"] = base["energy_pj"] / group["energy_pj"]
        table.loc[group.index, "dram_ratio"] = base["dram_bytes"] / group["dram_bytes"]
    shown = ["arch", "tokens", "scheme", "cycles", "speedup", "dram_bytes", "dram_ratio", "energy_pj", "energy_ratio",
             "gap", "wall_s"]  # fmt: skip
    print(table[shown].to_string(index=False, float_format=lambda value: f"{value:.4g}"))


if __name__ == "__main__":
    main()
