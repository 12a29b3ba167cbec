"""A text with its name, and errors that say where in it they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from tvm_spm.errors import ModelError

METADATA = "#[metadata]"

MAX_TEXT_BYTES = 256 << 20
"""Of a whole file, constants included. Reading takes about three times as much memory."""

MAX_PROGRAM_BYTES = 4 << 20
"""Of the part in front of the constants, some 35,000 operators. Reading takes 16 times as much memory, or 240 times for
a text that is made to take much (a row of minus signs): under 1 GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The program part of a text; offsets count characters from its beginning.

    Attributes:
        origin: What errors call the text.
        program: Everything in front of the metadata.
    """

    origin: str
    program: str

    def place(self, at: int) -> str:
        """``model.relay:12:7``, line and column counted from 1."""
        line = self.program.count("\n", 0, at) + 1
        column = at - (self.program.rfind("\n", 0, at) + 1) + 1
        return f"{self.origin}:{line}:{column}"

    def refuse(self, at: int, message: str) -> NoReturn:
        """Raise an error about one place."""
        raise ModelError(f"{self.place(at)}: {message}")


def check_size(num_bytes: int, origin: str) -> None:
    """Refuse a text that is too long to read.

    Raises:
        ModelError: It is longer than ``MAX_TEXT_BYTES``.
    """
    if num_bytes > MAX_TEXT_BYTES:
        raise ModelError(
            f"{origin}: Relay text of {num_bytes:,} B > {MAX_TEXT_BYTES:,} B that are read; pass large weights apart: "
            "print the module with its weights as parameters, and save those with relay.save_param_dict (--params)"
        )


def split_metadata(text: str, origin: str) -> tuple[Source, str | None]:
    """The program, and the JSON text of its constants if there is one.

    Raises:
        ModelError: Either is longer than what is read.
    """
    check_size(len(text), origin)
    at = 0 if text.startswith(METADATA) else text.find("\n" + METADATA)
    program = text if at < 0 else text[:at]
    if len(program) > MAX_PROGRAM_BYTES:
        raise ModelError(f"{origin}: Relay program of {len(program):,} B > {MAX_PROGRAM_BYTES:,} B that are read")
    metadata = None if at < 0 else text[at + len(METADATA) + (text[at] == "\n") :]
    return Source(origin=origin, program=program), metadata
