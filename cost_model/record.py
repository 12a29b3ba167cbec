"""Records of compiled code: what a protocol says is in one, as a NumPy type."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_KINDS = {"int": np.int64, "float": np.float64, "Ints": np.int64, "Floats": np.float64}


def record(of: type, shapes: Mapping[str, int | tuple[int, ...]] | None = None) -> np.dtype[np.void]:
    """The record with the fields of a protocol.

    Args:
        of: A protocol whose fields are ``int``, ``float``, ``Ints`` or ``Floats``.
        shapes: Of the fields that are arrays.

    Raises:
        KeyError: A field is of another kind, or an array without a shape.
    """
    fields = [
        (name, _KINDS[kind], (shapes or {})[name] if kind.endswith("s") else ())
        for name, kind in of.__annotations__.items()
    ]
    return np.dtype(fields)
