"""Parameters and words of hardware, and what it refuses; nothing here runs Verilator."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from tests.rtl_cases import LAYERS, MACHINES, SMALLEST, machine
from tvm_spm.arch import load_arch
from tvm_spm.mapping import Mapping
from tvm_spm.rtl.area import UnitArea, area_text, count_area
from tvm_spm.rtl.build import build, make_folder, sources
from tvm_spm.rtl.epilogue import vector_code
from tvm_spm.rtl.errors import RtlError
from tvm_spm.rtl.parameters import parameters_of
from tvm_spm.rtl.run import run_program
from tvm_spm.rtl.words import core_program
from tvm_spm.stream.encode import encode
from tvm_spm.stream.instructions import NestSetup, VectorStep
from tvm_spm.workload import Dims, Operand, Workload

SLOW = MACHINES[-1]


def test_clocks_become_ratios_of_whole_numbers():
    found = parameters_of(SLOW)
    # 0.75 elements a cycle are 3 in 4; one lane carries them
    assert (found.lanes, found.rate_num, found.rate_den) == (1, 3, 4)
    # 6.4 B/cycle and 7.25 cycles: a cycle of 32 units, 5 units a byte, 232 units a start-up; <= 7 + 1 bytes in a cycle
    assert (found.cycle_units, found.byte_units, found.start_units, found.dma_lanes) == (32, 5, 232, 8)
    # 1.5 operations a cycle
    assert (found.vector_ops, found.vector_num, found.vector_den) == (2, 3, 2)
    # no limit of the SPM port
    assert found.port_num == 0


@pytest.mark.parametrize(
    ("arch", "text"),
    [
        (load_arch("quad-edge"), "quad-edge: cores.count = 4: hardware is built of 1 core"),
        (machine("a", rows=33), "a: pe.rows = 33: hardware is simulated up to 32"),
        (machine("a", rows=32, cols=32, noc=1024), "a: noc.elems_per_cycle = 1,024: hardware is simulated up to 256"),
        (machine("a", rows=32, cols=32, noc=256), "32 x 32 PEs with networks of 256 elements a cycle: about"),
        (machine("a", noc=0.123456789), "a: noc.elems_per_cycle = 0.123456789: no ratio of whole numbers"),
    ],
)
def test_accelerators_that_are_not_built(arch, text):
    with pytest.raises(RtlError) as error:
        parameters_of(arch)
    assert text in str(error.value)


def test_sources_name_every_parameter_of_the_core():
    texts = sources(parameters_of(SMALLEST))
    assert ".ROWS(2), .COLS(2), .RF_BYTES(64), .SPM_BYTES(1024)" in texts["spm_bench.sv"]
    assert "@" not in texts["spm_bench.sv"].replace("@(posedge clk)", "")


def program(**changes):
    mapping = Mapping(
        spm=Dims(OX=3, C=4, K=2), cols=Dims(K=2), rf=Dims(C=2), dram_order=("K",), spm_order=("OX", "C"),
        spm_double=(Operand.W,),
    )  # fmt: skip
    workload = Workload.matmul(m=3, k=4, n=5, **{"dtype": "int8", "out_dtype": "int32", **changes})
    return core_program(encode(workload, SMALLEST, mapping).streams[0], SMALLEST)


def test_transfers_say_their_slot_and_whether_the_pass_must_be_over():
    found = program()
    # K = 5 by 2: three passes; I and the first W come before them
    assert len(found.passes) == 3
    kind, after, last, slot, what = (
        found.transfers[:, 0] & 3, found.transfers[:, 0] >> 2 & 1, found.transfers[:, 0] >> 3 & 1,
        found.transfers[:, 1], found.transfers[:, 0] >> 12 & 15,
    )  # fmt: skip
    rows = list(zip(slot.tolist(), what.tolist(), kind.tolist(), after.tolist(), last.tolist(), strict=True))
    # W of the next pass beside a pass, outputs (3: finished) after it
    assert rows == [
        (0, 0, 0, 0, 0), (0, 1, 0, 0, 1),
        (1, 1, 0, 0, 0), (1, 3, 1, 1, 1),
        (2, 1, 0, 0, 0), (2, 3, 1, 1, 1),
        (3, 3, 1, 1, 1),
    ]  # fmt: skip


def test_an_image_that_is_too_small(tmp_path):
    found = program()
    with pytest.raises(RtlError, match=rf"memory image of 10 B: the program needs >= {found.dram_bytes} B"):
        run_program(found, tmp_path / "never", np.zeros(10, np.uint8))


def test_types_that_hardware_has_not():
    with pytest.raises(RtlError, match="dtype float16 of I: hardware computes with int8, uint8"):
        program(dtype="float16", out_dtype="float16")


def test_an_epilogue_becomes_operations_with_constants_and_extras_as_sources():
    nest = encode(LAYERS[0], SMALLEST, Mapping(
        spm=Dims(OX=3), rf=Dims(), dram_order=("K", "C"), spm_order=("OX",), spm_double=(), rf_double=(),
    )).streams[0].instructions[0]  # fmt: skip
    assert isinstance(nest, NestSetup)
    steps = (
        VectorStep(operation="extra", dtype="int32", target=1, immediate=0),
        VectorStep(operation="add", dtype="int32", target=2, sources=(0, 1, 0)),
        VectorStep(operation="const", dtype="int32", target=3, immediate=0xFFFFFFFF),
        VectorStep(operation="max", dtype="int32", target=4, sources=(2, 3, 0)),
    )
    code = vector_code(steps, nest)
    assert code.num_ops == 2
    # add (3) of int32 (4) into register 0, of the sum (31) and extra 0 (16); max (7) into 1, of it and constant 0 (8)
    assert code.words[:2] == (3 | 4 << 8 | 4 << 12 | 31 << 24, 16)
    assert code.words[2:4] == (7 | 4 << 8 | 4 << 12 | 1 << 16 | 0 << 24, 8)
    # the constant is -1, extended
    assert code.words[32:34] == (0xFFFFFFFF, 0xFFFFFFFF)
    with pytest.raises(RtlError, match="epilogue operation exp of int32: hardware has abs, add"):
        vector_code((VectorStep(operation="exp", dtype="int32", target=1, sources=(0, 0, 0)),), nest)


def test_tools_that_are_missing(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RtlError, match="verilator is not installed: apt-get install verilator"):
        build(parameters_of(SMALLEST))
    with pytest.raises(RtlError, match="yosys is not installed: apt-get install yosys"):
        count_area(parameters_of(SMALLEST))


def test_a_count_that_takes_too_long_is_named(monkeypatch):
    def run(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("subprocess.run", run)
    with pytest.raises(RtlError, match="yosys has not counted the cells after 900 s; --no-area writes the sources"):
        count_area(parameters_of(SMALLEST))


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RtlError, match="file: cannot make the directory: File exists; choose another"):
        make_folder(tmp_path / "file")


def test_the_table_of_units_adds_up():
    rows = tuple(
        UnitArea(unit=unit, instances=1, memory_bits=bits, register_bits=1, multipliers=0, adders=2, comparators=0,
                 other_cells=3)
        for unit, bits in (("a", 8), ("b", 16))
    )  # fmt: skip
    assert area_text(rows).splitlines()[-1].split() == ["all", "24", "2", "0", "4", "0", "6"]
