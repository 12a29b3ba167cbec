"""Weights that travel beside a text: a file, bytes or a dict."""

from __future__ import annotations

import collections.abc
import io
import math
import re
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import TypeAlias

import numpy as np

from tvm_spm.errors import ModelError, did_you_mean
from tvm_spm.frontend.memory import require_memory
from tvm_spm.frontend.relay.arrays import LIST_MAGIC, Array, read_param_dict
from tvm_spm.input_file import read_regular
from tvm_spm.units import format_bytes, shown

ParamsLike: TypeAlias = "str | Path | bytes | collections.abc.Mapping[str, object] | None"
"""Path or bytes of ``relay.save_param_dict`` or of an ``.npz`` file, or arrays by name."""


_MAX_LISTED = 8

_DAMAGED = (
    ValueError, OSError, EOFError, KeyError, TypeError, OverflowError, NotImplementedError, RecursionError, SyntaxError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What ``zipfile`` and numpy raise on archives that are damaged; numpy parses headers as Python does."""


def read_params(params: ParamsLike, max_memory_bytes: int) -> dict[str, Array]:
    """Arrays by name.

    Names may begin with ``param:``; those that begin with ``in:`` and ``out:`` are examples and left out.

    Raises:
        ModelError: No such file, it holds something else, or more than allowed.
    """
    if params is None:
        return {}
    if isinstance(params, (str, Path)):
        return _without_examples(_decode(_read(Path(params), max_memory_bytes), str(params), max_memory_bytes))
    if isinstance(params, (bytes, bytearray)):
        return _without_examples(_decode(bytes(params), "params", max_memory_bytes))
    if isinstance(params, collections.abc.Mapping):
        return _without_examples({str(name): _as_array(str(name), value) for name, value in params.items()})
    raise ModelError(f"params: {type(params).__name__}: expected a path, bytes, or arrays by name")


def _read(path: Path, max_memory_bytes: int) -> bytes:
    return read_regular(path, max_bytes=max_memory_bytes, error=ModelError)


def _decode(content: bytes, origin: str, max_memory_bytes: int) -> dict[str, Array]:
    if content[:8] == LIST_MAGIC.to_bytes(8, "little"):
        return read_param_dict(content, origin)
    if content[:2] != b"PK":
        raise ModelError(f"{origin}: neither an .npz file nor bytes of relay.save_param_dict ({len(content):,} B)")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as listed:
            num_bytes = sum(_num_bytes(listed, entry, origin) for entry in listed.infolist())
        require_memory(num_bytes, max_memory_bytes, origin, "parameters")
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except _DAMAGED as error:
        raise ModelError(f"{origin}: cannot read the .npz file: {error}") from None


def _num_bytes(listed: zipfile.ZipFile, entry: zipfile.ZipInfo, origin: str) -> int:
    """Bytes of one array; numpy allocates what the header asks for before it reads, so both must agree."""
    with listed.open(entry) as file:
        major, _ = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        needed, held = math.prod(shape) * dtype.itemsize, entry.file_size - file.tell()
    if needed != held and not dtype.hasobject:
        raise ModelError(
            f"{origin}: array {shown(entry.filename)}: its shape needs {format_bytes(needed)}, the file holds "
            f"{format_bytes(held)}"
        )
    return entry.file_size


def _as_array(name: str, value: object) -> Array:
    numpy = getattr(value, "numpy", None)
    array = np.asarray(numpy() if callable(numpy) else value)
    if array.dtype == object:
        raise ModelError(f"params: {name!r} is no array ({type(value).__name__})")
    return array


def _without_examples(arrays: dict[str, Array]) -> dict[str, Array]:
    kept = {name: array for name, array in arrays.items() if not name.startswith(("in:", "out:"))}
    return {name.removeprefix("param:"): array for name, array in kept.items()}


def match_params(
    declared: collections.abc.Mapping[str, tuple[tuple[int | None, ...], str]], given: dict[str, Array], origin: str
) -> dict[str, Array]:
    """The given arrays by the names that the text declares.

    Args:
        declared: Shape and dtype per parameter.
        given: Arrays; a name may be spelled as the frontend had it (``1`` for ``%v1``, ``a.b`` for ``%a_b``).
        origin: What errors call the text.

    Raises:
        ModelError: A name that the text does not have, or an array of another shape or dtype.
    """
    spelled = {_spelling(name): name for name in declared}
    found: dict[str, Array] = {}
    names = {
        name: name if name in declared else spelled.get(_spelling(name), spelled.get(_spelling("v" + name)))
        for name in given
    }
    _refuse_strangers([name for name, known in names.items() if known is None], len(given), declared, origin)
    for name, array in given.items():
        known = names[name]
        assert known is not None
        shape, dtype = declared[known]
        fits = len(shape) == array.ndim and all(d in (None, e) for d, e in zip(shape, array.shape, strict=True))
        if not fits or str(array.dtype) != dtype:
            raise ModelError(
                f"{origin}: parameter {known!r}: given {_shown(array.shape, str(array.dtype))}, "
                f"declared {_shown(shape, dtype)}"
            )
        found[known] = array
    return found


def _refuse_strangers(names: list[str], num_given: int, declared: collections.abc.Collection[str], origin: str) -> None:
    """Refuse arrays of another network.

    Raises:
        ModelError: Some have a name that the text does not have; counts them, and says which are near.
    """
    if not names:
        return
    first = f"{names[0]!r} is given, main has none: {did_you_mean(names[0], declared)}"
    if num_given == 1:
        raise ModelError(f"{origin}: parameter {first}")
    others = ", ".join(repr(name) for name in names[1:_MAX_LISTED])
    more = f"; nor has it {others}" if others else ""
    more += f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    raise ModelError(f"{origin}: {len(names)} of {num_given} parameters given match nothing: {first}{more}")


def _spelling(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name)


def _shown(shape: tuple[int | None, ...], dtype: str) -> str:
    return f"{dtype} ({', '.join('?' if extent is None else str(extent) for extent in shape)})"
