"""A network in 8-bit integers on the hardware, layer by layer: outputs, cycles, and cycles simulated per second.

Source: our own SystemVerilog (``tvm_spm/rtl``), simulated by Verilator. Compared: every distinct convolution and
product of ResNet-18 at 32x32 pixels with its epilogue (bias, scale, residual, relu, rounding and clipping: float32 on
the vector unit), in the best mapping of a search by formula, on 16x16 PEs: outputs with what TVM compiles of the same
function, bit for bit, cycles with the simulator's. A layer whose outputs differ ends the run; cycles are printed.
Baselines do not apply. Budget: ``--trials`` mappings a layer, measured by the simulator. Expected time: three
minutes, half of it to tune and half a minute to build the simulator.

    python benchmarks/rtl_network.py [--trials N] [--pixels N] [--csv FILE]
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tvm

import tvm_spm
from cost_model.simulator import simulate_batch
from tests.rtl_cases import machine
from tvm_spm.arch import Arch
from tvm_spm.deploy.programs import params_of
from tvm_spm.errors import SpmError
from tvm_spm.frontend.inputs import random_array
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.mapping import Mapping
from tvm_spm.rtl.build import build
from tvm_spm.rtl.parameters import parameters_of
from tvm_spm.rtl.run import run_program
from tvm_spm.rtl.words import core_program
from tvm_spm.stream.encode import LayerStreams

ARCH = machine(
    "square-16", rows=16, cols=16, rf=256, spm=65536, bank=2048, noc=4, rate=8.0, per_byte=0.125, burst=8, startup=10,
    vector=16,
)  # fmt: skip


def run_layer(func: tvm.tirx.PrimFunc, layer: LayerStreams, mapping: Mapping, arch: Arch) -> dict[str, object]:
    """Run one layer on drawn tensors."""
    nest = read_nest(func)
    assert isinstance(nest, TirNest)
    rng = np.random.default_rng(0)
    arrays = [
        random_array(tuple(int(each) for each in param.shape), str(param.dtype), rng, is_weight=False)
        for param in func.params
    ]
    given = [tvm.runtime.tensor(array) for array in arrays]
    compiled = tvm.compile(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), target="llvm")
    compiled["main"](*given)
    image = np.frombuffer(
        bytes(layer.memory.image({region: arrays[at] for region, at in params_of(func, nest).items()})), np.uint8
    )
    run = run_program(core_program(layer.streams[0], arch), build(parameters_of(arch)), image)
    np.testing.assert_array_equal(layer.memory.tensor(run.image.tobytes(), "O"), given[-1].numpy())
    cycles = simulate_batch(nest.workload, arch, [mapping])[0].cycles
    return {
        "workload": str(nest.workload), "macs": nest.workload.macs, "ops": nest.workload.epilogue.num_ops_per_elem,
        "cycles": run.cycles, "simulated": cycles, "wall_s": run.wall_s, "cycles_per_s": run.cycles_per_s,
    }  # fmt: skip


def main() -> None:
    """Tune, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    start = time.monotonic()
    build(parameters_of(ARCH))
    print(f"built in {time.monotonic() - start:.0f} s")
    start = time.monotonic()
    shapes = {"data": (1, 3, options.pixels, options.pixels)}
    result = tvm_spm.tune("resnet18", ARCH, dtype="int8", shapes=shapes, trials=options.trials, fusion=False)
    print(f"tuned in {time.monotonic() - start:.0f} s")
    rows = []
    for found in result.tasks:
        if found.mapping is None:
            continue
        name = found.task.name
        names = [node.name for node in result.graph.nodes if result.graph.tasks[node.task] == found.task]
        row = {"commit": commit.strip(), "arch": ARCH.name, "arch_sha256": ARCH.sha256()[:12], "layer": name}
        try:
            row |= run_layer(result.reference[names[0]], result.program(name), found.mapping, ARCH)
        except SpmError as error:
            row |= {"workload": str(found.task.work), "refused": str(error)}
        rows.append(row | {"searcher": "exact", "seed": 0, "budget_trials": options.trials, "source": "simulated"})
    table = pd.DataFrame(rows)
    shown = table[["workload", "macs", "ops", "cycles", "simulated"]].convert_dtypes()
    shown["equal"] = table["cycles"] == table["simulated"]
    shown["kcycles/s"] = (table["cycles_per_s"] / 1000).round(0).convert_dtypes()
    print(shown.to_string(index=False))
    if "refused" in table:
        print(*table["refused"].dropna(), sep="\n")
    ran = table.dropna(subset=["cycles"])
    print(
        f"layers {len(table)}, ran {len(ran)}, cycles equal {int((ran['cycles'] == ran['simulated']).sum())}; "
        f"{ran['cycles'].sum():,.0f} cycles in {ran['wall_s'].sum():.1f} s"
    )
    if options.csv is not None:
        table.to_csv(options.csv, index=False)


if __name__ == "__main__":
    main()
