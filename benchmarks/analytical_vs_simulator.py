"""How far the analytical model is from the simulator, on random legal mappings of 20 layers.

Source: ours; nothing published is compared. Layers: the 11 convolutions of ResNet-18, and one each depthwise, grouped,
dilated, 1x7, odd-sized, NHWC with an epilogue, and three matrix products. Per layer and accelerator 50 mappings drawn
by ``MapSpace.sample`` (seed 0), illegal ones drawn again: 1,000 mappings per accelerator, nothing left out.

The claim, for accelerators with one core: a mean error of cycles of at most 2 %, a worst one of at most 5 %, a rank
correlation of at least 0.99 in every layer, and equal energy. The exit code is 1 if it does not hold. With many cores
errors are only reported. Expected time: a few minutes on two cores; ``--quick`` draws 5 mappings per layer.

    python benchmarks/analytical_vs_simulator.py [--quick] [--csv FILE] [ARCH ...]
"""

from __future__ import annotations

import argparse
import io
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cost_model.analytical.model import AnalyticalModel
from cost_model.simulator import simulate_batch
from tvm_spm.arch import load_arch
from tvm_spm.mapping import Mapping
from tvm_spm.space.legality_batch import check_batch
from tvm_spm.space.mapping_batch import decode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Axis, Epilogue, Projection, Workload

ARCHS = ("dmazerunner-256", "edge-256", "quad-edge", "mlu100-32")
SEED = 0
MAPPINGS_PER_LAYER = 50
MOST_MEAN_ERROR, MOST_ERROR, LEAST_RANK_CORRELATION = 0.02, 0.05, 0.99
ENERGY_ROUNDING = 1e-9


def _square(k: int, c: int, outputs: int, taps: int, stride: int, inputs: int) -> Workload:
    return Workload.conv2d(
        K=k, C=c, OY=outputs, OX=outputs, FY=taps, FX=taps, stride=stride, padding=taps // 2, IY=inputs, IX=inputs
    )


def _with_epilogue(workload: Workload) -> Workload:
    bias = Projection(axes=(Axis(terms=(("K", 1),), extent=workload.dims.K),), dtype="int32")
    return Workload(
        kind=workload.kind, dims=workload.dims, I=workload.I, W=workload.W, O=workload.O, out_dtype="int8",
        epilogue=Epilogue(num_ops_per_elem=4, extras=(bias,)),
    )  # fmt: skip


LAYERS = {
    "conv1 7x7/2": _square(64, 3, 112, 7, 2, 224),
    "conv2 3x3": _square(64, 64, 56, 3, 1, 56),
    "conv3 3x3/2": _square(128, 64, 28, 3, 2, 56),
    "conv3 1x1/2": _square(128, 64, 28, 1, 2, 56),
    "conv3 3x3": _square(128, 128, 28, 3, 1, 28),
    "conv4 3x3/2": _square(256, 128, 14, 3, 2, 28),
    "conv4 1x1/2": _square(256, 128, 14, 1, 2, 28),
    "conv4 3x3": _square(256, 256, 14, 3, 1, 14),
    "conv5 3x3/2": _square(512, 256, 7, 3, 2, 14),
    "conv5 1x1/2": _square(512, 256, 7, 1, 2, 14),
    "conv5 3x3": _square(512, 512, 7, 3, 1, 7),
    "depthwise": Workload.conv2d(K=96, C=96, OY=56, OX=56, FY=3, FX=3, padding=1, groups=96),
    "grouped": Workload.conv2d(K=120, C=60, OY=28, OX=28, FY=3, FX=3, padding=1, groups=3),
    "dilated": Workload.conv2d(K=64, C=64, OY=28, OX=28, FY=3, FX=3, padding=2, dilation=2),
    "1x7": Workload.conv2d(K=128, C=128, OY=17, OX=17, FY=1, FX=7, padding=(0, 3)),
    "odd sizes": Workload.conv2d(K=37, C=23, OY=29, OX=31, FY=5, FX=3, stride=(2, 1), padding=(2, 1)),
    "NHWC int8 epilogue": _with_epilogue(
        Workload.conv2d(K=64, C=32, OY=28, OX=28, FY=3, FX=3, padding=1, dtype="int8", out_dtype="int32", layout="NHWC")
    ),
    "matmul": Workload.matmul(m=128, k=768, n=768),
    "batched matmul": Workload.matmul(m=128, k=64, n=128, batch=12, transposed_weight=True),
    "matrix x vector": Workload.matmul(m=1, k=512, n=1000),
}


