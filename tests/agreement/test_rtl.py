"""Hardware executes the programs that are timed: the same outputs as numpy, and the simulator's cycles and counts."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from typer.testing import CliRunner

from cost_model.simulator import account, simulate_batch
from tests.rtl_cases import DEEP, LAYERS, MACHINES, PAGED, PORT, SMALLEST, machine_text
from tests.rtl_programs import expected, random_tensors, run_and_compare, sampled
from tvm_spm.axes import Axis, Projection
from tvm_spm.cli import app
from tvm_spm.mapping import Mapping
from tvm_spm.rtl.area import count_area
from tvm_spm.rtl.build import build
from tvm_spm.rtl.parameters import parameters_of
from tvm_spm.rtl.run import run_program
from tvm_spm.rtl.words import core_program
from tvm_spm.space import legality
from tvm_spm.stream.encode import encode
from tvm_spm.stream.instructions import VectorStep
from tvm_spm.tuning.measurer import MeasureError, MeasureRequest
from tvm_spm.tuning.rtl import RtlMeasurer
from tvm_spm.workload import Dims, Epilogue, Operand, Workload

pytestmark = pytest.mark.skipif(
    shutil.which("verilator") is None, reason="VERILATOR IS NOT INSTALLED: the timing rule is not checked by hardware"
)


def test_hardware_takes_the_cycles_of_the_simulator():
    # every layer of the list, 4 random legal mappings each: 120 programs on 2x2 PEs
    num_programs = 0
    for number, workload in enumerate(LAYERS):
        rng = np.random.default_rng(number)
        for mapping in sampled(workload, SMALLEST, rng, 4):
            run_and_compare(workload, SMALLEST, mapping, rng)
            num_programs += 1
    assert num_programs >= 100


@pytest.mark.parametrize("arch", PAGED, ids=lambda arch: arch.name)
def test_hardware_waits_for_rows_as_the_simulator_does(arch):
    # 30 layers, 2 random legal mappings each, on two machines: 120 programs
    num_programs, misses = 0, 0
    for number, workload in enumerate(LAYERS):
        rng = np.random.default_rng([2, number])
        for mapping in sampled(workload, arch, rng, 2):
            run_and_compare(workload, arch, mapping, rng)
            num_programs += 1
            misses += account(workload, arch, mapping).counts.misses
    assert num_programs >= 50
    assert misses > 10 * num_programs


@pytest.mark.parametrize("arch", [DEEP, PORT], ids=lambda arch: arch.name)
def test_deep_pipelines_and_a_narrow_port_take_the_cycles_of_the_simulator(arch):
    # sums that wait for 2 or 3 MAC stages, and networks that share 2.5 B a cycle
    num_programs = 0
    for number, workload in enumerate(LAYERS):
        rng = np.random.default_rng([2, number])
        for mapping in sampled(workload, arch, rng, 2):
            run_and_compare(workload, arch, mapping, rng)
            num_programs += 1
    assert num_programs >= 50


@pytest.mark.parametrize("arch", [SMALLEST, DEEP, PORT], ids=lambda arch: arch.name)
def test_sums_that_come_back_take_the_cycles_of_the_simulator(arch):
    # array tiles of 2 x 2 outputs. An SPM tile of 3 x 5 has tiles of 2 x 1 and 1 x 2, which follow each other into the
    # same places; the last SPM tile, of 1 x 1, has one array tile, which leaves and is the next one
    workload = Workload.conv2d(K=1, C=2, OY=4, OX=6, FY=2, FX=1, dtype="int8", out_dtype="int32")
    rng, num_programs = np.random.default_rng(7), 0
    for spm in (Dims(C=2, OY=3, OX=5, FY=2), Dims(C=1, OY=3, OX=3, FY=2)):
        for order in permutations(("C", "OY", "OX")):
            for rf_double in ((Operand.O,), (Operand.I, Operand.W, Operand.O)):
                mapping = Mapping(
                    spm=spm, rf=Dims(OY=2, OX=2, FY=2), dram_order=("OY", "OX", "C"), spm_order=order,
                    rf_double=rf_double, spm_double=(Operand.I,),
                )  # fmt: skip
                if legality.check(workload, arch, mapping) is None:
                    run_and_compare(workload, arch, mapping, rng)
                    num_programs += 1
    assert num_programs == 24


@pytest.mark.parametrize("ops", [1, 3, 6])
def test_a_vector_unit_that_is_slower_than_the_store(ops):
    # a bias and a residual come in, then 0.75 operations a cycle, beside a store of 4 B a cycle
    base = Workload.conv2d(K=6, C=3, OY=5, OX=4, FY=3, FX=1, padding=(1, 0), dtype="int8", out_dtype="int32")
    extras = (Projection(axes=(base.O.axes[1],), dtype="int32"), Projection(axes=base.O.axes, dtype="int8"))
    workload = replace(base, epilogue=Epilogue(num_ops_per_elem=ops, extras=extras))
    mappings = sampled(workload, DEEP, np.random.default_rng(ops), 6)
    requests = [MeasureRequest(workload=workload, arch=DEEP, mapping=each) for each in mappings]
    found = [each.cycles for each in RtlMeasurer.of(DEEP).measure(requests)]
    assert found == [cost.cycles for cost in simulate_batch(workload, DEEP, mappings)]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("arch", MACHINES, ids=lambda arch: arch.name)
def test_five_machines_take_the_cycles_of_the_simulator(arch):
    num_programs = 0
    for number, workload in enumerate(LAYERS):
        rng = np.random.default_rng([1, number])
        for mapping in sampled(workload, arch, rng, 8):
            run_and_compare(workload, arch, mapping, rng)
            num_programs += 1
    assert num_programs >= 200


def test_hardware_measures_what_the_simulator_says():
    measurer = RtlMeasurer.of(SMALLEST)
    workload = replace(
        Workload.matmul(m=6, k=7, n=8, dtype="float16"),
        epilogue=Epilogue(
            num_ops_per_elem=2, extras=(Projection(axes=(Axis(terms=(("K", 1),), extent=8),), dtype="float16"),)
        ),
    )
    mappings = sampled(workload, SMALLEST, np.random.default_rng(3), 4)
    costs = simulate_batch(workload, SMALLEST, mappings)
    found = measurer.measure([MeasureRequest(workload=workload, arch=SMALLEST, mapping=each) for each in mappings])
    assert [(each.cycles, each.energy_pj) for each in found] == [(cost.cycles, cost.energy_pj) for cost in costs]
    with pytest.raises(MeasureError, match="four: not the accelerator whose hardware measures"):
        measurer.measure([MeasureRequest(workload=workload, arch=MACHINES[1], mapping=mappings[0])])


@pytest.mark.parametrize("arch", [SMALLEST, *PAGED], ids=lambda arch: arch.name)
def test_an_epilogue_computes_and_takes_the_cycles_of_the_simulator(arch):
    base = Workload.conv2d(K=4, C=3, OY=5, OX=4, FY=3, FX=3, padding=1, dtype="int8", out_dtype="int32")
    bias = Projection(axes=(base.O.axes[1],), dtype="int32")
    workload = replace(
        base, out_dtype="int8",
        epilogue=Epilogue(num_ops_per_elem=4, extras=(bias, Projection(axes=base.O.axes, dtype="int8"))),
    )  # fmt: skip
    # (sum + bias + residual) >> 3, as int8
    steps = (
        VectorStep(operation="extra", dtype="int32", target=1, immediate=0),
        VectorStep(operation="add", dtype="int32", target=2, sources=(0, 1, 0)),
        VectorStep(operation="extra", dtype="int8", target=3, immediate=1),
        VectorStep(operation="add", dtype="int32", target=4, sources=(2, 3, 0)),
        VectorStep(operation="const", dtype="int32", target=5, immediate=3),
        VectorStep(operation="shr", dtype="int32", target=6, sources=(4, 5, 0)),
        VectorStep(operation="cast", dtype="int8", target=7, sources=(6, 0, 0)),
    )
    rng = np.random.default_rng(0)
    for mapping in sampled(workload, arch, rng, 8):
        layer = encode(workload, arch, mapping, steps)
        tensors = random_tensors(layer, rng)
        image = np.frombuffer(bytes(layer.memory.image(tensors)), np.uint8)
        run = run_program(core_program(layer.streams[0], arch), build(parameters_of(arch)), image)
        sums = expected(base, tensors) + tensors["E0"].reshape(-1, 1, 1)
        finished = (sums + tensors["E1"] >> 3).astype(np.int8)
        np.testing.assert_array_equal(layer.memory.tensor(run.image.tobytes(), "O"), finished)
        assert run.cycles == simulate_batch(workload, arch, [mapping])[0].cycles, mapping.line()


@pytest.mark.parametrize("numbers", [{}, {"pages": "banks = 4\nrow_bytes = 64\nhit_cycles = 1\nmiss_cycles = 9"}])
def test_written_sources_are_clean(tmp_path, numbers):
    (tmp_path / "mine.toml").write_text(machine_text("mine", rows=3, cols=4, noc=2.5, launch=2, vector=3, **numbers))
    command = ["rtl", str(tmp_path / "mine.toml"), "-o", str(tmp_path / "new" / "out"), "--no-area"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    files = sorted(path.name for path in (tmp_path / "new" / "out").iterdir())
    assert {"spm_core.sv", "spm_pes.sv", "spm_bench.sv", "bench.cpp"} <= set(files)
    command = [
        "verilator",
        "--lint-only",
        "-Wall",
        "--top-module",
        "spm_bench",
        *(f for f in files if f.endswith(".sv")),
    ]
    done = subprocess.run(command, cwd=tmp_path / "new" / "out", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("yosys") is None, reason="YOSYS IS NOT INSTALLED: nothing is counted")
def test_memories_have_the_bits_of_the_accelerator():
    areas = {area.unit: area for area in count_area(parameters_of(SMALLEST))}
    # 4 PEs with 64 B, a scratchpad of 1 KiB
    assert (areas["spm_pes"].instances, areas["spm_pes"].memory_bits) == (4, 4 * 64 * 8)
    assert areas["spm_scratchpad"].memory_bits == 1024 * 8
