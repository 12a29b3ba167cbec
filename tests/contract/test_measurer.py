"""What every measurer promises, and what is made of its answers."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cost_model.simulator import SimulatorModel
from tvm_spm.arch import load_arch
from tvm_spm.errors import MappingError
from tvm_spm.mapping import Mapping
from tvm_spm.tuning.measurer import (
    CommandMeasurer,
    MeasureError,
    Measurement,
    Measurer,
    MeasureRequest,
    SimulatorMeasurer,
    cost_of,
    costs_of,
    measure,
)
from tvm_spm.workload import Dims, Workload

ARCH = load_arch("edge-256")
LAYERS = (Workload.matmul(m=4, k=3, n=2), Workload.conv2d(K=4, C=2, OY=3, OX=5, FY=3, FX=3))
MAPPINGS = (
    (Mapping(spm=Dims(OX=4, C=3, K=2), rf=Dims(OX=4), spm_order=("C", "K")), Mapping(dram_order=("OX", "K", "C"))),
    (Mapping(dram_order=("K", "OY", "OX", "C", "FY", "FX")),),
)
REQUESTS = tuple(
    MeasureRequest(workload=layer, arch=ARCH, mapping=mapping)
    for layer, mappings in zip(LAYERS, MAPPINGS, strict=True)
    for mapping in mappings
)

# A stand-in for a board: one MAC per cycle and 100 cycles to start, from the numbers of the request.
BOARD = """
import json, math, sys
request = json.load(sys.stdin)
print("some chatter of the tool")
cycles = 100 + math.prod(request["dims"].values())
print(json.dumps({"cycles": cycles, "energy_pj": 2.0 * cycles}))
"""


@dataclass(frozen=True)
class Counting:
    """The least a user writes."""

    name: str = "counting"

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        return [Measurement(cycles=request.workload.macs) for request in requests]


MEASURERS: dict[str, Measurer] = {
    "simulator": SimulatorMeasurer(),
    "command": CommandMeasurer(name="board", command=(sys.executable, "-c", BOARD)),
    "own": Counting(),
}


@pytest.fixture(params=sorted(MEASURERS))
def measurer(request: pytest.FixtureRequest) -> Measurer:
    return MEASURERS[request.param]


def test_one_answer_per_request_in_order(measurer: Measurer):
    together = measurer.measure(REQUESTS)
    assert together == [measurer.measure([request])[0] for request in REQUESTS]
    assert measurer.measure(REQUESTS[::-1]) == together[::-1]


def test_no_requests_no_answers(measurer: Measurer):
    assert measurer.measure([]) == []


def test_same_requests_same_answers(measurer: Measurer):
    assert measurer.measure(REQUESTS) == measurer.measure(REQUESTS)


def test_its_name_can_go_into_a_file_name(measurer: Measurer):
    assert measurer.name
    assert all(letter.isalnum() or letter in "-_" for letter in measurer.name)


def test_costs_hold_what_was_measured(measurer: Measurer):
    for layer, mappings in zip(LAYERS, MAPPINGS, strict=True):
        costs = measure(layer, ARCH, mappings, measurer)
        requests = [MeasureRequest(workload=layer, arch=ARCH, mapping=mapping) for mapping in mappings]
        for mapping, cost, found in zip(mappings, costs, measurer.measure(requests), strict=True):
            assert cost.cycles == found.cycles
            assert cost.model == measurer.name
            parts = (cost.compute_cycles, cost.noc_stall_cycles, cost.dma_stall_cycles, cost.overhead_cycles)
            assert sum(parts) == cost.cycles
            assert min(parts) >= 0
            assert cost.utilization == layer.macs / (cost.cycles * ARCH.peak_macs_per_cycle)
            # What was not measured is what the mapping asks for.
            asked = SimulatorModel().cost(layer, ARCH, mapping).energy_pj
            assert cost.energy_pj == pytest.approx(asked if found.energy_pj is None else found.energy_pj)


def test_refuses_an_illegal_mapping(measurer: Measurer):
    with pytest.raises(MappingError, match=r"matmul .* on edge-256: DRAM order without K: needs 2 iterations"):
        measure(LAYERS[0], "edge-256", [Mapping(dram_order=("OX", "C"))], measurer)


def test_the_simulator_is_the_simulator():
    assert measure(LAYERS[1], ARCH, MAPPINGS[1], SimulatorMeasurer()) == [
        SimulatorModel().cost(LAYERS[1], ARCH, MAPPINGS[1][0])
    ]


def test_energy_that_was_not_measured_is_that_of_the_model():
    # traffic and energy follow from the mapping alone, not from time
    expected = SimulatorModel().cost(LAYERS[1], ARCH, MAPPINGS[1][0])
    cost = measure(LAYERS[1], ARCH, MAPPINGS[1], Counting())[0]
    assert cost.energy_pj == pytest.approx(expected.energy_pj)
    assert cost.dram_bytes == expected.dram_bytes


def test_a_command_reads_the_request(tmp_path: Path):
    kept = tmp_path / "request.json"
    code = f"import sys; open({str(kept)!r}, 'w').write(sys.stdin.read()); print('{{\"cycles\": 7}}')"
    board = CommandMeasurer(name="board", command=(sys.executable, "-c", code))
    costs = costs_of([replace(REQUESTS[0], program="# a program")], board)
    request = json.loads(kept.read_text())
    assert Mapping.parse(request["mapping"]) == MAPPINGS[0][0]
    assert request["dims"] == {"N": 1, "G": 1, "K": 2, "C": 3, "OY": 1, "OX": 4, "FY": 1, "FX": 1}
    assert request["arch"]["numbers"]["pe.rows"] == ARCH.pe.rows
    assert (request["kind"], request["dtypes"]["I"], request["program"]) == ("matmul", "int16", "# a program")
    assert costs[0].cycles == 7


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit('no bitstream')", r"exit code 1: no bitstream"),
        ("pass", r'the last line must be an object such as \{"cycles": 1234\}, but is: nothing'),
        ("print('ready')", r"but is: ready"),
        ("print('[3]')", r"but is: \[3\]"),
        ("print('{\"cycles\": 0}')", r"measured cycles = 0: must be an integer >= 1"),
        ("print('{\"cycles\": 1.5}')", r"measured cycles = 1.5: must be an integer >= 1"),
        ("print('{\"cycles\": 1' + 400 * '0' + '}')", r"measured cycles = 1e\+300: more than 64 bits count"),
        ('print(\'{"cycles": 3, "energy_pj": -1}\')', r"measured energy_pj = -1: must be a number from 0 to 1e\+100"),
        ('print(\'{"cycles": 3, "energy_pj": true}\')', r"measured energy_pj = True: must be a number"),
        ('print(\'{"cycles": 3, "energy_pj": 1e308}\')', r"measured energy_pj = 1e\+308: must be a number"),
        ("import sys; sys.stdout.buffer.write(bytes([255, 254]))", r"the last line must be an object .*, but is: "),
        ("import sys; sys.stderr.buffer.write(bytes([255])); sys.exit(3)", r"exit code 3: "),
        ('print(\'{"cycles": 3, "energy_pj": NaN}\')', r"measured energy_pj = nan"),
        ("import time; time.sleep(60)", r"no answer after 2 s for cores: 1; .*; raise timeout_s"),
    ],
)
def test_a_command_that_fails_says_how(code: str, message: str):
    board = CommandMeasurer(name="board", command=(sys.executable, "-c", code), timeout_s=2.0)
    with pytest.raises(MeasureError, match=message):
        board.measure(REQUESTS[:1])


def test_what_a_command_started_ends_with_it(tmp_path: Path):
    code = f"""