def legal_mappings(workload: Workload, arch_name: str, count: int) -> list[Mapping]:
    """The first legal mappings of a random sequence."""
    arch, rng = load_arch(arch_name), np.random.default_rng(SEED)
    space = MapSpace(workload=workload, arch=arch)
    found: list[Mapping] = []
    while len(found) < count:
        batch = space.sample(rng, count)
        found += [decode(batch, int(row)) for row in np.flatnonzero(check_batch(workload, arch, batch) == 0)]
    return found[:count]


def compare(layer: str, arch_name: str, count: int, commit: str) -> list[dict[str, object]]:
    """One row per mapping."""
    workload, arch = LAYERS[layer], load_arch(arch_name)
    mappings = legal_mappings(workload, arch_name, count)
    estimated = [AnalyticalModel().cost(workload, arch, mapping) for mapping in mappings]
    start = time.monotonic()
    simulated = simulate_batch(workload, arch, mappings)
    wall_s = (time.monotonic() - start) / count
    return [
        {
            "commit": commit,
            "arch": arch.name,
            "arch_sha256": arch.sha256(),
            "workload": str(workload),
            "layer": layer,
            "searcher": "random",
            "seed": SEED,
            "budget_trials": count,
            "sim_calls": 1,
            "wall_s": wall_s,
            "max_cores": arch.cores.count,
            "cycles": cost.cycles,
            "energy_pj": cost.energy_pj,
            "edp_pj_cycles": cost.edp_pj_cycles,
            "source": "simulated",
            "estimated_cycles": estimate.cycles,
            "estimated_energy_pj": estimate.energy_pj,
            "mapping": mapping.line(),
        }
        for mapping, cost, estimate in zip(mappings, simulated, estimated, strict=True)
    ]


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Per accelerator: errors of cycles, lowest rank correlation of a layer, largest error of energy."""
    table = []
    for arch_name, group in rows.groupby("arch", sort=False):
        error = (group.estimated_cycles - group.cycles).abs() / group.cycles
        energy_error = (group.estimated_energy_pj - group.energy_pj).abs() / group.energy_pj
        ranks = [
            each.cycles.rank().corr(each.estimated_cycles.rank()) for _, each in group.groupby("layer", sort=False)
        ]
        table.append(
            {
                "arch": arch_name,
                "cores": int(group.max_cores.iloc[0]),
                "layers": group.layer.nunique(),
                "mappings": len(group),
                "equal_cycles": float((error == 0).mean()),
                "mean_error": float(error.mean()),
                "p95_error": float(error.quantile(0.95)),
                "worst_error": float(error.max()),
                "least_rank_corr": float(min(ranks)),
                "worst_energy_error": float(energy_error.max()),
            }
        )
    return pd.DataFrame(table)


def holds(table: pd.DataFrame) -> bool:
    """Whether the claim about one core holds."""
    one = table[table.cores == 1]
    return bool(
        (one.mean_error <= MOST_MEAN_ERROR).all()
        and (one.worst_error <= MOST_ERROR).all()
        and (one.least_rank_corr >= LEAST_RANK_CORRELATION).all()
        and (table.worst_energy_error <= ENERGY_ROUNDING).all()
    )


def main() -> None:
    """Draw, price and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archs", nargs="*", default=ARCHS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    count = 5 if options.quick else MAPPINGS_PER_LAYER
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    ).stdout.strip()
    rows = []
    for arch_name in options.archs:
        start = time.monotonic()
        for layer in LAYERS:
            rows += compare(layer, arch_name, count, commit)
        print(f"{arch_name}: {time.monotonic() - start:.1f} s", flush=True)
    text = pd.DataFrame(rows).to_csv(index=False)
    if options.csv:
        options.csv.write_text(text, encoding="utf-8")
    table = summarise(pd.read_csv(io.StringIO(text)))
    shown = table.copy()
    for column in ("equal_cycles", "mean_error", "p95_error", "worst_error"):
        shown[column] = shown[column].map("{:.2%}".format)
    print(shown.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    if not holds(table):
        raise SystemExit("the claim about one core does not hold")


if __name__ == "__main__":
    main()
