"""A stream survives its words and its text; what is damaged is refused by name."""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stream_cases import random_stream
from tvm_spm.stream.binary import from_bytes, to_bytes
from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import AxisSetup, End, LoadTile, RunPass, Stream, StreamHead, Sync
from tvm_spm.stream.layout import HEAD, HEAD_WORDS, LAYOUTS
from tvm_spm.stream.text import from_text, line_of, to_text

HEAD_OF_NOTHING = StreamHead(
    core=0, num_cores=1, arch=0, dram_bytes=0, spm_bytes=(0, 0, 0), is_split=0, rf_bytes=0, buffer_bytes=0
)
LOAD = LoadTile(
    operand="W", buffer=1, dtype="int16", number=7, dram=0x1234, spm=0x40, num_bursts=6, burst_bytes=10,
    counts=(2, 3, 5), dram_strides=(100, 20, 2), spm_strides=(30, 10, 2), fronts=(0, 1, 0), backs=(0, 0, 4),
)  # fmt: skip


@given(st.randoms(use_true_random=False))
def test_words_and_text_give_the_stream_back(rng: random.Random):
    stream = random_stream(rng)
    assert from_bytes(to_bytes(stream)) == stream
    assert from_text(to_text(stream)) == stream


@given(st.randoms(use_true_random=False), st.data())
def test_damage_is_noticed(rng: random.Random, data: st.DataObject):
    words = bytearray(to_bytes(random_stream(rng)))
    at = data.draw(st.integers(0, len(words) - 1))
    cut = words[:at]
    with pytest.raises(StreamError, match="cut short"):
        from_bytes(bytes(cut))
    if at >= 4 * HEAD_WORDS:
        words[at] ^= data.draw(st.integers(1, 255))
        with pytest.raises(StreamError, match="damaged"):
            from_bytes(bytes(words))


@given(st.randoms(use_true_random=False), st.data())
def test_words_with_a_sum_that_fits_are_one_stream_or_none(rng: random.Random, data: st.DataObject):
    """Two different words are never the same stream: nothing is dropped silently."""
    words = bytearray(to_bytes(random_stream(rng)))
    at = data.draw(st.integers(0, len(words) - 1))
    words[at] ^= data.draw(st.integers(1, 255))
    words[60:64] = struct.pack("<I", zlib.crc32(bytes(words[64:])))
    try:
        stream = from_bytes(bytes(words))
    except StreamError:
        return
    assert to_bytes(stream) == bytes(words)


def test_every_bit_belongs_to_one_field():
    for layout in LAYOUTS.values():
        seen = {*range(16)}
        for field in layout.fields:
            bits = [
                field.first_bit + i * field.step_bits + bit
                for i in range(max(1, field.most))
                for bit in range(field.bits)
            ]
            assert not seen & set(bits), (layout.name, field.name)
            assert max(bits) < 32 * layout.num_words
            seen |= set(bits)
    codes = [layout.opcode for layout in LAYOUTS.values()]
    assert len(set(codes)) == len(codes)
    assert max(field.word for field in HEAD) < 14


def test_words_of_a_load():
    # 0x10 load, 31 words, operand 1 in 17..16, buffer in 18, three axes in 22..20, int16 is type 2 in 27..24
    expected = [0x10 | 31 << 8 | 1 << 16 | 1 << 18 | 3 << 20 | 2 << 24, 7, 0x1234, 0x40, 6, 10]
    expected += 2 * [1, 0, 0, 0, 0]  # axes that are not used come first
    expected += [2, 100, 30, 0, 0] + [3, 20, 10, 1, 0] + [5, 2, 2, 0, 4]
    words = to_bytes(Stream(head=HEAD_OF_NOTHING, instructions=(LOAD, End())))
    assert list(struct.unpack("<31I", words[64 : 64 + 124])) == expected
    assert words[:4] == b"TSPM"
    # head, load and end: 16 + 31 + 1 words
    assert struct.unpack("<6I", words[:24]) == (0x4D505354, 0x10001, 0, 1, 2, 48)
    assert line_of(LOAD) == (
        "load operand=W buffer=1 dtype=int16 number=7 dram=0x1234 spm=0x40 num_bursts=6 burst_bytes=10 counts=2,3,5 "
        "dram_strides=100,20,2 spm_strides=30,10,2 fronts=0,1,0 backs=0,0,4"
    )


