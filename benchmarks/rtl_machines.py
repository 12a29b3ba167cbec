"""Hardware of small machines: programs that take the simulator's cycles, cycles simulated per second, and area.

Source: our own SystemVerilog (``tvm_spm/rtl``), simulated by Verilator and counted by Yosys before cells are mapped to
a technology. Compared: every random legal mapping of thirty small layers (stride, padding, dilation, groups, edge
tiles, spill, all mixes of single and double buffers) with numpy, and with the cycles, passes and counts of the
simulator. A program that is not equal ends the run. Columns: ``kcycles/s`` the start of the simulator
included; ``memory_bits`` and ``register_bits`` of one core. Baselines do not apply. Budget: 8 mappings a layer and
machine. Expected time: ten minutes, most of it to compile; ``--quick`` runs the smallest machine with 2 mappings a
layer, and counts nothing; ``--pages`` runs the two machines with open pages of DRAM instead.

    python benchmarks/rtl_machines.py [--quick] [--pages] [--csv FILE]
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd

from tests.rtl_cases import LAYERS, MACHINES, PAGED, machine
from tests.rtl_programs import run_and_compare, sampled
from tvm_spm.arch import Arch
from tvm_spm.rtl.area import count_area
from tvm_spm.rtl.build import build
from tvm_spm.rtl.parameters import parameters_of

SIZES = ((2, 1024), (4, 2048), (8, 8192), (12, 16384), (16, 32768))
"""Rows and columns of PEs, and bytes of SPM."""


def run_programs(arch: Arch, per_layer: int, commit: str) -> dict[str, object]:
    """Compare the programs of one machine."""
    start = time.monotonic()
    build(parameters_of(arch))
    build_s, tried, cycles, run_s = time.monotonic() - start, 0, 0, 0.0
    for number, workload in enumerate(LAYERS):
        rng = np.random.default_rng([5, number])
        for mapping in sampled(workload, arch, rng, per_layer):
            run = run_and_compare(workload, arch, mapping, rng)
            tried += 1
            cycles, run_s = cycles + run.cycles, run_s + run.wall_s
    return {
        "commit": commit, "arch": arch.name, "arch_sha256": arch.sha256()[:12], "workload": f"{len(LAYERS)} layers",
        "searcher": "random", "seed": 5, "budget_trials": tried, "sim_calls": tried, "wall_s": run_s, "cycles": cycles,
        "energy_pj": "", "edp_pj_cycles": "", "source": "simulated", "size": f"{arch.pe.rows}x{arch.pe.cols}",
        "mac_stages": arch.pe.mac_stages, "port_bytes_per_cycle": arch.levels.SPM.bytes_per_cycle, "equal": tried,
        "build_s": build_s, "cycles_per_s": cycles / run_s,
    }  # fmt: skip


def count(size: int, spm_bytes: int, commit: str) -> dict[str, object]:
    """What one size is made of."""
    arch = machine(f"square-{size}", rows=size, cols=size, spm=spm_bytes)
    start = time.monotonic()
    areas = count_area(parameters_of(arch))
    return {
        "commit": commit, "arch": arch.name, "arch_sha256": arch.sha256()[:12], "source": "counted",
        "wall_s": time.monotonic() - start, "size": f"{size}x{size}", "spm_bytes": spm_bytes,
        **{
            column: sum(getattr(area, column) for area in areas)
            for column in ("memory_bits", "register_bits", "multipliers", "adders", "comparators", "other_cells")
        },
    }  # fmt: skip


def print_tables(table: pd.DataFrame) -> None:
    """One line a machine: programs, and area."""
    ran = table[table["source"] == "simulated"]
    shown = ran[
        ["arch", "size", "mac_stages", "port_bytes_per_cycle", "budget_trials", "equal", "cycles"]
    ].convert_dtypes()
    shown["kcycles/s"] = (ran["cycles_per_s"] / 1000).round(0).convert_dtypes()
    print(shown.rename(columns={"budget_trials": "programs"}).to_string(index=False))
    print(f"programs: {int(ran['budget_trials'].sum()):,}, equal {int(ran['equal'].sum()):,}")
    counted = table[table["source"] == "counted"]
    if len(counted):
        columns = ["memory_bits", "register_bits", "multipliers", "adders", "comparators", "other_cells"]
        print()
        print(counted[["size", "spm_bytes", *columns]].convert_dtypes().to_string(index=False))


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pages", action="store_true")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    commit = commit.strip()
    rows = []
    machines = PAGED if options.pages else MACHINES
    for arch in machines[:1] if options.quick else machines:
        rows.append(run_programs(arch, 2 if options.quick else 8, commit))
    if not options.quick and not options.pages:
        rows += [count(size, spm_bytes, commit) for size, spm_bytes in SIZES]
    table = pd.DataFrame(rows)
    print_tables(table)
    if options.csv is not None:
        table.to_csv(options.csv, index=False)


if __name__ == "__main__":
    main()
