"""Streams as words of 32 bits, little endian, and read back from them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import Instruction, Stream, StreamHead
from tvm_spm.stream.layout import (
    BY_OPCODE,
    HEAD,
    HEAD_OF,
    HEAD_WORDS,
    LAYOUTS,
    MAGIC,
    MAJOR,
    MINOR,
    WORD_BITS,
    Field,
    Layout,
    Value,
    require_fields,
    values_of,
)

WORD_BYTES = WORD_BITS // 8
_VERSION, _COUNT, _WORDS, _SUM = 1, 4, 5, 15


def to_bytes(stream: Stream) -> bytes:
    """The words of a stream, head included.

    Raises:
        StreamError: A field cannot hold its value; names it and its bound.
    """
    body = b"".join(words_of(instruction, number) for number, instruction in enumerate(stream.instructions))
    require_fields(stream.head, HEAD, "head of the stream")
    packed = _packed(HEAD, stream.head)
    for word, value in (
        (0, MAGIC), (_VERSION, MAJOR << 16 | MINOR), (_COUNT, len(stream.instructions)),
        (_WORDS, HEAD_WORDS + len(body) // WORD_BYTES), (_SUM, zlib.crc32(body)),
    ):  # fmt: skip
        packed |= value << WORD_BITS * word
    return packed.to_bytes(HEAD_WORDS * WORD_BYTES, "little") + body


def words_of(instruction: Instruction, number: int) -> bytes:
    """The words of one instruction, which is the ``number``-th of its stream.

    Raises:
        StreamError: A field cannot hold its value.
    """
    layout = LAYOUTS[type(instruction)]
    require_fields(instruction, layout.fields, f"instruction {number:,} ({layout.name})")
    packed = layout.opcode | layout.num_words << 8 | _packed(layout.fields, instruction)
    return packed.to_bytes(layout.num_words * WORD_BYTES, "little")


def from_bytes(data: bytes) -> Stream:
    """The stream that words hold.

    Raises:
        StreamError: It is cut short, damaged, or of another version; names the word.
    """
    head_bytes = HEAD_WORDS * WORD_BYTES
    if len(data) < head_bytes:
        raise StreamError(f"stream of {len(data):,} B: cut short, the head alone has {head_bytes} B")
    head = int.from_bytes(data[:head_bytes], "little")
    require_version(_word(head, 0) == MAGIC, _word(head, _VERSION) >> 16, _word(head, _VERSION) & 0xFFFF)
    expected = WORD_BYTES * _word(head, _WORDS)
    if len(data) != expected:
        short = "cut short" if len(data) < expected else "too long"
        raise StreamError(f"stream of {len(data):,} B: {short}, its head says {expected:,} B")
    if zlib.crc32(data[head_bytes:]) != _word(head, _SUM):
        raise StreamError(
            f"stream: damaged, the CRC-32 of its words is {zlib.crc32(data[head_bytes:]):#010x}, "
            f"its head says {_word(head, _SUM):#010x}"
        )
    instructions: list[Instruction] = []
    at = HEAD_WORDS
    while at * WORD_BYTES < len(data):
        instruction, num_words = _instruction_at(data, at)
        instructions.append(instruction)
        at += num_words
    if len(instructions) != _word(head, _COUNT):
        raise StreamError(f"stream of {len(instructions):,} instructions: its head says {_word(head, _COUNT):,}")
    values = _values(HEAD, head, "head of the stream")
    known = _mask(HEAD) | _whole_words((0, _VERSION, _COUNT, _WORDS, _SUM))
    if head & ~known:
        raise StreamError("head of the stream: bits that mean nothing are set")
    return Stream(head=HEAD_OF(**values), instructions=tuple(instructions))


def require_version(is_stream: bool, major: int, minor: int) -> None:  # noqa: FBT001 (a fact, no option)
    """Refuse what is no stream, or one with other words; a smaller minor version is a part of ours.

    Raises:
        StreamError: Names both versions.
    """
    if not is_stream:
        raise StreamError("not an instruction stream: it does not begin with 'TSPM' or 'spm-stream'")
    if major != MAJOR or minor > MINOR:
        raise StreamError(f"stream of version {major}.{minor}: this program reads {MAJOR}.0 to {MAJOR}.{MINOR}")


def _instruction_at(data: bytes, at: int) -> tuple[Instruction, int]:
    """The instruction that begins at a word, and its number of words."""
    first = int.from_bytes(data[WORD_BYTES * at : WORD_BYTES * (at + 1)], "little")
    opcode, num_words = first & 0xFF, first >> 8 & 0xFF
    if opcode not in BY_OPCODE:
        raise StreamError(f"word {at:,}: opcode {opcode:#04x} is not known")
    kind, layout = BY_OPCODE[opcode]
    what = f"word {at:,} ({layout.name})"
    if num_words != layout.num_words:
        raise StreamError(f"{what}: says it has {num_words} words, this instruction has {layout.num_words}")
    packed_bytes = data[WORD_BYTES * at : WORD_BYTES * (at + num_words)]
    if len(packed_bytes) < WORD_BYTES * num_words:
        raise StreamError(f"{what}: cut short, {len(packed_bytes) // WORD_BYTES} of {num_words} words are there")
    packed = int.from_bytes(packed_bytes, "little")
    if packed & ~(_MASKS[opcode] | 0xFFFF):
        raise StreamError(f"{what}: bits that mean nothing are set")
    instruction = kind(**_values(layout.fields, packed, what))
    if _packed(layout.fields, instruction) != packed & _MASKS[opcode]:
        raise StreamError(f"{what}: an axis or place that is not used holds something")
    return instruction, num_words


def _word(packed: int, word: int) -> int:
    return packed >> WORD_BITS * word & (1 << WORD_BITS) - 1


def _packed(fields: Sequence[Field], holder: Instruction | StreamHead) -> int:
    """All fields in their places."""
    packed = 0
    for field in fields:
        codes = [field.kind.code(value, field.name) for value in values_of(field, holder)]
        if field.length_at is not None:
            word, bit, _ = field.length_at
            place = WORD_BITS * word + bit
            # fields that share a length say the same
            packed |= len(codes) << place
            unused = [field.unused] * (field.most - len(codes))
            codes = [*unused, *codes] if field.is_last else [*codes, *unused]
        for i, code in enumerate(codes):
            packed |= code << field.first_bit + i * field.step_bits
    return packed


def _values(fields: Sequence[Field], packed: int, what: str) -> dict[str, Value | tuple[Value, ...]]:
    """All fields taken from their places, by name."""
    found: dict[str, Value | tuple[Value, ...]] = {}
    for field in fields:
        places = range(max(1, field.most))
        if field.length_at is not None:
            word, bit, bits = field.length_at
            length = packed >> WORD_BITS * word + bit & (1 << bits) - 1
            if length > field.most:
                raise StreamError(f"{what}: {field.name} has {length} values: must be <= {field.most}")
            places = range(field.most - length, field.most) if field.is_last else range(length)
        values = tuple(
            field.kind.value(packed >> field.first_bit + i * field.step_bits & field.bound() - 1, what) for i in places
        )
        found[field.name] = values if field.most else values[0]
    return found


def _mask(fields: Sequence[Field]) -> int:
    """The bits that fields take."""
    mask = 0
    for field in fields:
        for i in range(max(1, field.most)):
            mask |= field.bound() - 1 << field.first_bit + i * field.step_bits
        if field.length_at is not None:
            word, bit, bits = field.length_at
            mask |= (1 << bits) - 1 << WORD_BITS * word + bit
    return mask


def _whole_words(words: Sequence[int]) -> int:
    return sum((1 << WORD_BITS) - 1 << WORD_BITS * word for word in words)


def mask_of(layout: Layout) -> int:
    """The bits of an instruction that mean something, opcode and length left out."""
    return _mask(layout.fields)


_MASKS = {layout.opcode: mask_of(layout) for layout in LAYOUTS.values()}
