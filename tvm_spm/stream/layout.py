"""Where every field of every instruction stands: one table for the binary form, the text, the header and the manual."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tvm_spm.axes import DIM_NAMES, Operand
from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import (
    MOST_AXES,
    AxisSetup,
    DimSetup,
    End,
    Instruction,
    LoadTile,
    NestSetup,
    RunPass,
    StoreTile,
    StreamExtra,
    StreamHead,
    Sync,
    VectorStep,
)

MAJOR, MINOR = 1, 1
"""Version: another major number means other words."""

MAGIC = int.from_bytes(b"TSPM", "little")

WORD_BITS = 32

DTYPES = (
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float16", "float32", "float64", "bfloat16",
)  # fmt: skip
"""Types of elements, by code; those of numpy and ``ml_dtypes``."""

OPERATIONS = {
    "const": 0, "extra": 1, "cast": 2, "add": 3, "sub": 4, "mul": 5, "min": 6, "max": 7, "shr": 8, "shl": 9, "and": 10,
    "or": 11, "xor": 12, "lt": 16, "le": 17, "eq": 18, "ne": 19, "select": 20, "div": 32, "floordiv": 33,
    "floormod": 34, "abs": 35, "sqrt": 36, "rsqrt": 37, "exp": 38, "log": 39, "tanh": 40, "sigmoid": 41, "erf": 42,
    "floor": 43, "ceil": 44, "round": 45, "pow": 46, "trunc": 47, "truncmod": 48, "qmul": 49,
}  # fmt: skip
"""Of the vector unit, by code.

``round`` rounds halves to even, ``shr`` keeps the sign, ``div`` and ``truncmod`` of whole numbers go towards zero, and
``qmul`` is the product of two whole numbers over 2 to the power of the third, rounded, halves up. Those from ``trunc``
on came with version 1.1.
"""

Value = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How the number in a field is meant.

    Attributes:
        name: For a manual.
        names: Of the numbers, if they stand for names.
    """

    name: str
    names: dict[int, str] | None = None

    def code(self, value: Value, what: str) -> int:
        """The number of a value."""
        if self.names is None:
            return int(value)
        for code, name in self.names.items():
            if name == value:
                return code
        raise StreamError(f"{what} = {value}: must be one of {', '.join(self.names.values())}")

    def value(self, code: int, what: str) -> Value:
        """The value of a number."""
        if self.names is None:
            return code
        if code not in self.names:
            raise StreamError(f"{what}: code {code} is not known; codes are {', '.join(map(str, self.names))}")
        return self.names[code]

    def show(self, value: Value) -> str:
        """A value as text."""
        return f"{value:#x}" if self is ADDRESS else str(value)

    def read(self, text: str, what: str) -> Value:
        """The value of a text."""
        if self.names is not None:
            self.code(text, what)
            return text
        number = re.fullmatch(r"0x([0-9a-f]{1,16})|([0-9]{1,20})", text)
        if number is None:
            raise StreamError(f"{what} = {text[:40]}: must be a whole number >= 0 and < 2^64")
        return int(number[1], 16) if number[1] else int(number[2])


