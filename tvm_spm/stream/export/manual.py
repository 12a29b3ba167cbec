"""The README of an exported directory: what stands in it, and what every word means."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tvm_spm.stream.instructions import MOST_INSTRUCTIONS, StreamHead
from tvm_spm.stream.layout import (
    ADDRESS,
    DTYPES,
    HEAD,
    HEAD_WORDS,
    LAYOUTS,
    MAJOR,
    MINOR,
    NUMBER,
    OPERATIONS,
    WORD_BITS,
    Field,
)


def manual(rows: Sequence[str], left_out: Sequence[tuple[str, str]], constants: str) -> str:
    """The text.

    Args:
        rows: Per layer a row of the table of layers.
        left_out: Layers without streams and the reason.
        constants: What is said about weights.
    """
    refused = "\n".join(f"* {name}: {reason}" for name, reason in left_out)
    return (
        (Path(__file__).with_name("manual.md"))
        .read_text(encoding="utf-8")
        .format(
            version=f"{MAJOR}.{MINOR}",
            constants=constants,
            layers="\n".join(rows),
            left_out=f"\nWithout streams:\n\n{refused}\n" if left_out else "",
            head_words=HEAD_WORDS,
            head="\n".join(_table(HEAD, StreamHead)),
            most=f"{MOST_INSTRUCTIONS:,}",
            instructions="\n".join(_instructions()),
            dtypes=", ".join(f"{code} {name}" for code, name in enumerate(DTYPES)),
            operations=", ".join(f"{code} {name}" for name, code in OPERATIONS.items()),
        )
    )


def _instructions() -> Iterator[str]:
    for kind, layout in LAYOUTS.items():
        text = (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("``", "`")
        words = "1 word" if layout.num_words == 1 else f"{layout.num_words} words"
        yield f"### `{layout.name}`, opcode {layout.opcode:#04x}, {words}\n"
        yield text + "\n"
        if layout.fields:
            yield from _table(layout.fields, kind)
            yield ""


def _table(fields: Sequence[Field], kind: type) -> Iterator[str]:
    meanings = described(kind)
    yield "| field | bits | values | meaning |"
    yield "|---|---|---|---|"
    for field in fields:
        values = "1" if not field.most else f"{field.most}, {field.step_bits} bits apart"
        if field.length_at is not None:
            word, bit, bits = field.length_at
            values += f"; as many as word {word} [{bit + bits - 1}:{bit}] says"
        shown = "" if field.kind in (NUMBER, ADDRESS) else f" ({field.kind.name})"
        yield f"| `{field.name}` | {_place(field)} | {values} | {meanings.get(field.name, '')}{shown} |"


def _place(field: Field) -> str:
    if field.bits > WORD_BITS:
        return f"words {field.word}, {field.word + 1}"
    whole = field.bit == 0 and field.bits == WORD_BITS
    bits = f"{field.bit}" if field.bits == 1 else f"{field.bit + field.bits - 1}:{field.bit}"
    return f"word {field.word}" + ("" if whole else f" [{bits}]")


def described(kind: type) -> dict[str, str]:
    """What the docstring of a class says about its attributes."""
    _, _, text = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name, text = "", text.replace("``", "`")
    for line in text.splitlines():
        entry = re.match(r"    (\w+): (.*)", line)
        if entry is not None:
            name = entry[1]
            found[name] = entry[2]
        elif line.startswith("        ") and name:
            found[name] += " " + line.strip()
    return found