@pytest.mark.parametrize(
    ("instruction", "text"),
    [
        (replace(LOAD, dram=2**32), r"\(load\): dram = 4,294,967,296: must be >= 0 and < 4,294,967,296 \(32 bits\)"),
        (replace(LOAD, spm=-1), r"\(load\): spm = -1: must be >= 0"),
        (replace(LOAD, buffer=2), r"buffer = 2: must be >= 0 and < 2 \(1 bits\)"),
        (replace(LOAD, dtype="int4"), "dtype = int4: must be one of int8, uint8"),
        (replace(LOAD, counts=(1,) * 6), "counts has 6 values: must be <= 5"),
        (replace(LOAD, counts=(1,) * 4), "dram_strides has 3 values, counts has 4: must be equal"),
        (
            AxisSetup(operand="I", axis=0, dims=("OY",), coefficients=(1, 1), spm_stride=1, rf_stride=1),
            "coefficients has 2 values, dims has 1: must be equal",
        ),
        (
            RunPass(
                number=0, loads_i=1, loads_w=1, reads_o=0, clears_o=1, o_leaves=1, buffers=(0, 0, 0), spm=(0, 0, 0),
                counts=(1,) * 7, lasts=(1,) * 8,
            ),
            "counts has 7 values: must be <= 8",
        ),
    ],
)  # fmt: skip
def test_what_a_field_cannot_hold_is_named(instruction, text: str):
    with pytest.raises(StreamError, match=text):
        to_bytes(Stream(head=HEAD_OF_NOTHING, instructions=(Sync(), instruction, End())))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cut short, it has no line"),
        ("something", "not an instruction stream"),
        ("spm-stream 2.0 core=0", r"version 2\.0: this program reads 1\.0 to 1\.1"),
        ("spm-stream 1.0 core=0", "line 1: num_cores is missing"),
        ("{head}", "none is 'end', it is cut short"),
        ("{head}\nend\nsync array", "'end' is number 0; 'end' must be the last"),
        ("{head}\njump", "line 2: jump: must be one of nest, dim"),
        ("{head}\nsync array=1", r"line 2 \(sync\): array: a flag has no value"),
        ("{head}\nsync later", r"line 2 \(sync\): later is no field of it"),
        ("{head}\ndim dim=Q", "dim = Q: must be one of N, G, K"),
        ("{head}\ndim dim=K array=x", "array = x: must be a whole number"),
        ("{head}\ndim dim=K array=4294967296 rows=1 cols=1 rf=1 spm_steps=0,0,0 rf_steps=0,0,0", "array = 4,294,967,"),
    ],
)
def test_texts_that_are_no_stream(text: str, message: str):
    head = to_text(Stream(head=HEAD_OF_NOTHING, instructions=(End(),))).splitlines()[0]
    with pytest.raises(StreamError, match=message):
        from_text(text.replace("{head}", head))


def test_other_versions_are_refused():
    words = bytearray(to_bytes(Stream(head=HEAD_OF_NOTHING, instructions=(End(),))))
    words[6] = 2
    with pytest.raises(StreamError, match=r"version 2\.1: this program reads 1\.0 to 1\.1"):
        from_bytes(bytes(words))
    words[:4] = b"ELF "
    with pytest.raises(StreamError, match="not an instruction stream"):
        from_bytes(bytes(words))


def test_remarks_and_empty_lines_do_not_count():
    stream = Stream(head=HEAD_OF_NOTHING, instructions=(LOAD, Sync(), End()))
    text = to_text(stream).replace("\n", "  # a remark\n\n")
    assert from_text(text) == stream
