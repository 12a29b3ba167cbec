"""Breakdown and timeline: counts and events of one run must agree with each other, and with physics."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cost_model.simulator import account, simulate_batch
from tests.simulator_cases import random_arch, random_case, random_mapping, random_workload
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.report.breakdown import breakdown_of
from tvm_spm.report.timeline import Event, Timeline, timeline_of
from tvm_spm.space import legality
from tvm_spm.workload import Workload

seeds = st.integers(min_value=0, max_value=2**32 - 1)
few_cores = st.sampled_from([(1, 1), (2, 1), (3, 1), (4, 1), (4, 2), (3, 4)])

NOC_REASONS = ("fill", "network", "RF buffer", "SPM port", "MAC pipeline", "drain")
DMA_REASONS = ("first load", "DMA", "SPM buffer", "DRAM arbitration", "vector unit", "last store")


def case(seed: int, shape: tuple[int, int]) -> tuple[Workload, Arch, Mapping]:
    return random_case(random.Random(seed), num_cores=shape[0], num_channels=shape[1])


def whole_timeline(workload: Workload, arch: Arch, mapping: Mapping) -> Timeline:
    recorded = timeline_of(workload, arch, mapping, max_events=10**9)
    assert recorded.is_complete
    return recorded


@settings(max_examples=150, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_reasons_add_up_to_the_parts_of_the_cost(seed: int, shape: tuple[int, int]):
    breakdown = breakdown_of(*case(seed, shape))
    cost = breakdown.cost
    assert sum(reason.cycles for reason in breakdown.reasons) == cost.cycles
    assert min(reason.cycles for reason in breakdown.reasons) > 0
    assert breakdown.cycles_of("launch") == cost.overhead_cycles
    assert breakdown.cycles_of("compute") == cost.compute_cycles
    assert sum(breakdown.cycles_of(reason) for reason in NOC_REASONS) == cost.noc_stall_cycles
    assert sum(breakdown.cycles_of(reason) for reason in DMA_REASONS) == cost.dma_stall_cycles
    # a core that has a channel for itself never waits for one
    assert breakdown.cycles_of("DRAM arbitration") == 0 or shape[0] > shape[1]


@settings(max_examples=150, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_bytes_and_energy_by_operand_add_up_to_the_cost(seed: int, shape: tuple[int, int]):
    breakdown = breakdown_of(*case(seed, shape))
    energy = breakdown.cost.energy
    for level in ("DRAM", "SPM", "NoC", "RF"):
        parts = [use.energy_pj for use in breakdown.levels if use.level == level]
        assert sum(parts) == pytest.approx(getattr(energy, f"{level.lower()}_pj"), rel=1e-12), level
    moved = [use.num_bytes for use in breakdown.levels if use.level == "DRAM"]
    assert tuple(moved) == breakdown.cost.dram_bytes


@settings(max_examples=150, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_no_resource_is_busy_longer_than_the_run(seed: int, shape: tuple[int, int]):
    workload, arch, mapping = case(seed, shape)
    breakdown = breakdown_of(workload, arch, mapping)
    cycles = breakdown.cost.cycles
    for use in breakdown.resources:
        parts = (use.busy_cycles, use.stalled_cycles, use.idle_cycles)
        assert min(parts) >= 0, use.resource
        assert sum(parts) == cycles * use.count, use.resource
    pe = breakdown.pe
    assert pe.total == cycles * arch.num_pes
    assert min(pe.macs, pe.edge, pe.unmapped, pe.stalled) >= 0
    roofline = breakdown.roofline
    assert roofline.achieved_bytes_per_cycle <= roofline.peak_bytes_per_cycle * (1 + 1e-9)
    assert roofline.achieved_macs_per_cycle <= roofline.roof_macs_per_cycle * (1 + 1e-9)


@settings(max_examples=150, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_counting_equal_slots_changes_no_account(seed: int, shape: tuple[int, int]):
    rng = random.Random(seed)
    workload = random_workload(rng, small=False)
    arch = random_arch(rng, num_cores=shape[0], num_channels=shape[0])
    mapping = random_mapping(rng, workload, arch)
    counted, walked = (account(workload, arch, mapping, fold=fold) for fold in (True, False))
    assert (counted.cost, counted.counts, counted.last_core) == (walked.cost, walked.counts, walked.last_core)
    assert counted.notes.tolist() == walked.notes.tolist()


@settings(max_examples=100, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_reasons_are_what_the_events_leave_open(seed: int, shape: tuple[int, int]):
    workload, arch, mapping = case(seed, shape)
    # without a port every wait ends with an event
    arch = replace(arch, levels=replace(arch.levels, SPM=replace(arch.levels.SPM, bytes_per_cycle=None)))
    breakdown = breakdown_of(workload, arch, mapping)
    own = [event for event in whole_timeline(workload, arch, mapping).events if event.core == breakdown.core]
    passes: dict[int, list[Event]] = defaultdict(list)
    for event in own:
        if event.resource == "PE array" or event.resource.startswith("NoC"):
            passes[event.pass_number].append(event)
    spans = [(min(e.start for e in events), max(e.end for e in events)) for events in passes.values()]

    def outside(start: int, end: int) -> int:
        return end - start - sum(max(0, min(end, last) - max(start, first)) for first, last in spans)

    assert breakdown.cycles_of("fill") == sum(
        min(e.start for e in events if e.resource == "PE array") - first
        for events, (first, _) in zip(passes.values(), spans, strict=True)
    )
    assert breakdown.cycles_of("MAC pipeline") == sum(e.end - e.start for e in own if e.label == "MAC pipeline")
    assert breakdown.cycles_of("DRAM arbitration") == sum(outside(e.start, e.end) for e in own if e.is_waiting)
    found: dict[str, int] = defaultdict(int)
    held = {(e.start, e.label.rsplit(",", 1)[0]): e.end for e in own if e.resource.startswith("DRAM")}
    for event in own:
        if event.resource == "DMA" and not event.is_waiting:
            moved = held[event.start, event.label]
            way = event.operand if event.operand != "O" else "O in" if event.label.startswith("read") else "O out"
            found[way] += outside(event.start, moved)
            found["vector unit"] += outside(moved, event.end)
    assert breakdown.cycles_of("vector unit") == found.pop("vector unit", 0)
    for way, cycles in found.items():
        assert cycles == sum(
            each.cycles
            for each in breakdown.reasons
            if each.operand == way and each.reason in ("first load", "DMA", "SPM buffer", "last store")
        ), way


@settings(max_examples=100, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_timeline_ends_when_the_simulator_does(seed: int, shape: tuple[int, int]):
    workload, arch, mapping = case(seed, shape)
    cost = simulate_batch(workload, arch, [mapping])[0]
    recorded = whole_timeline(workload, arch, mapping)
    assert recorded.cycles == max(event.end for event in recorded.events) == cost.cycles
    on_channels = [event for event in recorded.events if event.resource.startswith("DRAM")]
    assert sum(event.num_bytes for event in on_channels) == sum(cost.dram_bytes)
    dma = [event for event in recorded.events if event.resource == "DMA" and not event.is_waiting]
    assert sum(event.end - event.start for event in dma) == cost.dma_busy_cycles


@settings(max_examples=100, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_timeline_and_breakdown_tell_the_same(seed: int, shape: tuple[int, int]):
    workload, arch, mapping = case(seed, shape)
    breakdown, recorded = breakdown_of(workload, arch, mapping), whole_timeline(workload, arch, mapping)
    busy: dict[str, int] = defaultdict(int)
    for event in recorded.events:
        if event.core == breakdown.core and not event.is_waiting and event.label != "MAC pipeline":
            busy[event.resource] += event.end - event.start
    for use in breakdown.resources:
        if use.count == 1 and use.resource != "DRAM channels":
            assert busy[use.resource] == use.busy_cycles, use.resource


@settings(max_examples=100, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_no_resource_does_two_things_at_once(seed: int, shape: tuple[int, int]):
    rows: dict[tuple[str, int], list[Event]] = defaultdict(list)
    for event in whole_timeline(*case(seed, shape)).events:
        rows[event.resource, -1 if event.resource.startswith("DRAM") else event.core].append(event)
    for row, events in rows.items():
        for earlier, later in itertools.pairwise(events):
            assert earlier.end <= later.start, row


@settings(max_examples=60, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_no_window_moves_more_bytes_than_the_channels_can(seed: int, shape: tuple[int, int]):
    workload, arch, mapping = case(seed, shape)
    events = [e for e in whole_timeline(workload, arch, mapping).events if e.resource.startswith("DRAM")]
    channels = min(arch.levels.DRAM.channels, mapping.cores.product())
    for start in sorted({event.start for event in events}):
        # transfers wholly inside a window that opens at this start and closes at each end
        inside = sorted((e.end, e.num_bytes) for e in events if e.start >= start)
        moved = 0
        for end, num_bytes in inside:
            moved += num_bytes
            assert moved <= channels * arch.dma_bytes_per_cycle * (end - start) * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(seed=seeds, shape=few_cores)
def test_tiles_in_scratchpad_never_exceed_it(seed: int, shape: tuple[int, int]):
    workload, arch, mapping = case(seed, shape)
    assume(legality.check(workload, arch, mapping) is None)
    recorded = whole_timeline(workload, arch, mapping)
    planned = dict(legality.spm_terms(workload, arch, mapping, mapping.spm))
    for core in range(recorded.num_cores):
        amounts = [amount for _, amount in recorded.occupancy(core)]
        for name, most in zip("IWO", map(max, zip(*amounts, strict=True)), strict=True):
            assert 0 < most <= planned[name]
        assert min(map(min, amounts)) == 0
        assert amounts[-1] == (0, 0, 0)


@settings(max_examples=100, deadline=None)
@given(seed=seeds, shape=few_cores, max_events=st.integers(min_value=1, max_value=60))
def test_a_cut_timeline_is_the_beginning_of_the_whole(seed: int, shape: tuple[int, int], max_events: int):
    workload, arch, mapping = case(seed, shape)
    cut = timeline_of(workload, arch, mapping, max_events=max_events)
    whole = whole_timeline(workload, arch, mapping)
    assert list(cut.events) == [event for event in whole.events if event.start < cut.cycles]
    assert cut.events
    assert cut.is_complete == (cut.cycles == whole.cycles)