NUMBER, ADDRESS, FLAG = Kind(name="number"), Kind(name="address"), Kind(name="flag")
DIM = Kind(name="dim", names=dict(enumerate(DIM_NAMES)))
OPERAND = Kind(name="operand", names={operand.value: operand.name for operand in Operand})
DTYPE = Kind(name="dtype", names=dict(enumerate(DTYPES)))
OPERATION = Kind(name="operation", names={code: name for name, code in OPERATIONS.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One value or a tuple of them.

    Attributes:
        name: Of the attribute.
        word: Of the first value.
        bit: Of the first value in its word.
        bits: Width of one value.
        kind: How it is meant.
        most: Values at most; 0 for a single one, which is no tuple.
        step_bits: From one value to the next.
        length_at: Word, bit and width of the number of values; None if there are always ``most``.
        is_last: Whether unused places come first.
        unused: What stands in unused places.
    """

    name: str
    word: int
    bit: int = 0
    bits: int = WORD_BITS
    kind: Kind = NUMBER
    most: int = 0
    step_bits: int = WORD_BITS
    length_at: tuple[int, int, int] | None = None
    is_last: bool = False
    unused: int = 0

    @property
    def first_bit(self) -> int:
        """Of the first value, counted from the start of the instruction."""
        return WORD_BITS * self.word + self.bit

    def bound(self) -> int:
        """No value reaches it."""
        return 1 << self.bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One kind of instruction.

    Attributes:
        opcode: In bits 7..0 of its first word; its number of words is in bits 15..8.
        name: In texts.
        num_words: Of the instruction.
        fields: In the order of texts.
    """

    opcode: int
    name: str
    num_words: int
    fields: tuple[Field, ...]


def _box(*names: str, unused: tuple[int, ...]) -> tuple[Field, ...]:
    """Five words per axis; axes that are not used come first."""
    return tuple(
        Field(
            name=name, word=6 + place, most=MOST_AXES, step_bits=5 * WORD_BITS, length_at=(0, 20, 3), is_last=True,
            unused=value,
        )
        for place, (name, value) in enumerate(zip(names, unused, strict=True))
    )  # fmt: skip


_MOVED = (
    Field(name="dtype", word=0, bit=24, bits=4, kind=DTYPE),
    Field(name="number", word=1),
    Field(name="dram", word=2, kind=ADDRESS),
)
_BURSTS = (Field(name="num_bursts", word=4), Field(name="burst_bytes", word=5))
_OPERAND = Field(name="operand", word=0, bit=16, bits=2, kind=OPERAND)
_BUFFER = Field(name="buffer", word=0, bit=18, bits=1)
_SPM = Field(name="spm", word=3, kind=ADDRESS)

LAYOUTS: dict[type[Instruction], Layout] = {
    NestSetup: Layout(
        opcode=0x01, name="nest", num_words=15,
        fields=(
            Field(name="loops", word=1, bits=4, kind=DIM, most=8, step_bits=4, length_at=(0, 16, 4)),
            Field(name="rf_double", word=0, bit=20, bits=1, most=3, step_bits=1),
            Field(name="spm_double", word=0, bit=23, bits=1, most=3, step_bits=1),
            Field(name="spills", word=0, bit=26, bits=1, kind=FLAG),
            Field(name="depths", word=2, bits=8, most=3, step_bits=8),
            Field(name="dtypes", word=3, bits=4, kind=DTYPE, most=4, step_bits=4),
            Field(name="reducing", word=4, bits=16, most=2, step_bits=16),
            Field(name="num_ops_per_elem", word=5),
            Field(name="num_passes", word=6),
            Field(name="rf_addresses", word=7, kind=ADDRESS, most=6),
            Field(name="rf_bytes", word=13),
            Field(name="num_vector_steps", word=14),
        ),
    ),
    DimSetup: Layout(
        opcode=0x02, name="dim", num_words=11,
        fields=(
            Field(name="dim", word=0, bit=16, bits=4, kind=DIM),
            Field(name="array", word=1),
            Field(name="rows", word=2),
            Field(name="cols", word=3),
            Field(name="rf", word=4),
            Field(name="spm_steps", word=5, most=3),
            Field(name="rf_steps", word=8, most=3),
        ),
    ),
    AxisSetup: Layout(
        opcode=0x03, name="axis", num_words=7,
        fields=(
            _OPERAND,
            Field(name="axis", word=0, bit=18, bits=3),
            Field(name="dims", word=1, bits=4, kind=DIM, most=3, step_bits=4, length_at=(0, 21, 2)),
            Field(name="coefficients", word=2, most=3, length_at=(0, 21, 2)),
            Field(name="spm_stride", word=5),
            Field(name="rf_stride", word=6),
        ),
    ),
    VectorStep: Layout(
        opcode=0x04, name="vector", num_words=4,
        fields=(
            Field(name="target", word=1, bits=5),
            Field(name="operation", word=0, bit=16, bits=8, kind=OPERATION),
            Field(name="dtype", word=0, bit=24, bits=4, kind=DTYPE),
            Field(name="sources", word=1, bit=8, bits=5, most=3, step_bits=8),
            Field(name="immediate", word=2, bits=64, kind=ADDRESS),
        ),
    ),
    LoadTile: Layout(
        opcode=0x10, name="load", num_words=31,
        fields=(
            _OPERAND, _BUFFER, *_MOVED, _SPM, *_BURSTS,
            *_box("counts", "dram_strides", "spm_strides", "fronts", "backs", unused=(1, 0, 0, 0, 0)),
        ),
    ),
    StoreTile: Layout(
        opcode=0x11, name="store", num_words=31,
        fields=(
            _OPERAND, _BUFFER, Field(name="is_final", word=0, bit=19, bits=1, kind=FLAG), *_MOVED, _SPM, *_BURSTS,
            *_box("counts", "dram_strides", "spm_strides", "periods", "runs", unused=(1, 0, 0, 1, 1)),
        ),
    ),
    StreamExtra: Layout(
        opcode=0x12, name="extra", num_words=31,
        fields=(
            Field(name="extra", word=0, bit=16, bits=4), *_MOVED, Field(name="buffer", word=3, kind=ADDRESS), *_BURSTS,
            *_box("counts", "dram_strides", "buffer_strides", unused=(1, 0, 0)),
            *(
                Field(
                    name=name, word=word, most=MOST_AXES, step_bits=5 * WORD_BITS, length_at=(0, 28, 3), is_last=True
                )
                for name, word in (("steps", 9), ("period_steps", 10))
            ),
        ),
    ),
    RunPass: Layout(
        opcode=0x20, name="run", num_words=21,
        fields=(
            Field(name="number", word=1),
            Field(name="loads_i", word=0, bit=16, bits=1, kind=FLAG),
            Field(name="loads_w", word=0, bit=17, bits=1, kind=FLAG),
            Field(name="reads_o", word=0, bit=18, bits=1, kind=FLAG),
            Field(name="clears_o", word=0, bit=20, bits=1, kind=FLAG),
            Field(name="o_leaves", word=0, bit=19, bits=1, kind=FLAG),
            Field(name="buffers", word=0, bit=21, bits=1, most=3, step_bits=1),
            Field(name="spm", word=2, kind=ADDRESS, most=3),
            Field(name="counts", word=5, most=8, step_bits=2 * WORD_BITS),
            Field(name="lasts", word=6, most=8, step_bits=2 * WORD_BITS),
        ),
    ),
    Sync: Layout(
        opcode=0x30, name="sync", num_words=1,
        fields=(
            Field(name="array", word=0, bit=16, bits=1, kind=FLAG),
            Field(name="dma", word=0, bit=17, bits=1, kind=FLAG),
        ),
    ),
    End: Layout(opcode=0x3F, name="end", num_words=1, fields=()),
}  # fmt: skip
"""Every instruction; the length of a tuple is also the number that hardware needs, of loops or of terms."""

HEAD_WORDS = 16

HEAD = (
    Field(name="core", word=2),
    Field(name="num_cores", word=3),
    Field(name="arch", word=6, kind=ADDRESS),
    Field(name="dram_bytes", word=7),
    Field(name="spm_bytes", word=8, most=3),
    Field(name="rf_bytes", word=11),
    Field(name="buffer_bytes", word=12),
    Field(name="is_split", word=13, bits=1, kind=FLAG),
)
"""Fields of a ``StreamHead``. Words 0 and 1 are ``MAGIC`` and version, 4 and 5 the numbers of instructions and of all
words, 14 is zero, 15 is the CRC-32 of the words behind the head."""

Maker = Callable[..., Instruction]
"""Makes an instruction of its fields."""

BY_OPCODE: dict[int, tuple[Maker, Layout]] = {layout.opcode: (kind, layout) for kind, layout in LAYOUTS.items()}
BY_NAME: dict[str, tuple[Maker, Layout]] = {layout.name: (kind, layout) for kind, layout in LAYOUTS.items()}
HEAD_OF: Callable[..., StreamHead] = StreamHead
"""Makes a head of its fields."""


def values_of(field: Field, holder: Instruction | StreamHead) -> tuple[Value, ...]:
    """The values of one field, a single one as a tuple of it."""
    value = getattr(holder, field.name)
    return value if field.most else (value,)


def require_fields(holder: Instruction | StreamHead, fields: tuple[Field, ...], what: str) -> None:
    """Refuse values that their fields cannot hold.

    Args:
        holder: Whose values.
        fields: Of it.
        what: Begins the text.

    Raises:
        StreamError: Names the field, the value and its bound.
    """
    lengths: dict[tuple[int, int, int], tuple[str, int]] = {}
    for field in fields:
        values = values_of(field, holder)
        if field.length_at is not None:
            name, length = lengths.setdefault(field.length_at, (field.name, len(values)))
            if len(values) != length:
                raise StreamError(f"{what}: {field.name} has {len(values)} values, {name} has {length}: must be equal")
        if field.most and not (0 if field.length_at else field.most) <= len(values) <= field.most:
            raise StreamError(f"{what}: {field.name} has {len(values)} values: must be <= {field.most}")
        for value in values:
            code = field.kind.code(value, f"{what}: {field.name}")
            if not 0 <= code < field.bound():
                raise StreamError(
                    f"{what}: {field.name} = {code:,}: must be >= 0 and < {field.bound():,} ({field.bits} bits)"
                )
