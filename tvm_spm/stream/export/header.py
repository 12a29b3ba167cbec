"""A C header with every number a reader of streams needs."""

from __future__ import annotations

from collections.abc import Iterator

from tvm_spm.axes import DIM_NAMES
from tvm_spm.stream.layout import (
    DTYPES,
    HEAD,
    HEAD_WORDS,
    LAYOUTS,
    MAGIC,
    MAJOR,
    MINOR,
    OPERATIONS,
    Field,
)
from tvm_spm.stream.memory import MemoryMap

HEADER_NAME = "spm_stream.h"


def stream_header() -> str:
    """Opcodes, and of every field its word, its lowest bit, its width, and how many values stand how far apart."""
    lines = [
        "/* Instruction streams: words of 32 bits, little endian. See README.md. */",
        "#ifndef SPM_STREAM_H",
        "#define SPM_STREAM_H",
        "",
        *_defines(
            ("MAGIC", f"{MAGIC:#010x}u"), ("VERSION", f"{MAJOR << 16 | MINOR:#010x}u"), ("HEAD_WORDS", HEAD_WORDS)
        ),
        "",
        "/* the value of a field of an instruction at words w: the i-th, for one that has several */",
        "#define SPM_BITS(w, word, bit, bits) \\",
        "    ((bits) == 32 ? (w)[word] : ((w)[word] >> (bit)) & ((1u << (bits)) - 1u))",
        "#define SPM_FIELD(w, FIELD) SPM_BITS(w, FIELD##_WORD, FIELD##_BIT, FIELD##_BITS)",
        "#define SPM_FIELD_AT(w, FIELD, i) \\",
        "    SPM_BITS(w, FIELD##_WORD + (FIELD##_BIT + (i) * FIELD##_STEP) / 32, \\",
        "             (FIELD##_BIT + (i) * FIELD##_STEP) % 32, FIELD##_BITS)",
        "#define SPM_OPCODE(w) ((w)[0] & 0xffu)",
        "#define SPM_NUM_WORDS(w) ((w)[0] >> 8 & 0xffu)",
    ]
    for number, name in enumerate(DIM_NAMES):
        lines += _defines((f"DIM_{name}", number))
    for number, name in enumerate("IWO"):
        lines += _defines((f"OPERAND_{name}", number))
    for number, name in enumerate(DTYPES):
        lines += _defines((f"DTYPE_{name.upper()}", number))
    for name, number in OPERATIONS.items():
        lines += _defines((f"OPERATION_{name.upper()}", number))
    lines.append("")
    for field in HEAD:
        lines += _field("HEAD", field)
    for layout in LAYOUTS.values():
        lines.append("")
        name = layout.name.upper()
        lines += _defines((name, f"{layout.opcode:#04x}u"), (f"{name}_WORDS", layout.num_words))
        for field in layout.fields:
            lines += _field(name, field)
    return "\n".join([*lines, "", "#endif", ""])


def memory_header(name: str, memory: MemoryMap) -> str:
    """Addresses and sizes of the tensors of one layer; ``name`` is a C name."""
    lines = [f"/* Memory of one layer, bytes. */\n#ifndef {name}_H\n#define {name}_H\n"]
    lines.append(f"#define {name}_BYTES {memory.num_bytes}u")
    for region in memory.regions:
        lines.append(f"#define {name}_{region.name}_ADDRESS {region.address:#x}u")
        lines.append(f"#define {name}_{region.name}_BYTES {region.num_bytes}u")
    return "\n".join([*lines, "", "#endif", ""])


def _field(of: str, field: Field) -> Iterator[str]:
    name = f"{of}_{field.name.upper()}"
    yield from _defines((f"{name}_WORD", field.word), (f"{name}_BIT", field.bit), (f"{name}_BITS", min(field.bits, 32)))
    if field.most:
        yield from _defines((f"{name}_MOST", field.most), (f"{name}_STEP", field.step_bits))


def _defines(*pairs: tuple[str, object]) -> Iterator[str]:
    for name, value in pairs:
        yield f"#define SPM_{name} {value}"
