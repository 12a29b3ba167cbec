"""Streams as text, one instruction a line, and read back; what stands behind a ``#`` is a remark."""

from __future__ import annotations

import re

from tvm_spm.stream.binary import require_version
from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import MOST_INSTRUCTIONS, Instruction, Stream, StreamHead
from tvm_spm.stream.layout import (
    BY_NAME,
    FLAG,
    HEAD,
    HEAD_OF,
    LAYOUTS,
    MAJOR,
    MINOR,
    Field,
    Value,
    require_fields,
    values_of,
)

_WORD = "spm-stream"


def to_text(stream: Stream) -> str:
    """A stream as text, which ``from_text`` reads."""
    lines = [f"{_WORD} {MAJOR}.{MINOR} {_line(HEAD, stream.head)}"]
    lines += [line_of(instruction) for instruction in stream.instructions]
    return "\n".join(lines) + "\n"


def line_of(instruction: Instruction) -> str:
    """One instruction: its name, then flags that are set and ``field=value``, values of a tuple apart by commas."""
    layout = LAYOUTS[type(instruction)]
    return f"{layout.name} {_line(layout.fields, instruction)}".rstrip()


def from_text(text: str) -> Stream:
    """The stream that a text describes.

    Raises:
        StreamError: A line is not understood, or the text is of another version or ends early; names the line.
    """
    lines = [
        (number, line.partition("#")[0].split())
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1)
    ]
    lines = [(number, words) for number, words in lines if words]
    if not lines:
        raise StreamError("stream: cut short, it has no line")
    (_, first), *rest = lines
    version = re.fullmatch(r"([0-9]{1,5})\.([0-9]{1,5})", first[1] if len(first) > 1 else "")
    if first[0] == _WORD and version is None:
        given = first[1][:40] if len(first) > 1 else "nothing"
        raise StreamError(f"stream of version {given}: must be two numbers, as {MAJOR}.{MINOR}")
    require_version(first[0] == _WORD, *(map(int, version.groups()) if version else (0, 0)))
    if len(rest) > MOST_INSTRUCTIONS:
        raise StreamError(f"stream of {len(rest):,} instructions: must be <= {MOST_INSTRUCTIONS:,}")
    head = HEAD_OF(**_read(HEAD, first[2:], "line 1"))
    require_fields(head, HEAD, "line 1")
    instructions = []
    for number, (name, *words) in rest:
        if name not in BY_NAME:
            raise StreamError(f"line {number:,}: {name[:40]}: must be one of {', '.join(BY_NAME)}")
        kind, layout = BY_NAME[name]
        what = f"line {number:,} ({name})"
        instruction = kind(**_read(layout.fields, words, what))
        require_fields(instruction, layout.fields, what)
        instructions.append(instruction)
    return Stream(head=head, instructions=tuple(instructions))


def _line(fields: tuple[Field, ...], holder: Instruction | StreamHead) -> str:
    parts = []
    for field in fields:
        values = values_of(field, holder)
        if field.kind is FLAG:
            parts += [field.name] if values[0] else []
        else:
            parts.append(f"{field.name}={','.join(field.kind.show(value) for value in values)}")
    return " ".join(parts)


def _read(fields: tuple[Field, ...], words: list[str], what: str) -> dict[str, Value | tuple[Value, ...]]:
    given: dict[str, str | None] = {}
    for word in words:
        name, is_given, value = word.partition("=")
        if name in given:
            raise StreamError(f"{what}: {name[:40]} is given twice")
        given[name] = value if is_given else None
    found: dict[str, Value | tuple[Value, ...]] = {}
    for field in fields:
        where = f"{what}: {field.name}"
        if field.kind is FLAG:
            found[field.name] = int(field.name in given)
            if given.pop(field.name, None) is not None:
                raise StreamError(f"{where}: a flag has no value; it stands there or not")
            continue
        text = given.pop(field.name, None)
        if text is None:
            raise StreamError(f"{where} is missing")
        values = tuple(field.kind.read(part, where) for part in text.split(",")) if text else ()
        if not field.most and len(values) != 1:
            raise StreamError(f"{where} = {text[:40]}: must be one value")
        found[field.name] = values if field.most else values[0]
    if given:
        raise StreamError(f"{what}: {next(iter(given))[:40]} is no field of it")
    return found
