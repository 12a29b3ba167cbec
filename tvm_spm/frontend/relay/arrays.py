"""Arrays as TVM stores them, alone or as the list that ``relay.save_param_dict`` writes."""

from __future__ import annotations

import math
import struct

import numpy as np
from numpy.typing import NDArray

from tvm_spm.errors import ModelError

Array = NDArray[np.generic]

ARRAY_MAGIC = 0xDD5E40F096B4A13F
LIST_MAGIC = 0xF7E58D4F05049CB7
_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}
_MAX_RANK = 32


class Reader:
    """Reads numbers and arrays off bytes; whatever does not fit into them is an error that names ``origin``."""

    def __init__(self, content: bytes, origin: str) -> None:
        self._content, self._origin, self._at = memoryview(content), origin, 0

    def take(self, num_bytes: int, what: str) -> memoryview:
        """The next bytes."""
        left = len(self._content) - self._at
        if num_bytes > left:
            raise ModelError(f"{self._origin}: {what}: needs {num_bytes:,} B, {left:,} B are left: was it cut off?")
        self._at += num_bytes
        return self._content[self._at - num_bytes : self._at]

    def uint64(self, what: str) -> int:
        """The next number."""
        return int(struct.unpack("<Q", self.take(8, what))[0])

    def array(self, what: str) -> Array:
        """The next array; bits of a type that numpy lacks become float32 (bfloat16) or int8 (int4)."""
        magic, _, _, _, rank, code, bits, lanes = struct.unpack("<QQiiiBBH", self.take(32, what))
        if magic != ARRAY_MAGIC:
            raise ModelError(f"{self._origin}: {what}: begins with {magic:#x}, an array begins with {ARRAY_MAGIC:#x}")
        if not 0 <= rank <= _MAX_RANK:
            raise ModelError(f"{self._origin}: {what}: {rank} dims, at most {_MAX_RANK} are read")
        shape = struct.unpack(f"<{rank}q", self.take(8 * rank, what))
        num_bytes = self.uint64(what)
        dtype = f"{_KINDS.get(code, f'type{code}_')}{bits}"
        needed = _stored_bytes(math.prod(shape), bits)
        if lanes != 1 or min(shape, default=1) < 0 or num_bytes != needed:
            raise ModelError(
                f"{self._origin}: {what}: {num_bytes:,} B for {dtype}x{lanes} {list(shape)} ({needed:,} B)"
            )
        return _decode(self.take(num_bytes, what), dtype, shape, f"{self._origin}: {what}")


def _stored_bytes(num_elems: int, bits: int) -> int:
    return num_elems if bits == 1 else -(-num_elems * bits // 8)


def _decode(content: memoryview, dtype: str, shape: tuple[int, ...], what: str) -> Array:
    if dtype in ("uint1", "bool8", "bool1"):
        return np.frombuffer(content, np.uint8).astype(np.bool_).reshape(shape)
    if dtype in ("int4", "uint4"):
        packed = np.frombuffer(content, np.uint8)
        halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[: math.prod(shape)].astype(np.int8)
        return (((halves ^ 8) - 8).astype(np.int8) if dtype == "int4" else halves.astype(np.uint8)).reshape(shape)
    if dtype == "bfloat16":
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    try:
        # A copy: the bytes of a whole file must not live as long as one small array in it.
        return np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype)
    except TypeError:
        raise ModelError(f"{what}: dtype {dtype} is not supported") from None


def read_array(content: bytes, origin: str, what: str) -> Array:
    """One array in TVM's own layout.

    Raises:
        ModelError: The bytes are no array, or not all of one.
    """
    return Reader(content, origin).array(what)


def read_param_dict(content: bytes, origin: str) -> dict[str, Array]:
    """Arrays by name as ``relay.save_param_dict`` and ``tvm.runtime.save_param_dict`` write them.

    Raises:
        ModelError: The bytes are something else, or not all of it.
    """
    reader = Reader(content, origin)
    magic = reader.uint64("header")
    if magic != LIST_MAGIC:
        raise ModelError(f"{origin}: begins with {magic:#x}, relay.save_param_dict writes {LIST_MAGIC:#x}")
    reader.uint64("header")
    names = [
        bytes(reader.take(reader.uint64("name"), "name")).decode("utf-8", "replace")
        for _ in range(reader.uint64("number of names"))
    ]
    num_arrays = reader.uint64("number of arrays")
    if num_arrays != len(names):
        raise ModelError(f"{origin}: {len(names)} names, {num_arrays} arrays")
    return {name: reader.array(f"parameter {name!r}") for name in names}
