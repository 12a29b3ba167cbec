"""Networks with branches, with and without layers and groups that run at the same time on disjoint cores.

Source: ours; nothing published is compared. Both columns come from one run: the serial one is the plan before anything
runs side by side, groups and layers alone one after the other, each on as many cores as it likes. Energies and cycles
are the simulator's; those of a step of several are of all its cores against the channels that they share. The
transformer layer is its attention's three projections of 128 tokens of width 768 (BERT-base), and what follows them.
Networks are random weights but for the light models of the package ``onnx``. Expected time: half a minute to three
minutes a row; ``--quick`` runs the projections on quad-edge.

    python benchmarks/side_by_side.py [NETWORK ...] [--quick] [--arch NAME ...] [--objective NAME ...] [--trials N]
        [--csv FILE]
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import onnx
import pandas as pd
import tvm
from tvm import relax
from tvm.relax import op
from tvm.script import relax as R

import tvm_spm
from tvm_spm.arch import load_arch

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

ARCHS = ("quad-edge", "mlu100-32")


def projections(tokens: int = 128, width: int = 768, heads: int = 12) -> tvm.IRModule:
    """Queries, keys and values of one input, and the attention of them."""
    builder = relax.BlockBuilder()
    shapes = [(1, tokens, width), (width, width), (width, width), (width, width)]
    params = [relax.Var(f"p{i}", R.Tensor(shape, "float16")) for i, shape in enumerate(shapes)]
    with builder.function("main", params):
        with builder.dataflow():
            q, k, v = (
                builder.emit(
                    op.permute_dims(
                        op.reshape(op.matmul(params[0], weight), (1, tokens, heads, width // heads)), (0, 2, 1, 3)
                    )
                )
                for weight in params[1:]
            )
            scores = op.matmul(q, op.permute_dims(k, (0, 1, 3, 2)))
            result = builder.emit_output(op.matmul(op.nn.softmax(scores), v))
        builder.emit_func_output(result)
    mod = builder.get()
    mod["main"] = mod["main"].with_attr("num_input", 1)
    return mod


NETWORKS: dict[str, Callable[[], object]] = {
    "squeezenet": lambda: str(LIGHT / "light_squeezenet.onnx"),
    "inception_v1": lambda: str(LIGHT / "light_inception_v1.onnx"),
    "inception_v2": lambda: str(LIGHT / "light_inception_v2.onnx"),
    "q/k/v 128x768": projections,
}


def tune(network: str, arch: str, objective: str, trials: int) -> dict[str, object]:
    """One row."""
    start = time.monotonic()
    result = tvm_spm.tune(NETWORKS[network](), f"spm/{arch}", objective=objective, trials=trials)  # type: ignore[arg-type]
    wall_s = time.monotonic() - start
    plan = result.side_plan
    assert plan is not None
    return {
        "network": network,
        "arch": arch,
        "arch_sha256": load_arch(arch).sha256()[:12],
        "objective": objective,
        "trials": trials,
        "layers": sum(task.task.count for task in result.tasks),
        "steps_together": len(plan.together),
        "layers_together": sum(len(side.unit.layers) for step in plan.together for side in step.sides),
        "most_together": max((len(step.sides) for step in plan.together), default=0),
        "sets_timed": plan.num_sets,
        "limits": "; ".join(plan.limits),
        "verified": result.verified,
        "cycles": result.cost.cycles,
        "energy_pj": result.cost.energy_pj,
        "edp_pj_cycles": result.cost.edp_pj_cycles,
        "cycles_serial": plan.serial_cycles,
        "energy_pj_serial": plan.serial_energy_pj,
        "edp_pj_cycles_serial": plan.serial_cycles * plan.serial_energy_pj,
        "side_by_side_s": dict(result.seconds).get("side by side", 0.0),
        "wall_s": wall_s,
        "source": "simulated",
    }


def shown(table: pd.DataFrame) -> str:
    """The columns that matter, with ratios."""
    names = ["network", "arch", "objective", "layers", "steps_together", "layers_together", "most_together", "verified"]
    found = table[names].copy()
    found["Mcycles_serial"] = table["cycles_serial"] / 1e6
    found["Mcycles"] = table["cycles"] / 1e6
    found["faster"] = table["cycles_serial"] / table["cycles"]
    found["less_energy"] = table["energy_pj_serial"] / table["energy_pj"]
    found["lower_edp"] = table["edp_pj_cycles_serial"] / table["edp_pj_cycles"]
    found["side_by_side_s"], found["wall_s"] = table["side_by_side_s"], table["wall_s"]
    return found.to_string(index=False, float_format=lambda value: f"{value:.3f}")


def main() -> None:
    """Tune, write the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--arch", nargs="*", default=list(ARCHS))
    parser.add_argument("--objective", nargs="*", default=["edp", "latency"])
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    networks = options.networks or (["q/k/v 128x768"] if options.quick else list(NETWORKS))
    archs, objectives = (["quad-edge"], ["edp"]) if options.quick else (options.arch, options.objective)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    rows: list[dict[str, object]] = []
    for arch in archs:
        for network in networks:
            for objective in objectives:
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                    row = process.submit(tune, network, arch, objective, options.trials).result()
                rows.append({"commit": commit, **row})
                if options.csv:
                    pd.DataFrame(rows).to_csv(options.csv, index=False)
    print(shown(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
