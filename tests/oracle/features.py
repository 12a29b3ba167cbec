"""The features of one mapping, name by name, from the lists of its loops."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tests.oracle.boxes import num_parts, spanned_elems
from tests.oracle.levels import Point, array_tile, core_tile, inside, is_double, loops, relevant
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Projection, Workload


def log2(value: float) -> float:
    return math.log2(value) if value > 0 else -20.0


def alignment(num_bits: int) -> int:
    """How often a length in bytes can be halved, up to 12 times; 0 for one that is no whole number of bytes."""
    return max(at for at in range(13) if at == 0 or num_bits % (8 << at) == 0)


def row_elems(projection: Projection, tile: Dims) -> int:
    spans = [spanned_elems([axis], tile) for axis in projection.axes]
    return next((span for span in reversed(spans) if span > 1), spans[0])


def run_elems(projection: Projection, tile: Dims) -> int:
    run = 1
    for axis in reversed(projection.axes):
        span = min(axis.extent, spanned_elems([axis], tile))
        run *= span
        if span < axis.extent:
            break
    return run


def ranks(nest: list[tuple[str, str]], level: str) -> dict[str, float]:
    names = [name for at, name in nest if at == level]
    return {name: len(names) - 1 - names.index(name) if name in names else -1 for name in DIM_NAMES}


def product(values: Iterable[float]) -> float:
    return math.prod(values, start=1.0)


def features_of(workload: Workload, arch: Arch, mapping: Mapping, cycles: float, energy_pj: float) -> dict[str, float]:
    """Values by name; those of an estimate from its cycles and energy."""
    found: dict[str, float] = {}
    core, array = core_tile(workload, mapping), Dims(**array_tile(mapping))
    times: dict[str, Point] = {
        "DRAM": {name: num_parts(core[name], mapping.spm[name]) for name in DIM_NAMES},
        "SPM": {name: num_parts(mapping.spm[name], array[name]) for name in DIM_NAMES},
    }
    per_dim = {
        "extent_{}_elems": workload.dims, "spm_tile_{}_elems": mapping.spm, "rf_tile_{}_elems": mapping.rf,
        "core_{}_factor": mapping.cores, "dram_{}_factor": times["DRAM"], "spm_{}_factor": times["SPM"],
        "row_{}_factor": mapping.rows, "col_{}_factor": mapping.cols,
    }  # fmt: skip
    for text, values in per_dim.items():
        found |= {f"log2_{text.format(name)}": log2(values[name]) for name in DIM_NAMES}
    nest = loops(workload, mapping)
    for level in ("DRAM", "SPM"):
        found |= {f"{level.lower()}_rank_{name}_loops": rank for name, rank in ranks(nest, level).items()}
    num_cores = product(mapping.cores)
    everything = product(times[level][name] for level, name in nest)
    in_dram = [loop for loop in nest if loop[0] == "DRAM"]
    in_spm = [loop for loop in nest if loop[0] == "SPM"]
    traffic = first = port = spm_fill = rf_fill = 0.0
    for operand in Operand:
        projection = {"I": workload.I, "W": workload.W, "O": workload.O}[operand.name]
        width, key = projection.elem_bits / 8, operand.name
        held = {at: spanned_elems(projection.axes, tile) * width
                for at, tile in (("spm", mapping.spm), ("array", array), ("rf", mapping.rf))}  # fmt: skip
        reuse = {at: product(times[level][name] for level, name in inside(projection, loops_of))
                 for at, loops_of in (("spm", in_spm), ("dram", in_dram), ("both", nest))}  # fmt: skip
        fetches = {"spm": product(times["DRAM"].values()) / reuse["dram"], "rf": everything / reuse["both"]}
        buffers = {at: 1 + is_double(mapping, at.upper(), operand) for at in ("spm", "rf")}
        found |= {f"log2_{at}_footprint_{key}_bytes": log2(size) for at, size in held.items()}
        found |= {f"log2_{at}_fetch_{key}_count": log2(count) for at, count in fetches.items()}
        found |= {f"log2_{at}_reuse_{key}_iterations": log2(reuse[at]) for at in ("dram", "spm")}
        found |= {f"{at}_buffers_{key}_count": count for at, count in buffers.items()}
        moved = held["spm"] * fetches["spm"] * num_cores
        run = run_elems(projection, mapping.spm)
        bits = projection.elem_bits
        found |= {
            f"log2_dram_traffic_{key}_bytes": log2(moved), f"log2_dram_run_{key}_bytes": log2(run * width),
            f"log2_runs_{key}_count": log2(held["spm"] / width / run),
            f"dram_row_alignment_{key}_bits": alignment(projection.axes[-1].extent * bits),
            f"spm_row_alignment_{key}_bits": alignment(row_elems(projection, mapping.spm) * bits),
            f"array_row_alignment_{key}_bits": alignment(row_elems(projection, array) * bits),
        }  # fmt: skip
        traffic += moved
        first += held["spm"] if operand is not Operand.O else 0
        port += held["array"] * fetches["rf"]
        spm_fill += buffers["spm"] * held["spm"]
        rf_fill += buffers["rf"] * held["rf"]
    pes = arch.pe.rows * arch.pe.cols
    busy = product(mapping.rows[n] * mapping.cols[n] * mapping.cores[n] for n in DIM_NAMES)
    own = product(mapping.spm[name] for name in relevant(workload.I))
    levels = arch.levels
    capacity = levels.SPM.capacity_bytes
    spm_bytes = capacity if isinstance(capacity, int) else capacity.I + capacity.W + capacity.O
    rate = arch.dma_bytes_per_cycle * levels.DRAM.channels
    numbers = {
        "cores": arch.cores.count, "pes": pes, "dma_bytes_per_cycle": arch.dma_bytes_per_cycle,
        "burst_startup_cycles": arch.burst_startup_cycles, "noc_elems_per_cycle": arch.noc.elems_per_cycle,
        "dram_channels": levels.DRAM.channels, "spm_bytes_per_cycle": levels.SPM.bytes_per_cycle or 1,
        "mac_stages": arch.pe.mac_stages,
    }  # fmt: skip
    macs = product(workload.dims)
    return found | {f"log2_arch_{name}": log2(value) for name, value in numbers.items()} | {
        "log2_macs": log2(macs), "log2_macs_per_dram_byte": log2(macs / traffic), "log2_busy_pes": log2(busy),
        "busy_pes_ratio": busy / (pes * arch.cores.count), "spm_filled_ratio": spm_fill / spm_bytes,
        "rf_filled_ratio": rf_fill / levels.RF.capacity_bytes, "spill_flag": float(mapping.spill),
        "log2_reduction_pes": log2(product(mapping.rows[name] * mapping.cols[name] for name in REDUCTION_DIMS)),
        "log2_halo_ratio": log2(spanned_elems(workload.I.axes, mapping.spm) / own),
        "log2_passes_count": log2(product(times["DRAM"].values())),
        "log2_steps_count": log2(product(times["SPM"].values())), "log2_step_macs": log2(product(mapping.rf)),
        "log2_cores_per_channel": log2(num_cores / levels.DRAM.channels),
        "log2_estimated_cycles": log2(cycles), "log2_estimated_energy_pj": log2(energy_pj),
        "log2_cycles_per_ideal_cycle": log2(cycles * pes * arch.cores.count / macs),
        "channel_busy_ratio": traffic / rate / cycles, "prologue_ratio": first * num_cores / rate / cycles,
        "log2_spm_port_bytes_per_cycle": log2(port / cycles),
    }  # fmt: skip
