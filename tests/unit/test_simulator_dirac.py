"""DiRAC's convolution example: our cycles by hand, and every term of the difference."""

from __future__ import annotations

from math import ceil

from cost_model.simulator import SimulatorModel
from tests.simulator_dirac import (
    DIRAC_CYCLES,
    DIRAC_LAUNCH,
    MAPPING,
    WORKLOAD,
    dirac_arch,
    dirac_table,
    dirac_terms,
)
from tvm_spm.report.breakdown import explain

STEP = 2 * 3 * 3 * 3
"""MACs of a PE in one step: K=2 C=3 FY=3 FX=3."""

I_CROSSING, W_CROSSING, O_CROSSING = 3 * 5 * 5, 2 * 3 * 3 * 3, 2 * 3 * 3
"""Elements of the array's tiles, one per cycle."""


def burst_cycles(*num_bytes: int) -> int:
    """One transfer of several bursts: 291 cycles each and 0.24 per byte, at 3,200 MHz, seen at 500 MHz."""
    return ceil((291 * len(num_bytes) + 0.24 * sum(num_bytes)) * 500 / 3200)


def test_our_cycles_by_hand():
    first_loads = burst_cycles(2 * 75 * 2) + burst_cycles(4 * 27 * 2)
    # fill; then each step beside what the next one needs: W, I and W, W, nothing; drain
    one_pass = I_CROSSING + max(STEP, W_CROSSING) + max(STEP, I_CROSSING) + max(STEP, W_CROSSING) + STEP + O_CROSSING
    tail = burst_cycles(36 * 2, 36 * 2)
    assert (first_loads, one_pass, tail) == (57 + 54, 330, 97)
    cost = SimulatorModel().cost(WORKLOAD, dirac_arch(), MAPPING)
    assert cost.cycles == DIRAC_LAUNCH + first_loads + 4 * one_pass + tail == 1576
    assert cost.compute_cycles == 864
    assert cost.dma_stall_cycles == first_loads + tail


def test_breakdown():
    breakdown = explain(WORKLOAD, dirac_arch(), MAPPING)
    found = {str(reason): reason.cycles for reason in breakdown.reasons}
    assert found == {
        "launch": 48,
        "compute": 16 * STEP,
        "first load I": 57,
        "first load W": 54,
        "last store O out": 97,
        "fill": 4 * I_CROSSING,
        "network I": 4 * (I_CROSSING - STEP),
        "drain": 4 * O_CROSSING,
    }
    # 9 PEs work 864 cycles each, without edges
    assert (breakdown.pe.macs, breakdown.pe.edge, breakdown.pe.unmapped) == (9 * 864, 0, 0)


def test_terms_add_up_to_both_totals():
    terms = dirac_terms()
    assert sum(term.dirac for term in terms) == DIRAC_CYCLES
    assert sum(term.ours for term in terms) == 1576


def test_every_difference():
    differences = {term.name: term.difference for term in dirac_terms()}
    assert differences == {
        "configuration": 0,
        # beyond the price of two bursts
        "first loads of I and W": 8,
        # beyond the slowest part: 2 + 3 + 2 + 2 in the slots with data, 1 in the next
        "passes: data arrive, MACs": 4 * (2 + 3 + 2 + 2 + 1),
        # a slot as long as a step instead of 18 crossings
        "passes: last outputs leave the array": 4 * (55 - O_CROSSING),
        "passes: beyond their slots": 4 * 1,
        # beyond the price of two bursts
        "last outputs to DRAM": 12,
    }
    assert sum(differences.values()) == 1788 - 1576


def test_table_for_readers():
    assert dirac_table().splitlines()[-1] == "| all | 1,788 | 1,576 | 212 |"