import subprocess, sys, time
started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(tmp_path / "pid")!r}, "w").write(str(started.pid))
time.sleep(60)
"""
    board = CommandMeasurer(name="board", command=(sys.executable, "-c", code), timeout_s=2.0)
    with pytest.raises(MeasureError, match="no answer after 2 s"):
        board.measure(REQUESTS[:1])
    assert not _runs(int((tmp_path / "pid").read_text()))


def _runs(pid: int) -> bool:
    """Whether a process is there; one that only waits to be reaped is not."""
    with contextlib.suppress(FileNotFoundError):
        for _ in range(50):
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return False
            time.sleep(0.1)
        return True
    return False


def test_a_command_is_not_in_the_group_that_ctrl_c_reaches():
    board = CommandMeasurer(
        name="board", command=(sys.executable, "-c", "import os; print('{\"cycles\": %d}' % os.getpgid(0))")
    )
    assert board.measure(REQUESTS[:1])[0].cycles != os.getpgid(0)


def test_a_command_that_does_not_exist():
    with pytest.raises(MeasureError, match=r"no-such-board: cannot start: No such file or directory"):
        CommandMeasurer(name="board", command=("no-such-board",)).measure(REQUESTS[:1])


def test_an_answer_too_few_is_noticed():
    @dataclass(frozen=True)
    class Forgetful(Counting):
        def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
            return Counting.measure(self, requests)[1:]

    with pytest.raises(MeasureError, match="counting: 1 answers to 2 requests"):
        measure(LAYERS[0], ARCH, MAPPINGS[0], Forgetful())


def test_fewer_cycles_than_the_model_has_macs_still_add_up():
    cost = cost_of(REQUESTS[0], Measurement(cycles=1), "odd")
    assert (cost.cycles, cost.compute_cycles + cost.dma_stall_cycles + cost.overhead_cycles) == (1, 1)
