"""A small layer as instructions, number by number, and the text of everything that is refused."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import numpy as np
import pytest

from tvm_spm.arch import Arch, Cores, load_arch
from tvm_spm.errors import MappingError
from tvm_spm.mapping import Mapping
from tvm_spm.rtl.errors import RtlError
from tvm_spm.rtl.words import core_program
from tvm_spm.stream.encode import encode
from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.export.manual import described, manual
from tvm_spm.stream.instructions import (
    End,
    LoadTile,
    RunPass,
    StoreTile,
    Stream,
    StreamExtra,
    StreamHead,
    Sync,
    VectorStep,
)
from tvm_spm.stream.interpret import interpret
from tvm_spm.stream.layout import HEAD, LAYOUTS
from tvm_spm.stream.memory import memory_map
from tvm_spm.stream.text import from_text, to_text
from tvm_spm.stream.vector import bits_of
from tvm_spm.workload import Axis, Dims, Epilogue, Operand, Projection, Workload

ARCH = load_arch("edge-256")

# 4 output rows of 4 from 4 rows of 4, one ring of padding; a tile is 2 rows of outputs.
CONV = Workload.conv2d(
    K=2, C=1, OY=4, OX=4, FY=3, FX=3, IY=4, IX=4, padding=1, dtype="int8", out_dtype="int32"
)  # fmt: skip
ROWS = Mapping(
    spm=Dims(K=2, OY=2, OX=4, FY=3, FX=3), rows=Dims(K=2), cols=Dims(OX=4), rf=Dims(FY=3, FX=3),
    dram_order=("OY",), spm_order=("OY",), spm_double=(Operand.I,),
)  # fmt: skip


def steps_of(stream: Stream) -> list[str]:
    """What follows the set-up, in a word each."""
    names = {LoadTile: "load", StoreTile: "store", StreamExtra: "extra", RunPass: "run", Sync: "sync", End: "end"}
    return [
        f"{names[type(each)]} {getattr(each, 'operand', '')}".strip()
        for each in stream.instructions if type(each) in names
    ]  # fmt: skip


def test_instructions_of_a_convolution_in_two_tiles():
    layer = encode(CONV, ARCH, ROWS)
    (stream,) = layer.streams
    # I 16 B at 0, W 18 B at 64, O 2 * 16 * 4 B at 128
    assert [(region.name, region.address, region.num_bytes) for region in layer.memory.regions] == [
        ("I", 0, 16), ("W", 64, 18), ("O", 128, 128),
    ]  # fmt: skip
    assert steps_of(stream) == [
        "load I", "load W", "sync", "run", "load I", "sync", "store O", "sync", "run", "sync", "store O", "sync", "end",
    ]  # fmt: skip
    loads = [each for each in stream.instructions if isinstance(each, LoadTile)]
    # rows -1 .. 2 of columns -1 .. 4: 3 rows inside, one run of 12 elements since whole rows follow each other
    first = loads[0]
    assert (first.counts, first.fronts, first.backs) == ((3, 4), (1, 1), (0, 1))
    assert (first.dram, first.num_bursts, first.burst_bytes) == (0, 1, 12)
    assert (first.dram_strides, first.spm_strides) == ((4, 1), (6, 1))
    # rows 1 .. 4: the last one lies below the tensor; it begins at row 1
    second = loads[2]
    assert (second.counts, second.fronts, second.backs) == ((3, 4), (0, 1), (1, 1))
    assert (second.dram, second.buffer, second.number) == (4, 1, 1)
    # banks of 2 KiB: two buffers of I, one of W, one of O
    assert (first.spm, second.spm, loads[1].spm) == (0, 2048, 4096)
    stores = [each for each in stream.instructions if isinstance(each, StoreTile)]
    # per output channel 2 rows of 4 follow each other: 2 bursts of 32 B, the second tile 2 rows further
    assert [(each.dram, each.num_bursts, each.burst_bytes) for each in stores] == [(128, 2, 32), (160, 2, 32)]
    runs = [each for each in stream.instructions if isinstance(each, RunPass)]
    # W stays in the PEs, as no loop inside a pass touches it and its tile is never another one
    assert [(each.loads_i, each.loads_w, each.reads_o, each.clears_o, each.o_leaves) for each in runs] == [
        (1, 1, 0, 1, 1), (1, 0, 0, 1, 1),
    ]  # fmt: skip
    # 2 steps of one row: 4 columns of PEs hold a row of 4 outputs
    assert runs[0].counts == (1, 1, 1, 1, 2, 1, 1, 1)
    assert runs[0].lasts == (1, 1, 2, 1, 1, 4, 3, 3)


def test_partial_sums_go_and_come_back():
    # the loop over C is outside of the one over K: sums of 2 output channels leave unfinished and come back
    work = Workload.matmul(m=3, k=4, n=2, dtype="int8", out_dtype="int32")
    mapping = Mapping(
        spm=Dims(OX=3, C=2, K=1), rf=Dims(C=2), dram_order=("C", "K"), spm_order=("OX",), spill=True
    )  # fmt: skip
    layer = encode(work, ARCH, mapping)
    stores = [each for each in layer.streams[0].instructions if isinstance(each, StoreTile)]
    assert [each.is_final for each in stores] == [0, 0, 1, 1]
    partial, final = layer.memory.region("P"), layer.memory.region("O")
    assert [each.dram for each in stores] == [partial.address, partial.address + 4, final.address, final.address + 4]
    reads = [each for each in layer.streams[0].instructions if isinstance(each, LoadTile) and each.operand == "O"]
    assert [(each.number, each.dram) for each in reads] == [(2, partial.address), (3, partial.address + 4)]
    data, weight = np.arange(12, dtype=np.int8).reshape(3, 4), np.arange(8, dtype=np.int8).reshape(4, 2)
    image = layer.memory.image({"I": data, "W": weight})
    interpret(layer.streams, image)
    np.testing.assert_array_equal(layer.memory.tensor(image, "O"), data.astype(np.int32) @ weight.astype(np.int32))


def test_what_lies_between_outputs_of_groups_stays():
    # 2 groups of 3 output channels: a tile of both groups with 2 channels each leaves the third of each alone
    work = Workload.conv2d(K=6, C=2, OY=1, OX=1, FY=1, FX=1, groups=2, dtype="int8", out_dtype="int32")
    mapping = Mapping(spm=Dims(G=2, K=2), dram_order=("K",), spm_order=("G", "K"))
    stores = [each for each in encode(work, ARCH, mapping).streams[0].instructions if isinstance(each, StoreTile)]
    # channels 0, 1, 3, 4 span 5, then 2 and 5 span 4: every third one
    assert [(each.counts, each.periods, each.runs) for each in stores] == [((5,), (3,), (2,)), ((4,), (3,), (1,))]
    assert [(each.num_bursts, each.burst_bytes) for each in stores] == [(1, 20), (1, 16)]


def with_epilogue(**changes: object) -> Workload:
    bias = Projection(axes=(Axis(terms=(("K", 1),), extent=2),), dtype="int32")
    return replace(CONV, epilogue=Epilogue(num_ops_per_elem=2, extras=(bias,)), out_dtype="int8", **changes)


ADD_BIAS = (
    VectorStep(operation="extra", dtype="int32", target=1),
    VectorStep(operation="add", dtype="int32", target=0, sources=(0, 1, 0)),
    VectorStep(operation="cast", dtype="int8", target=0),
)


def test_extras_stream_beside_their_store():
    (stream,) = encode(with_epilogue(), ARCH, ROWS, ADD_BIAS).streams
    assert steps_of(stream)[6:8] == ["extra", "store O"]
    extra = next(each for each in stream.instructions if isinstance(each, StreamExtra))
    # per output channel one number of 4 B, for all rows and columns the same
    assert (extra.counts, extra.num_bursts, extra.burst_bytes) == ((2,), 1, 8)
    assert (extra.steps, extra.period_steps) == ((4, 0, 0), (0, 0, 0))


@pytest.mark.parametrize(
    ("workload", "vector", "text"),
    [
        (with_epilogue(), (), "2 operations and 1 tensors are timed, and nothing says what they compute"),
        (with_epilogue(), (*ADD_BIAS, ADD_BIAS[2]), "3 operations: must be <= 2 that are timed"),
        (with_epilogue(), ADD_BIAS[:2], "the last step gives int32: must be int8"),
        (with_epilogue(), (replace(ADD_BIAS[0], immediate=1), *ADD_BIAS[1:]), "reads extra 1: must be < 1"),
        (with_epilogue(), ADD_BIAS[1:], r"step 0 \(add\) reads register 1, which is empty"),
        (
            replace(CONV, I=replace(CONV.I, dtype="int4")), (),
            "tensor I of int4: must be one of int8, uint8, int16",
        ),
    ],
)  # fmt: skip
def test_layers_without_streams(workload: Workload, vector: tuple[VectorStep, ...], text: str):
    with pytest.raises(StreamError, match=text):
        encode(workload, ARCH, ROWS, vector)


def test_tensors_beyond_an_address():
    # 2^30 + 2^28 + 2^32 bytes
    work = Workload.matmul(m=2**17, k=2**13, n=2**15, dtype="int8")
    mapping = Mapping(spm=Dims(OX=2**10, C=2**13, K=2**15), dram_order=("OX",), spm_order=("OX", "K", "C"))
    arch = replace(ARCH, levels=replace(ARCH.levels, SPM=replace(ARCH.levels.SPM, capacity_bytes=2**40)))
    with pytest.raises(StreamError, match=r"tensors of 5,637,144,576 B \(I 1,073,741,824 B .*: an address has 32 bits"):
        encode(work, arch, mapping)


def smallest(workload: Workload) -> Mapping:
    return Mapping(dram_order=tuple(name for name in ("OX", "K", "C") if workload.dims[name] > 1))


def test_too_many_passes():
    work = Workload.matmul(m=1024, k=1, n=1024, dtype="int8", out_dtype="int32")
    with pytest.raises(StreamError, match=r"1,048,576 passes, each of 2 or more .* <= 1,048,576 instructions; larger"):
        encode(work, ARCH, smallest(work))


def test_an_illegal_mapping():
    with pytest.raises(MappingError, match="more PEs|rows"):
        encode(CONV, ARCH, replace(ROWS, rows=Dims(K=2, OX=32), cols=Dims()))


def six_axes(*, tile: int) -> tuple[Workload, Mapping]:
    """A nest whose input has six axes."""
    names = ("N", "G", "C", "OY", "OX", "FY")
    dims = Dims(**dict.fromkeys(names, 2))

    def over(*dims: str, dtype: str = "int8") -> Projection:
        return Projection(axes=tuple(Axis(terms=((name, 1),), extent=2) for name in dims), dtype=dtype)

    work = Workload(
        kind="nest", dims=dims, I=over(*names), W=over("G", "C", "FY"), O=over("N", "G", "OY", "OX", dtype="int32"),
        out_dtype="int32",
    )  # fmt: skip
    spm = replace(dims, N=tile)
    return work, Mapping(spm=spm, dram_order=("N",), spm_order=names)


def test_a_tile_of_too_many_axes():
    with pytest.raises(StreamError, match="tile of I: 6 axes have more than one element: must be <= 5; give N an SPM"):
        encode(six_axes(tile=2)[0], ARCH, six_axes(tile=2)[1])
    # one of them along N at a time
    assert len(encode(six_axes(tile=1)[0], ARCH, six_axes(tile=1)[1]).streams) == 1


def several_cores() -> Arch:
    return replace(ARCH, cores=Cores(count=2))


def test_partial_sums_that_would_come_back_too_early_stay_where_they_are():
    # 3 rows on 2 cores are 2 and 1: the second core has one tile of outputs, whose sums leave and return at every C
    work = Workload.matmul(m=3, k=2, n=1, dtype="int8", out_dtype="int32")
    mapping = Mapping(
        cores=Dims(OX=2), spm=Dims(), dram_order=("C", "OX"), spill=True, spm_double=(Operand.O,)
    )  # fmt: skip
    layer = encode(work, several_cores(), mapping)
    runs = [[each for each in stream.instructions if isinstance(each, RunPass)] for stream in layer.streams]
    # core 0 turns from buffer to buffer, core 1 stays in one; both load the sums of the second C, into the other one
    assert [[each.buffers[2] for each in each_core] for each_core in runs] == [[0, 1, 0, 1], [0, 0]]
    loads = [
        [each.buffer for each in stream.instructions if isinstance(each, LoadTile) and each.operand == "O"]
        for stream in layer.streams
    ]
    assert loads == [[0, 1], [1]]
    image = layer.memory.image({"I": np.array([[1, 2], [3, 4], [5, 6]], np.int8), "W": np.array([[7], [8]], np.int8)})
    interpret(layer.streams, image)
    # 1*7 + 2*8, 3*7 + 4*8, 5*7 + 6*8
    assert layer.memory.tensor(image, "O").ravel().tolist() == [23, 53, 83]


def test_images_that_do_not_fit():
    layer = encode(CONV, ARCH, ROWS)
    with pytest.raises(StreamError, match=r"memory image of 255 B: must be >= 256 B, the head of core 0 says"):
        interpret(layer.streams, bytearray(255))
    with pytest.raises(StreamError, match=r"memory image of 200 B: must be >= 256 B for O"):
        layer.memory.tensor(bytes(200), "O")
    with pytest.raises(StreamError, match=r"tensor I is \(4, 4\) of int8: must be \(1, 1, 4, 4\) of int8"):
        layer.memory.image({"I": np.zeros((4, 4), np.int8)})
    with pytest.raises(StreamError, match="no tensor E0; there are I, W, O"):
        layer.memory.region("E0")


@pytest.mark.parametrize(
    ("kind", "change", "text"),
    [
        (LoadTile, {"dram": 250}, r"load of I in DRAM: reaches byte 262: the memory image has 256 B, too small by 6 B"),
        (LoadTile, {"spm": 2**31}, "load of I in SPM: reaches byte"),
        (LoadTile, {"counts": (2**20, 2**20), "backs": (0, 0)}, "elements: must be <="),
        (LoadTile, {"burst_bytes": 4, "num_bursts": 3}, "3 bursts of 4 B: its box has 1 contiguous runs of 12 B"),
        (RunPass, {"loads_i": 0}, "the array holds nothing of I: must be"),
        (RunPass, {"clears_o": 0}, "the array holds nothing of O: must be"),
        (RunPass, {"lasts": (1, 1, 2, 1, 9, 4, 3, 3)}, r"must be <= \(1, 1, 2, 1, 1, 4, 3, 3\), which the array holds"),
        (RunPass, {"spm": (0, 4096, 2**31)}, "tile of O in SPM: reaches byte"),
        (RunPass, {"counts": (1, 1, 1, 1, 0, 1, 1, 1)}, "must be >= 1"),
        (RunPass, {"counts": (1, 1, 2, 1, 2, 1, 1, 1)}, "dims that do not loop must have 1"),
        (StoreTile, {"periods": (0, 2, 4)}, "period 0: must be >= 1"),
    ],
)
def test_instructions_that_make_no_sense(kind: type, change: dict[str, object], text: str):
    layer = encode(CONV, ARCH, ROWS)
    (stream,) = layer.streams
    at = next(i for i, each in enumerate(stream.instructions) if isinstance(each, kind))
    wrong = [*stream.instructions]
    wrong[at] = replace(wrong[at], **change)
    with pytest.raises(StreamError, match=text):
        interpret([replace(stream, instructions=tuple(wrong))], bytearray(256))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("array=4 rows=1 cols=4", "array=0 rows=1 cols=4", r"dim OX: array 0: must be rows 1 \* cols 4 \* rf 1"),
        ("array=4 rows=1 cols=4", "array=0 rows=1 cols=0", "and all >= 1"),
        ("dim dim=N", "dim dim=G", "dims G G K C OY OX FY FX are set up: must be N G K C OY OX FY FX, each once"),
        ("loops=OY", "loops=OY,OY", "loops OY,OY: each dim may stand there once"),
        ("num_passes=2", "num_passes=3", "num_passes = 3: must be 2, which the stream has"),
        ("num_vector_steps=3", "num_vector_steps=4", "num_vector_steps = 4: must be 3"),
        ("extra extra=0", "extra extra=7", "extra 0 is read and was not brought"),
        ("vector target=1", "vector target=9", "vector step 1: add reads register 1, which is empty"),
        ("depths=1", "depths=9", r"depths \(9, .*: must be <= 1"),
        ("axis operand=I axis=0", "axis operand=I axis=1", "axis 1 of I: must be number 0"),
        ("core=0", "core=1", "core 1 of num_cores 1: must be < num_cores"),
        ("steps=4,0,0 ", "steps=4,0 ", "period_steps has 3 values, steps has 2|steps has 2 values"),
    ],
)
def test_programs_that_are_not_well_formed(old: str, new: str, text: str):
    (stream,) = encode(with_epilogue(), ARCH, ROWS, ADD_BIAS).streams
    written = to_text(stream)
    assert old in written
    for run in (lambda each: interpret([each], bytearray(4096)), lambda each: core_program(each, ARCH)):
        with pytest.raises(StreamError, match=text):
            run(from_text(written.replace(old, new, 1)))


def test_edited_streams_run_or_are_refused_by_name():
    rng = random.Random("edited streams")
    lines = to_text(encode(with_epilogue(), ARCH, ROWS, ADD_BIAS).streams[0]).splitlines()
    outcomes = {"ran": 0, "refused": 0}
    for _ in range(400):
        edited = [*lines]
        at, other = rng.sample(range(1, len(lines) - 1), 2)
        match rng.randrange(6):
            case 0:
                del edited[at]
            case 1:
                edited[at], edited[other] = edited[other], edited[at]
            case 2:
                edited.insert(at, edited[other])
            case _:
                number = rng.choice(list(re.finditer(r"(?<=[=,])(0x[0-9a-f]+|[0-9]+)(?=[ ,]|$)", edited[at])) or [None])
                value = rng.choice(("0", "1", "3", "7", "255", "65535", "65536", "4294967295"))
                if number is not None:
                    edited[at] = edited[at][: number.start()] + value + edited[at][number.end() :]
        for run in (lambda each: interpret([each], bytearray(256 + 64)), lambda each: core_program(each, ARCH)):
            try:
                run(from_text("\n".join(edited)))
                outcomes["ran"] += 1
            except (StreamError, RtlError):
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 100, outcomes


def test_numbers_beyond_the_words_of_hardware():
    (stream,) = encode(with_epilogue(), ARCH, ROWS, ADD_BIAS).streams
    written = to_text(stream)
    wide = re.sub(r"rf_stride=[0-9]+", "rf_stride=65536", written, count=1)
    with pytest.raises(RtlError, match="value 65,536 of the set-up or a tile: hardware has 16 bits, must be <= 65,535"):
        core_program(from_text(wide), ARCH)
    large = re.sub(r"spm_bytes=[0-9]+", "spm_bytes=2147483648", written)
    with pytest.raises(RtlError, match=r"spm_bytes 2,147,483,648: edge-256 has an SPM of [0-9,]+ B"):
        core_program(from_text(large), ARCH)


def test_heads_of_texts():
    written = to_text(encode(CONV, ARCH, ROWS).streams[0])
    assert from_text("\ufeff" + written) == from_text(written)
    with pytest.raises(StreamError, match=r"stream of version 1: must be two numbers, as 1\.1"):
        from_text(written.replace("spm-stream 1.1", "spm-stream 1"))
    for wrong in ("-1", "0x" + "f" * 17):
        with pytest.raises(StreamError, match=r"must be a whole number >= 0 and < 2\^64"):
            from_text(written.replace("core=0", f"core={wrong}", 1))


def test_what_nobody_loaded_is_marked():
    """Outputs show that a load is missing: fresh memory does not hold zeros."""
    layer = encode(CONV, ARCH, ROWS)
    (stream,) = layer.streams
    without = tuple(each for each in stream.instructions if not (isinstance(each, LoadTile) and each.operand == "W"))
    images = []
    for each in (stream, replace(stream, instructions=without)):
        image = layer.memory.image({"I": np.ones((1, 1, 4, 4), np.int8), "W": np.zeros((2, 1, 3, 3), np.int8)})
        interpret([each], image)
        images.append(layer.memory.tensor(image, "O"))
    assert not images[0].any()
    assert images[1].any()


def test_the_manual_explains_every_field():
    for kind, fields in ((StreamHead, HEAD), *((kind, layout.fields) for kind, layout in LAYOUTS.items())):
        assert set(described(kind)) == {field.name for field in fields}, kind
    text = manual(["| row |"], [("a layer", "its reason")], "Constants.")
    for line in (
        "| `dram` | word 2 | 1 | Address of the first element that moves; 0 if none moves. |",
        "| `periods` | word 9 | 5, 160 bits apart; as many as word 0 [22:20] says | Per axis, see `runs`. |",
        "| `buffer` | word 0 [18] | 1 | Which of two in SPM. |",
        "* a layer: its reason",
        "### `run`, opcode 0x20, 21 words",
    ):
        assert line in text.splitlines()
    assert "{" not in text


def test_bits_of_constants():
    assert bits_of(-1, "int8") == 0xFF
    assert bits_of(1.0, "float32") == 0x3F800000
    assert memory_map(CONV, spills=False).num_bytes == 256
