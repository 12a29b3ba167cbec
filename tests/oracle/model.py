"""Cycles and energy of a mapping in closed form: what ``cost_model.analytical`` computes, readable."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from tests.oracle.boxes import num_parts
from tests.oracle.levels import core_tile
from tests.oracle.reuse import Reuse, count_reuse
from tests.oracle.slots import index_runs
from tests.oracle.time import CoreTime, CoreWalk, TimeModel, clip_cuts
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost, Energy
from tvm_spm.mapping import Mapping
from tvm_spm.workload import DIM_NAMES, Operand, Workload


def formula_cost(workload: Workload, arch: Arch, mapping: Mapping) -> Cost:
    """Cycles and energy of a legal mapping."""
    reuse = count_reuse(workload, mapping)
    cores = list(core_times(workload, arch, mapping))
    slowest = max((core for core, _ in cores), key=lambda core: core.cycles)
    cycles = contended_cycles(cores, arch)
    launch = arch.cores.launch_cycles
    return Cost(
        cycles=cycles,
        energy=energy_of(workload, arch, reuse),
        model="analytical",
        macs=workload.macs,
        utilization=workload.macs / (cycles * arch.peak_macs_per_cycle),
        compute_cycles=slowest.compute_cycles,
        noc_stall_cycles=slowest.pass_cycles - slowest.compute_cycles,
        dma_stall_cycles=cycles - slowest.pass_cycles - launch,
        overhead_cycles=launch,
        dram_bytes=reuse.dram_bytes(arch),
        dram_unused_bytes=reuse.unused_bits(arch) // 8,
        dma_busy_cycles=sum(core.engine_cycles * count for core, count in cores),
        dma_channels=min(arch.cores.count, arch.levels.DRAM.channels),
    )


def core_times(workload: Workload, arch: Arch, mapping: Mapping) -> Iterator[tuple[CoreTime, int]]:
    """Every kind of core, timed as if alone, and how many cores are of this kind."""
    model = TimeModel(workload=workload, arch=arch, mapping=mapping)
    tile = core_tile(workload, mapping)
    runs = []
    for name in DIM_NAMES:
        cuts = clip_cuts(workload, name, first=0, extent=workload.dims[name], tile=tile[name])
        runs.append(index_runs(mapping.cores[name], cuts))
    for kind in product(*runs):
        first = {name: run[0] * tile[name] for name, run in zip(DIM_NAMES, kind, strict=True)}
        extent = {name: min(tile[name], workload.dims[name] - first[name]) for name in DIM_NAMES}
        count = 1
        for run in kind:
            count *= len(run)
        yield CoreWalk(model=model, first=first, extent=extent).time(), count


def contended_cycles(cores: list[tuple[CoreTime, int]], arch: Arch) -> int:
    """Cycles until the last core is done.

    Cores with a channel each do not wait. Otherwise two waits are likely: all cores ask for their first tiles at once,
    so that the last one starts when the channels have served all of them; and the channels must serve all transfers.
    """
    slowest = max((core for core, _ in cores), key=lambda core: core.cycles)
    channels = arch.levels.DRAM.channels
    if sum(count for _, count in cores) <= channels:
        return slowest.cycles
    prologues = num_parts(sum(core.prologue_cycles * count for core, count in cores), channels)
    late_start = slowest.cycles + max(0, prologues - slowest.prologue_cycles)
    busy = num_parts(sum(core.channel_cycles * count for core, count in cores), channels)
    return max(late_start, arch.cores.launch_cycles + busy)


def energy_of(workload: Workload, arch: Arch, reuse: Reuse) -> Energy:
    """Price every access; a word has ``arch.word_bits``, other widths count in proportion."""
    words_i, words_w, words_o = (workload.projection(x).elem_bits / arch.word_bits for x in Operand)
    words_final = workload.out_bits / arch.word_bits
    levels, noc = arch.levels, arch.noc
    rf_i, rf_w, rf_o = reuse.rf_in
    in_i, in_w, in_o = (traffic.num_elems for traffic in reuse.dram_in)
    partial = in_o + reuse.dram_spill.num_elems
    final = reuse.dram_final.num_elems
    crossed_o = rf_o.num_elems + reuse.rf_out.num_elems
    crossed = rf_i.num_elems * words_i + rf_w.num_elems * words_w + crossed_o * words_o
    delivered = rf_i.num_deliveries * words_i + rf_w.num_deliveries * words_w + crossed_o * words_o
    moved = in_i * words_i + in_w * words_w + partial * words_o
    extras = 0.0
    for traffic in reuse.dram_extras:
        extras += traffic.num_elems * (traffic.projection.elem_bits / arch.word_bits)
    return Energy(
        mac_pj=workload.macs * arch.mac.op_pj,
        rf_pj=workload.macs * (words_i + words_w + 2 * words_o) * levels.RF.access_pj + delivered * levels.RF.fill_pj,
        noc_pj=crossed * noc.elem_pj
        + delivered * noc.delivery_pj
        + reuse.num_reduction_hops * words_o * noc.reduction_hop_pj,
        spm_pj=(crossed + moved + final * words_o) * levels.SPM.access_pj,
        dram_pj=(moved + final * words_final + extras + reuse.unused_bits(arch) / arch.word_bits)
        * levels.DRAM.access_pj,
        vector_pj=workload.O.tensor_elems() * workload.epilogue.num_ops_per_elem * arch.vector.op_pj,
    )
