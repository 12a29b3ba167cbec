"""The constants behind ``#[metadata]``."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from tvm_spm.errors import ModelError
from tvm_spm.frontend.relay import tree
from tvm_spm.frontend.relay.arrays import Array, read_array
from tvm_spm.frontend.relay.source import Source

CONSTANT = "relay.Constant"


class Constants:
    """Arrays of ``meta[relay.Constant][i]``, decoded when they are asked for and kept."""

    def __init__(self, source: Source, metadata: str | None) -> None:
        """Read the table.

        Raises:
            ModelError: It is cut off or no table.
        """
        self._source, self._given = source, metadata is not None
        self._arrays: dict[int, Array] = {}
        self._indices: dict[str, list[int]] = {}
        self._nodes: list[dict[str, Any]] = []
        self._encoded: list[str] = []
        if metadata is not None:
            self._read(metadata)

    def _read(self, metadata: str) -> None:
        origin = self._source.origin
        try:
            table = json.loads(metadata)
            self._nodes, self._encoded = table["nodes"], table.get("b64ndarrays", [])
            root = self._nodes[table["root"]]
            keys = dict(zip(root.get("keys", []), root.get("data", []), strict=True))
            self._indices = {key: list(self._nodes[index]["data"]) for key, index in keys.items()}
        except json.JSONDecodeError as error:
            line = self._source.program.count("\n") + error.lineno
            raise ModelError(f"{origin}:{line}: metadata is no JSON ({error.msg}): was the text cut off?") from None
        except RecursionError:
            raise ModelError(f"{origin}: metadata nests too deep to be a table of constants") from None
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelError(
                f"{origin}: metadata is no table of TVM objects ({type(error).__name__}: {error})"
            ) from None

    def missing(self, used: list[tree.Meta]) -> list[tree.Meta]:
        """Constants that a text without metadata refers to."""
        return [] if self._given else used

    def array(self, meta: tree.Meta) -> Array:
        """Numbers of one constant.

        Raises:
            ModelError: There is no such constant, or it is no array.
        """
        if meta.key != CONSTANT:
            self._source.refuse(meta.at, f"meta[{meta.key}] cannot be used here: only {CONSTANT} holds numbers")
        if meta.index not in self._arrays:
            self._arrays[meta.index] = self._decode(meta)
        return self._arrays[meta.index]

    def _decode(self, meta: tree.Meta) -> Array:
        what = f"meta[{CONSTANT}][{meta.index}]"
        indices = self._indices.get(CONSTANT, [])
        if meta.index >= len(indices):
            has = f"has {len(indices)} ({what} >= {len(indices)})" if self._given else "is missing"
            self._source.refuse(meta.at, f"{what}: the table of constants {has}")
        try:
            node = self._nodes[indices[meta.index]]
            if node["type_key"] != CONSTANT:
                raise ValueError(f"node of type {node['type_key']!r}")
            encoded = self._encoded[int(node["attrs"]["data"])]
            content = base64.b64decode(encoded, validate=True)
        except (binascii.Error, IndexError, KeyError, TypeError, ValueError) as error:
            self._source.refuse(meta.at, f"{what}: no array in the metadata ({error})")
        return read_array(content, self._source.origin, what)
