"""The mapping that a program realises, read off its loops and copies, and what the simulator makes of it."""

from __future__ import annotations

from cost_model.simulator import SimulatorModel
from cost_model.simulator.program import Compute, Copy, Loop, Program
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost
from tvm_spm.mapping import Mapping
from tvm_spm.workload import DIM_NAMES, Dims, Operand, Workload


def mapping_of(program: Program) -> Mapping:
    """The mapping that a program realises; loops that iterate once leave no trace, so it is canonical."""
    cores, core_tile = Dims(), program.extents
    orders: dict[str, list[str]] = {"dram": [], "spm": []}
    spm_tiles: dict[str, int] = {}
    doubled: dict[str, set[Operand]] = {"DMA": set(), "NoC": set()}
    spills = False
    body, compute = program.body, None
    while compute is None:
        inner: Loop | None = None
        for node in body:
            if isinstance(node, Loop):
                inner = node
            elif isinstance(node, Compute):
                compute = node
            elif isinstance(node, Copy) and node.is_double:
                doubled[node.path].add(node.operand)
            if isinstance(node, Copy):
                spills = spills or node.when == "unfinished"
        if inner is None:
            continue
        if inner.level == "cores":
            cores = cores.with_dim(inner.dim, inner.trip_counts[0])
            core_tile = core_tile.with_dim(inner.dim, inner.tile)
        else:
            orders[inner.level].append(inner.dim)
            if inner.level == "dram":
                spm_tiles[inner.dim] = inner.tile
        body = inner.body
    spm = Dims.of([spm_tiles.get(d, core_tile[d]) for d in DIM_NAMES])
    in_order = [tuple(sorted(doubled[path], key=lambda operand: operand.value)) for path in ("DMA", "NoC")]
    return Mapping(
        cores=cores, spm=spm, rows=compute.rows, cols=compute.cols, rf=compute.rf, dram_order=tuple(orders["dram"]),
        spm_order=tuple(orders["spm"]), spm_double=in_order[0], rf_double=in_order[1], spill=spills,
    )  # fmt: skip


def simulate_program(workload: Workload, arch: Arch, program: Program) -> Cost:
    """Cycles and energy of a program.

    Args:
        workload: Says where the tensors of the program lie and how wide they are.
        arch: The accelerator.
        program: Of ``workload``.
    """
    return SimulatorModel().cost(workload, arch, mapping_of(program))
