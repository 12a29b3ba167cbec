"""Random instructions and streams: every field over all its width."""

from __future__ import annotations

import random

from tvm_spm.stream.instructions import End, Instruction, Stream, StreamHead
from tvm_spm.stream.layout import HEAD, LAYOUTS, Field


def random_fields(rng: random.Random, fields: tuple[Field, ...]) -> dict[str, object]:
    """Values for all fields, the largest and the smallest often among them."""
    lengths: dict[tuple[int, int, int], int] = {}
    found: dict[str, object] = {}
    for field in fields:
        length = field.most
        if field.length_at is not None:
            length = lengths.setdefault(field.length_at, rng.randint(0, field.most))
        values = tuple(_random_value(rng, field) for _ in range(max(1, length) if not field.most else length))
        found[field.name] = values if field.most else values[0]
    return found


def _random_value(rng: random.Random, field: Field) -> int | str:
    if field.kind.names is not None:
        return rng.choice(list(field.kind.names.values()))
    return rng.choice([0, field.bound() - 1, rng.randrange(field.bound()), rng.randrange(min(9, field.bound()))])


def random_instruction(rng: random.Random) -> Instruction:
    """Any but the last one."""
    kind = rng.choice([kind for kind in LAYOUTS if kind is not End])
    return kind(**random_fields(rng, LAYOUTS[kind].fields))


def random_stream(rng: random.Random) -> Stream:
    """Instructions in no order that makes sense."""
    body = [random_instruction(rng) for _ in range(rng.randint(0, 12))]
    return Stream(head=StreamHead(**random_fields(rng, HEAD)), instructions=(*body, End()))
