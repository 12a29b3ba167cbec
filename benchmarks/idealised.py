"""What the idealisations that stay in the timing rule may be worth on ResNet-18: an estimate of each, by arithmetic.

Source: certified best mappings of all layers (of ``expected/timing_rule.csv``, see ``timing_rule.py``; batch 1, int16),
timed as they are and with the effect of one idealisation added as said below. ``hidden`` counts it where the array
waits for DMA anyway or not at all, ``exposed`` as if nothing hid it; the truth lies between. These are bounds of
effects that no engine models, by arithmetic, to tell which of them matter.

- refresh: a DDR4 rank of 8 Gb is away for tRFC 350 ns of every tREFI 7.8 us (JESD79-4), 4.5 %; an LPDDR4 channel of
  8 Gb 280 ns of 3.9 us (JESD209-4), 7.2 %. Channels and engine slower by that much, timed again.
- SPM port for DMA: as many port cycles as its bytes need at the port's rate, taken from the networks.
- SPM banks: operands and buffers never share a bank (buffers are whole banks); within a bank, runs as wide as the
  network are read at once, but a strided row of I may need two accesses where one is counted: I crosses in twice the
  time on layers with a stride.
- multicast tree: registers on every second level of a tree over all PEs delay what crosses; per pass (fill), and per
  array tile.
- instructions: those of a layer (``stream``), read over the DRAM channel beside everything else.
- zero-fill: padding that DMA writes into SPM at the port's rate instead of networks that make it up.
- unaligned bursts: every run of a tile touches one more burst of 64 B, beside bursts of 64 B that start aligned.

Budget: none. Expected time: ten seconds; ``--quick`` runs three layers.

    python benchmarks/idealised.py [--quick] [--csv FILE] [--arch NAME]
"""

from __future__ import annotations

import argparse
import math
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
from exact_bursts import with_bursts
from timing_rule import EXPECTED, resnet_18

from tests.oracle.model import formula_cost
from tests.oracle.reuse import count_reuse
from tvm_spm.arch import Arch, load_arch
from tvm_spm.mapping import Mapping
from tvm_spm.stream.binary import to_bytes
from tvm_spm.stream.encode import encode
from tvm_spm.workload import DIM_NAMES, Epilogue, Operand, Workload

REFRESH = {"refresh, DDR4": 350 / 7800, "refresh, LPDDR4": 280 / 3904}
LEVELS_PER_REGISTER = 2
BURST_BYTES = 64


def slower(arch: Arch, share: float) -> Arch:
    """A share of the time, neither channel nor engine moves anything."""
    dram = arch.levels.DRAM
    rate = dram.channel_bytes_per_cycle * (1 - share)
    return replace(
        arch, dma=replace(arch.dma, cycles_per_byte=arch.dma.cycles_per_byte / (1 - share)),
        levels=replace(arch.levels, DRAM=replace(dram, channel_bytes_per_cycle=rate)),
    )  # fmt: skip


def num_tiles(workload: Workload, mapping: Mapping) -> tuple[int, int]:
    """(passes, array tiles) of all cores."""
    passes = steps = 1
    array = mapping.array
    for name in DIM_NAMES:
        extent, spm = workload.dims[name], mapping.spm[name]
        passes *= math.ceil(extent / spm)
        steps *= extent // spm * math.ceil(spm / array[name]) + math.ceil(extent % spm / array[name])
    return passes, steps


def effects(workload: Workload, arch: Arch, mapping: Mapping) -> dict[str, tuple[float, float]]:
    """Cycles that each idealisation leaves out, hidden and exposed."""
    cost = formula_cost(workload, arch, mapping)
    passes, steps = num_tiles(workload, mapping)
    channels = min(arch.levels.DRAM.channels, mapping.cores.product())
    dram_rate, cores = channels * arch.dma_bytes_per_cycle, mapping.cores.product()
    port = arch.levels.SPM.bytes_per_cycle or arch.noc.elems_per_cycle * arch.word_bits / 8
    moved = count_reuse(workload, mapping).dram
    found = {}
    for name, share in REFRESH.items():
        found[name] = formula_cost(workload, slower(arch, share), mapping).cycles - cost.cycles, share * cost.cycles
    found["SPM port for DMA"] = 0.0, sum(cost.dram_bytes) / port / cores
    strided = any(step > 1 for axis in workload.I.axes for name, step in axis.terms if name in ("OY", "OX"))
    crossing = cost.noc_stall_cycles if strided else 0.0
    found["SPM banks, strided rows"] = 0.0, crossing
    registers = math.ceil(math.log2(arch.pe.rows * arch.pe.cols) / LEVELS_PER_REGISTER)
    found["multicast tree"] = registers * passes / cores, registers * steps / cores
    bare = replace(workload, epilogue=Epilogue())
    num_bytes = sum(len(to_bytes(stream)) for stream in encode(bare, arch, mapping).streams)
    found["instructions"] = 0.0, num_bytes / dram_rate
    padded = sum(t.num_elems for t in moved if t.projection is workload.I)
    full = replace(workload, I=replace(workload.I, axes=tuple(
        replace(axis, offset=0, extent=1 + sum(c * (workload.dims[n] - 1) for n, c in axis.terms))
        for axis in workload.I.axes
    )))  # fmt: skip
    all_elems = sum(t.num_elems for t in count_reuse(full, mapping).dram if t.projection is full.I)
    found["zero-fill"] = 0.0, (all_elems - padded) * workload.projection(Operand.I).elem_bits / 8 / port / cores
    aligned = formula_cost(workload, with_bursts(arch, BURST_BYTES), mapping).cycles
    found["unaligned bursts of 64 B"] = 0.0, sum(t.num_bursts for t in moved) * BURST_BYTES / dram_rate
    found["(aligned bursts of 64 B)"] = aligned - cost.cycles, aligned - cost.cycles
    return found | {"cycles": (cost.cycles, cost.cycles)}


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--arch", default="edge-256")
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    arch, rows = load_arch(options.arch), []
    best = pd.read_csv(EXPECTED)
    best = best[(best["arch"] == arch.name) & (best["rule"] == best["rule"].iloc[-1])]
    mappings = dict(zip(best["workload"], best["mapping"], strict=True))
    layers = list(resnet_18().items())
    for layer, (count, workload) in layers[-3:] if options.quick else layers:
        mapping = Mapping.parse(mappings[layer])
        for name, (hidden, exposed) in effects(workload, arch, mapping).items():
            rows.append({
                "commit": commit.strip(), "arch": arch.name, "arch_sha256": arch.sha256()[:12], "workload": layer,
                "count": count, "searcher": "exact", "source": "estimated", "effect": name,
                "hidden_cycles": count * hidden, "exposed_cycles": count * exposed, "mapping": mapping.line(),
            })  # fmt: skip
    table = pd.DataFrame(rows)
    if options.csv is not None:
        table.to_csv(options.csv, index=False)
    totals = table.groupby("effect", sort=False)[["hidden_cycles", "exposed_cycles"]].sum()
    cycles = totals.loc["cycles", "hidden_cycles"]
    print(f"{arch.name}: {cycles:,.0f} cycles; added by\n{'':28} {'hidden':>8} {'exposed':>8} {'worst layer':>12}")
    alone = table[table["effect"] == "cycles"].set_index("workload")["hidden_cycles"]
    for name in totals.index.drop("cycles"):
        own = table[table["effect"] == name].set_index("workload")["exposed_cycles"] / alone
        low, high = totals.loc[name] / cycles
        print(f"{name:28} {low:+8.2%} {high:+8.2%} {own.max():+12.2%}")


if __name__ == "__main__":
    main()
