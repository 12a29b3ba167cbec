"""What is compared with DLFusion: networks, machine, strategies, and the numbers its abstract prints."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import prod
from multiprocessing import get_context

import pandas as pd

from tvm_spm.arch import Arch, load_arch
from tvm_spm.graph import LayerGraph
from tvm_spm.reproduce.dlfusion.calibration import Calibration, calibrate
from tvm_spm.reproduce.dlfusion.groups import can_split, make_bound_group, make_price_group, warm_up
from tvm_spm.reproduce.dlfusion.heuristic import make_heuristic
from tvm_spm.reproduce.dlfusion.prices import PriceTable
from tvm_spm.reproduce.dlfusion.strategies import (
    Decision,
    Strategy,
    best_cores,
    decide,
    exact,
    fixed_cores,
    fuse_everything,
    fuse_with_one_count,
    no_optimisation,
    reduced_brute_force,
)
from tvm_spm.reproduce.runs import COLUMNS, make_frame, source_commit
from tvm_spm.units import KIB

ARCH_NAME = "mlu100-32"

NETWORKS = ("alexnet", "vgg19", "resnet18", "resnet50", "mobilenet_v2")
"""As in the paper; batch 1, 224 x 224."""

QUICK_NETWORKS = ("alexnet",)

DTYPE = "float16"

SPM_KIB = (512, 1024, 2048)
"""Sizes assumed per core; none is published."""

CORE_COUNTS = (1, 2, 4, 7, 8, 14, 16, 28, 32)
"""Powers of two, and what divides images of 7, 14, 28, ... rows."""

PAPER = "Liu et al."
PAPER_LEAST_SPEEDUP, PAPER_MOST_SPEEDUP = 3.6, 7.9
"""Abstract of the paper: over no optimisation, least and most of its networks."""

NO_OPTIMISATION, HEURISTIC, EXACT = "no optimisation", "heuristic", "exact"
BEST_CORES, BRUTE_FORCE = "best cores per layer", "reduced brute force"

STRATEGIES = (
    NO_OPTIMISATION, "fixed cores", BEST_CORES, "fuse everything", "fuse, one count", HEURISTIC, BRUTE_FORCE, EXACT,
)  # fmt: skip

SENSITIVITY = (NO_OPTIMISATION, BEST_CORES, HEURISTIC, EXACT)
"""Strategies that are computed for every size of the scratchpad."""

CALIBRATION = "calibration"
"""``layer`` of the row that holds the constants of the heuristic."""

EXTRA_COLUMNS = (
    "spm_kib", "cost_s", "decide_s", "num_groups", "most_cores", "dram_bytes", "macs_executed", "macs_needed", "note",
)  # fmt: skip
"""Behind the columns that every benchmark shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkJob:
    """Some strategies for one network on one size of scratchpad."""

    network: str
    spm_kib: int
    strategies: tuple[str, ...]
    calibration: Calibration


def sized_arch(spm_kib: int) -> Arch:
    """The machine with another size of scratchpad."""
    arch = load_arch(ARCH_NAME)
    spm = replace(arch.levels.SPM, capacity_bytes=spm_kib * KIB)
    return replace(arch, levels=replace(arch.levels, SPM=spm))


def all_rows(*, quick: bool) -> pd.DataFrame:
    """One row per network, size and strategy, and one for the heuristic's constants."""
    sizes, networks = ((SPM_KIB[1],), QUICK_NETWORKS) if quick else (SPM_KIB, NETWORKS)
    main = sized_arch(SPM_KIB[1])
    warm_up(main)
    begin = time.perf_counter()
    calibration = calibrate(make_price_group(main), main.cores.count, bound_group=make_bound_group(main), quick=quick)
    seconds = time.perf_counter() - begin
    jobs = [
        NetworkJob(
            network=network,
            spm_kib=size,
            strategies=STRATEGIES if size == SPM_KIB[1] else SENSITIVITY,
            calibration=calibration,
        )
        for size in sorted(sizes, key=lambda size: size != SPM_KIB[1])
        for network in networks
    ]
    rows = [_calibration_row(calibration, main, seconds)]
    if quick:
        found = [run_job(job) for job in jobs]
    else:
        with ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=get_context("spawn")) as pool:
            found = list(pool.map(run_job, jobs))
    rows += [row for each in found for row in each]
    return make_frame([{"commit": source_commit(), **row} for row in rows], [*COLUMNS, *EXTRA_COLUMNS])


