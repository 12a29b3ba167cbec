"""Open pages of DRAM: the numbers of a channel's banks, and the rule of which rows a run of bytes meets in them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from tvm_spm.units import format_capacity


def refuse(text: str) -> None:
    """Refuse numbers of a file that do not go together.

    Raises:
        PydanticCustomError: With that text.
    """
    raise PydanticCustomError("pair", "{text}", {"text": text})


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        below = 1 << value.bit_length() - 1
        refuse(f"must be a power of two, such as {below:,} or {2 * below:,}")
    return value


_Bytes = Annotated[int, Field(ge=8, le=2**20, strict=True), AfterValidator(_power_of_two)]
_Cycles = Annotated[int, Field(ge=0, le=10**6, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Pages:
    """Banks of one DRAM channel, each of which keeps the row that was last used open: its page.

    Blocks of ``interleave_bytes`` lie in the banks in turn; left out, they are whole rows. A contiguous run of a tile
    waits in each block that it reaches: ``hit_cycles`` if the bank has its row open, and ``miss_cycles`` if another row
    must be closed and its own opened. Cycles are whole ones of the accelerator.
    """

    banks: Annotated[int, Field(ge=1, le=1024, strict=True), AfterValidator(_power_of_two)]
    row_bytes: _Bytes
    interleave_bytes: _Bytes | None = None
    hit_cycles: _Cycles = 0
    miss_cycles: _Cycles

    @property
    def block_bytes(self) -> int:
        """In one bank before the next one's turn."""
        return self.row_bytes if self.interleave_bytes is None else self.interleave_bytes

    @model_validator(mode="after")
    def _check(self) -> Pages:
        if self.block_bytes > self.row_bytes:
            refuse(f"interleave_bytes = {self.block_bytes:,}: must be <= row_bytes = {self.row_bytes:,}")
        if self.miss_cycles < self.hit_cycles:
            refuse(f"miss_cycles = {self.miss_cycles:,}: must be >= hit_cycles = {self.hit_cycles:,}")
        return self

    def __str__(self) -> str:
        return (
            f"{self.banks} banks with open rows of {format_capacity(self.row_bytes)} "
            f"+ {self.miss_cycles - self.hit_cycles} cycles/miss"
        )


# ruff: noqa: ANN401 (what is compiled has no one type)


def visit(
    open_rows: Any, first_byte: int, stop_byte: int, banks: int, row_bytes: int, block_bytes: int
) -> tuple[int, int]:
    """(blocks reached, rows opened) by a run of bytes; plain Python that also compiles.

    A row number covers ``banks * row_bytes`` bytes that follow each other, a row in every bank.

    Args:
        open_rows: Per bank of a channel, the number of its row; -1 for none. Changed.
        first_byte: Address.
        stop_byte: Address behind the last one, above ``first_byte``.
        banks: See ``Pages``.
        row_bytes: Likewise.
        block_bytes: Likewise.
    """
    blocks = misses = 0
    for block in range(first_byte // block_bytes, (stop_byte - 1) // block_bytes + 1):
        bank, row = block % banks, block * block_bytes // (banks * row_bytes)
        blocks += 1
        if open_rows[bank] != row:
            open_rows[bank] = row
            misses += 1
    return blocks, misses
