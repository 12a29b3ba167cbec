"""The best mapping of a group: two cases with figures to reach, and random chains against wide searches.

Source: ours; nothing published is compared. ``cases``: two 3x3 convolutions 16-16-16 at 28x28, 16 bits, on
``quad-edge``, least EDP; and a network like FSRCNN (5x5 1-56, 1x1 56-12, four 3x3 12-12, 1x1 12-56, 9x9 56-1), int8,
560x960, on ``edge-256``, least energy, as one group. ``chains``: two or three random convolutions, with the steps that
a network of three layers gets. Against that, a proof with ten times the steps, and 50 times as many mappings as the
search of a few candidates times, drawn at random with tiles and channels of any size. ``loss`` is how much better the
best of those is. Cases take some seconds, 20 chains on each machine some minutes; ``--quick`` runs two chains.

    python benchmarks/group_proof.py [--quick] [--chains N] [--arch NAME ...] [--csv FILE]
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cost_model.fused.flat import IS_MAC, K_LOOP, flatten
from cost_model.fused.many import Choices, most_stages_of
from cost_model.fused.pricing import Pricer
from tvm_spm.arch import Arch, load_arch
from tvm_spm.fusion.group_space import splits
from tvm_spm.fusion.proof import GroupProof, prove_group
from tvm_spm.fusion.search import core_counts, group_search, inner_mapper
from tvm_spm.graph import GraphTensor, Layer, LayerGraph, Read
from tvm_spm.group import Group
from tvm_spm.objective import Objective
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, Operand, Workload

WIDER = 50
PLAN_STEPS, WIDE_STEPS = 4_000, 40_000
"""The former is half of what a small network gets, see ``tvm_spm.fusion.network.FEWEST_STEPS``."""

BATCH = 512
MOST_STAGES = 4_096


def chain(layers: list[tuple[int, int]], first: int, size: tuple[int, int], dtype: str) -> Group:
    """Convolutions given as output channels and taps, with the same height and width."""
    tensors = [GraphTensor(name="x", shape=(1, first, *size), dtype=dtype)]
    made: list[Layer] = []
    at, channels = 0, first
    for number, (k, taps) in enumerate(layers):
        work = Workload.conv2d(
            K=k, C=channels, OY=size[0], OX=size[1], FY=taps, FX=taps, padding=taps // 2, dtype=dtype
        )  # fmt: skip
        tensors.append(GraphTensor(name=f"w{number}", shape=(k, channels, taps, taps), dtype=dtype, is_constant=True))
        tensors.append(GraphTensor(name=f"y{number}", shape=(1, k, *size), dtype=dtype, producer=number))
        reads = (
            Read(tensor=at, role="I", accesses=(work.I.axes,)),
            Read(tensor=len(tensors) - 2, role="W", accesses=(work.W.axes,)),
        )
        made.append(
            Layer(
                name=f"conv{number}", output=len(tensors) - 1, loops=tuple(zip(DIM_NAMES, work.dims, strict=True)),
                out_axes=work.O.axes, reads=reads, workload=work, num_ops_per_elem=1,
            )
        )  # fmt: skip
        at, channels = len(tensors) - 1, k
    graph = LayerGraph(tensors=tuple(tensors), layers=tuple(made), outputs=(at,))
    return Group.interval(graph, 0, len(made))


def draw_chain(rng: random.Random) -> tuple[str, Group]:
    """Two or three layers of 1x1 or 3x3."""
    size = rng.choice([7, 14, 28, 56])
    first = rng.choice([3, 8, 16, 24, 32, 64])
    layers = [(rng.choice([8, 16, 24, 32, 64]), rng.choice([1, 3, 3])) for _ in range(rng.choice([2, 3]))]
    dtype = rng.choice(["int8", "int16", "float32"])
    name = "-".join([str(first), *(f"{k}({taps}x{taps})" for k, taps in layers)])
    return f"{name} @{size} {dtype}", chain(layers, first, (size, size), dtype)


def best_of_random(group: Group, arch: Arch, objective: Objective, num: int, rng: random.Random) -> float:
    """Least objective of random mappings, of tiles and channels of any size; infinite if none fits."""
    flat = flatten(group)
    mappers = tuple(inner_mapper(arch, each.value) for each in Objective)
    pricer, best = Pricer(group, flat, arch, mappers), math.inf
    shape, capacity_bytes = group.sink_shape, arch.levels.SPM.capacity_of(Operand.I)
    ways = [split for count in core_counts(arch) for split in splits(shape, count)]
    channels = np.where(flat.layer[:, IS_MAC] == 1, flat.loops[:, K_LOOP], 1).tolist()
    for start in range(0, num, BATCH):
        rows = []
        for _ in range(min(BATCH, num - start)):
            cores = rng.choice(ways)
            share = [ceil_div(extent, parts) for extent, parts in zip(shape, cores, strict=True)]
            tile = [rng.choice([extent, rng.randint(1, extent)]) for extent in share]
            tile[1] = share[1]
            kept = [int(axis > 1 and tile[axis] < share[axis] and rng.random() < 0.6) for axis in range(len(shape))]
            k_tile = [rng.choice([k, k, rng.randint(min(4, k), k)]) for k in channels]
            rows.append((cores, tile, kept, k_tile, rng.randint(0, 1)))
        choices = Choices._make(np.array(column, np.int64) for column in zip(*rows, strict=True))
        few = np.flatnonzero(most_stages_of(flat, shape, choices) <= MOST_STAGES)
        priced = pricer.price(choices.take(few))
        value = objective.value_of(priced.cycles.astype(np.float64), priced.energy_pj)
        fits = (priced.spm_bytes <= capacity_bytes)[:, None] & (priced.cycles >= 0)
        best = min(best, float(np.where(fits, value, np.inf).min(initial=math.inf)))
    return best


def compare(name: str, group: Group, arch: Arch, seed: int) -> dict[str, object]:
    """One row."""
    rng, objective = random.Random(seed), list(Objective)[seed % 3]
    start = time.process_time()
    proof = prove_group(group, arch, objective=objective.value, most_steps=PLAN_STEPS)
    plan_s = time.process_time() - start
    few = group_search(group, arch, objective=objective.value)
    before = few.best(objective.value)
    wide: GroupProof = proof
    if not proof.certified:
        wide = prove_group(group, arch, objective=objective.value, most_steps=WIDE_STEPS)
    drawn = best_of_random(group, arch, objective, WIDER * few.num_timed, rng)
    best = min(wide.value, drawn)
    return {
        "chain": name,
        "arch": arch.name,
        "objective": objective.value,
        "value": proof.value,
        "gap": proof.gap,
        "wide_gap": wide.gap,
        "priced": proof.num_priced,
        "cpu_s": plan_s,
        "few_candidates": math.inf if before is None else before[1].cost.objective(objective.value),
        "wide": wide.value,
        "drawn": drawn,
        "loss": proof.value / best - 1 if math.isfinite(best) else 0.0,
    }


def cases() -> pd.DataFrame:
    """The two cases."""
    first = chain([(16, 3), (16, 3)], 16, (28, 28), "int16")
    layers = [(56, 5), (12, 1), (12, 3), (12, 3), (12, 3), (12, 3), (56, 1), (1, 9)]
    second = chain(layers, 1, (560, 960), "int8")
    rows = []
    for name, group, arch_name, objective in (
        ("16-16-16 @28, 16 bits", first, "quad-edge", "edp"), ("FSRCNN-like, int8", second, "edge-256", "energy"),
    ):  # fmt: skip
        start = time.process_time()
        proof = prove_group(group, load_arch(arch_name), objective=objective)
        assert proof.mapping is not None
        assert proof.cost is not None
        rows.append({
            "case": name, "arch": arch_name, "objective": objective, "value": proof.value, "gap": proof.gap,
            "dram_MB": proof.cost.dram_bytes / 1e6, "cores": "x".join(map(str, proof.mapping.cores)),
            "tile": "x".join(map(str, proof.mapping.tile)), "kept": str(proof.mapping.kept),
            "priced": proof.num_priced, "bounded": proof.num_bounded, "cpu_s": time.process_time() - start,
        })  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """Print both tables, and write the rows of the chains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--chains", type=int, default=20)
    parser.add_argument("--arch", nargs="+", default=["edge-256", "quad-edge"])
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    print(cases().to_string(index=False), flush=True)
    rows = []
    for arch_name in options.arch:
        rng = random.Random(arch_name)
        for seed in range(2 if options.quick else options.chains):
            name, group = draw_chain(rng)
            rows.append({"commit": commit, **compare(name, group, load_arch(arch_name), seed)})
            print({key: rows[-1][key] for key in ("chain", "arch", "value", "gap", "loss", "cpu_s")}, flush=True)
            if options.csv:
                pd.DataFrame(rows).to_csv(options.csv, index=False)
    table = pd.DataFrame(rows)
    print(table.drop(columns="commit").to_string(index=False))


if __name__ == "__main__":
    main()
