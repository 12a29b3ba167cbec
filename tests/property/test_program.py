"""A program holds everything that decides about time: walked literally, it moves what the simulator counts."""

from __future__ import annotations

import random

import pytest

from cost_model.simulator import SimulatorModel, account
from cost_model.simulator.program import program_of
from tests.oracle.program import count_moves
from tests.program_mapping import mapping_of, simulate_program
from tests.simulator_cases import random_case
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Dims, Operand, Workload


@pytest.mark.parametrize("seed", range(60))
def test_a_program_moves_what_the_simulator_counts(seed: int):
    rng = random.Random(f"program {seed}")
    workload, arch, mapping = random_case(rng, num_cores=rng.choice([1, 4]), num_channels=rng.choice([1, 2]))
    events = account(workload, arch, mapping).counts
    moves = count_moves(workload, program_of(workload, mapping))
    for operand, name in ((Operand.I, "I"), (Operand.W, "W"), (Operand.O, "O")):
        assert moves[f"DMA {name}"] == events.moved[operand.value]
        assert moves[f"NoC {name}"] == events.crossed[operand.value]
    # Where a tile holds part of every group, the box around it reaches over outputs of other tiles: DMA skips them, but
    # they count.
    assert moves["DMA final"] == events.final >= workload.O.tensor_elems()
    assert [moves[f"extra {i}"] for i in range(len(workload.epilogue.extras))] == list(events.extras)
    assert moves["operations"] == workload.O.tensor_elems() * workload.epilogue.num_ops_per_elem
    assert moves["macs"] == workload.macs


@pytest.mark.parametrize("seed", range(200))
def test_the_mapping_of_a_program_takes_as_long(seed: int):
    rng = random.Random(f"mapping {seed}")
    workload, arch, mapping = random_case(rng, num_cores=rng.choice([1, 4]), num_channels=rng.choice([1, 2]))
    program = program_of(workload, mapping)
    found, canonical = mapping_of(program), mapping.canonical(workload)
    assert found.line().replace(", spill", "") == canonical.line().replace(", spill", "")
    assert program_of(workload, found) == program
    assert simulate_program(workload, arch, program) == SimulatorModel().cost(workload, arch, mapping)


def test_a_program_by_hand():
    # 7 of K on 2 cores are 4 + 3, in SPM tiles of 2: 2 iterations each. C = 5 in tiles of 3, outside of K: sums spill.
    # I (OX=6, C=3) is loaded once per C, W (3, 2) per C and K. SPM loop OX by 4: 6 = 4 + 2.
    workload = Workload.matmul(m=6, k=5, n=7, dtype="int8", out_dtype="int32")
    mapping = Mapping(
        cores=Dims(K=2), spm=Dims(OX=6, C=3, K=2), rows=Dims(K=2), cols=Dims(OX=2), rf=Dims(OX=2, C=3),
        dram_order=("C", "K"), spm_order=("OX",), spm_double=(Operand.W,), spill=True,
    )  # fmt: skip
    assert str(program_of(workload, mapping)).splitlines() == [
        "extents K=7 C=5 OX=6",
        "SPM holds 1 x I 6x3 of 8 bits",
        "SPM holds 2 x W 3x2 of 8 bits",
        "SPM holds 1 x O 6x2 of 32 bits",
        "for K in cores by 4: 2 iterations",
        "  for C in dram by 3: 2 iterations",
        "    DMA I in: 6x3",
        "    for K in dram by 2: 2 iterations",
        "      DMA W in: 3x2, double",
        "      DMA O in revisit: 6x2",
        "      NoC W in: 3x2",
        "      for OX in spm by 4: 2 iterations",
        "        NoC I in: 4x3",
        "        NoC O in revisit: 4x2",
        "        step of rows K=2 | cols OX=2 | RF C=3 OX=2",
        "        NoC O out: 4x2",
        "      DMA O out unfinished: 6x2",
        "      DMA O out finished: 6x2",
    ]


def test_trip_counts_at_edges():
    # 9 rows on 2 cores are 5 + 4, in SPM tiles of 2: 3 and 2 iterations; a tile of 2 or 1 in array tiles of 1.
    workload = Workload.conv2d(K=1, C=1, OY=9, OX=1, FY=1, FX=1)
    mapping = Mapping(cores=Dims(OY=2), spm=Dims(OY=2), dram_order=("OY",), spm_order=("OY",))
    lines = [line.strip() for line in str(program_of(workload, mapping)).splitlines() if "for" in line]
    assert lines == [
        "for OY in cores by 5: 2 iterations",
        "for OY in dram by 2: 3 or 2 iterations",
        "for OY in spm by 1: 2 or 1 iterations",
    ]