def run_job(job: NetworkJob) -> list[dict[str, object]]:
    """One row per strategy."""
    from tvm_spm.reproduce.dlfusion.networks import network_graph

    arch, graph = sized_arch(job.spm_kib), network_graph(job.network, DTYPE)
    table = price_table(graph, arch)
    warm_up(arch)
    made = strategies(job.calibration)
    space, workload = f"SPM {job.spm_kib} KiB", f"{job.network}, batch 1, {DTYPE}"
    return [
        {
            **decision_row(decide(name, made[name], table), arch, graph),
            "workload": workload,
            "layer": job.network,
            "space": space,
            "spm_kib": job.spm_kib,
        }
        for name in job.strategies
    ]


def price_table(graph: LayerGraph, arch: Arch) -> PriceTable:
    """Nothing is priced yet."""
    return PriceTable(
        graph=graph,
        core_counts=tuple(count for count in CORE_COUNTS if count <= arch.cores.count),
        price_group=make_price_group(arch),
        bound_group=make_bound_group(arch),
        can_split=can_split,
    )


def strategies(calibration: Calibration) -> dict[str, Strategy]:
    """All eight, by name."""
    functions: Sequence[Strategy] = (
        no_optimisation, fixed_cores, best_cores, fuse_everything, fuse_with_one_count,
        make_heuristic(calibration.rule), reduced_brute_force, exact,
    )  # fmt: skip
    return dict(zip(STRATEGIES, functions, strict=True))


def network_floor(graph: LayerGraph, arch: Arch) -> int:
    """Cycles that no plan stays below: all weights come from DRAM, and all cores multiply at their peak rate."""
    read = {read.tensor for layer in graph.layers for read in layer.reads}
    weights = [tensor for index, tensor in enumerate(graph.tensors) if index in read and tensor.is_constant]
    num_bytes = sum(prod(tensor.shape) * tensor.elem_bits for tensor in weights) / 8
    macs = sum(layer.workload.macs for layer in graph.layers if layer.workload is not None)
    dram = arch.levels.DRAM
    return int(max(num_bytes / (dram.channels * dram.channel_bytes_per_cycle), macs / arch.peak_macs_per_cycle))


def decision_row(decision: Decision, arch: Arch, graph: LayerGraph) -> dict[str, object]:
    """What one row of a CSV file says of a decision."""
    prices = [block.price for block in decision.blocks]
    return {
        "arch": arch.name,
        "arch_sha256": arch.sha256(),
        "objective": "latency",
        "searcher": decision.strategy,
        "seed": 0,
        "budget_trials": decision.num_prices,
        "sim_calls": 0,
        "wall_s": round(decision.cost_s + decision.decide_s, 4),
        "num_tilings": "",
        "cycles": decision.cycles,
        "energy_pj": decision.energy_pj,
        "edp_pj_cycles": decision.cycles * decision.energy_pj,
        "lower_bound": network_floor(graph, arch),
        "mapping": " ".join(f"{block.first}-{block.stop - 1}@{block.price.num_cores}" for block in decision.blocks),
        "source": "simulated",
        "cost_s": round(decision.cost_s, 4),
        "decide_s": round(decision.decide_s, 4),
        "num_groups": len(decision.blocks),
        "most_cores": max(price.num_cores for price in prices),
        "dram_bytes": sum(price.dram_bytes for price in prices),
        "macs_executed": sum(price.macs for price in prices),
        "macs_needed": sum(layer.workload.macs for layer in graph.layers if layer.workload is not None),
        "note": decision.note,
    }


def _calibration_row(calibration: Calibration, arch: Arch, seconds: float) -> dict[str, object]:
    return {
        "arch": arch.name,
        "arch_sha256": arch.sha256(),
        "workload": f"{calibration.num_layers} layers, {calibration.num_chains} chains, {DTYPE}",
        "layer": CALIBRATION,
        "space": f"SPM {SPM_KIB[1]} KiB",
        "objective": "latency",
        "searcher": "descent",
        "seed": 0,
        "wall_s": round(seconds, 4),
        "mapping": json.dumps(asdict(calibration.rule)),
        "source": "analytical",
        "note": json.dumps({"fit": asdict(calibration.fit), "held out": asdict(calibration.held_out)}),
    }
