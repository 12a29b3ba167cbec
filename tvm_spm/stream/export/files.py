"""Writes streams and all that belongs to them into a directory."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tvm_spm import durable
from tvm_spm.errors import WorkdirError
from tvm_spm.stream.binary import to_bytes
from tvm_spm.stream.encode import LayerStreams
from tvm_spm.stream.export.header import HEADER_NAME, memory_header, stream_header
from tvm_spm.stream.export.manual import manual
from tvm_spm.stream.instructions import NestSetup
from tvm_spm.stream.memory import MemoryMap
from tvm_spm.stream.text import to_text
from tvm_spm.units import format_bytes

_MOST_NAME = 60
"""Characters of a directory's name that a layer gives it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExportedLayer:
    """One layer to write.

    Attributes:
        name: Of the layer.
        what: It computes.
        mapping: How, as one line.
        streams: What the cores execute.
        constants: Per call, tensors that are known, by region.
        sources: Per call, where the others come from and what known ones were drawn for, by region.
        groups: Of a plan, in which some of its calls run as one with other layers; the stream is for it alone.
    """

    name: str
    what: str
    mapping: str
    streams: LayerStreams
    constants: tuple[Mapping[str, NDArray[np.generic]], ...]
    sources: tuple[Mapping[str, str], ...]
    groups: tuple[str, ...] = ()


def write_export(
    directory: Path, layers: Sequence[ExportedLayer], left_out: Sequence[tuple[str, str]]
) -> tuple[Path, ...]:
    """Write everything.

    Args:
        directory: Made if it is missing; files of the same name are replaced.
        layers: To write.
        left_out: Names of layers without streams, and why.

    Returns:
        One directory per layer.

    Raises:
        WorkdirError: The directory cannot be written, or holds files of another export that would stay beside these.
        StreamError: A field of an instruction cannot hold its value.
    """
    if directory.exists() and not directory.is_dir():
        raise WorkdirError(f"{directory}: cannot write streams: not a directory; choose another one")
    names = [
        f"{number:02}-{re.sub(r'[^A-Za-z0-9_.-]', '_', layer.name)[:_MOST_NAME]}" for number, layer in enumerate(layers)
    ]
    _require_nothing_left(directory, dict(zip(names, map(_file_names, layers), strict=True)))
    durable.make_directory(directory)
    found, rows, all_known, any_drawn = [], [], True, False
    for number, (name, layer) in enumerate(zip(names, layers, strict=True)):
        path = directory / name
        _write_layer(path, layer, f"LAYER_{number:02}")
        found.append(path)
        streams, memory = layer.streams.streams, layer.streams.memory
        num_passes = sum(each.num_passes for s in streams for each in s.instructions if isinstance(each, NestSetup))
        num_instructions = sum(len(stream.instructions) for stream in streams)
        all_known = all_known and all("W" in call for call in layer.constants)
        any_drawn = any_drawn or any(
            "W" in call and "W" in at for call, at in zip(layer.constants, layer.sources, strict=True)
        )
        rows.append(
            f"| `{name}` | {_cell(layer.what)} | {len(layer.constants)} | {len(streams)} | {num_passes:,} | "
            f"{num_instructions:,} | {format_bytes(memory.num_bytes)} | {_cell('; '.join(layer.groups)) or 'no'} |"
        )
    known = "All weights are constants of the network."
    if not all_known:
        known = "Weights that are inputs or results of the network have no bytes here: `memory.json` says which."
    if any_drawn:
        known += " Weights for which the network holds no numbers were drawn: `memory.json` says for which parameter."
    listed = [(_cell(name), _cell(reason)) for name, reason in left_out]
    durable.write_file(directory / HEADER_NAME, stream_header().encode())
    durable.write_file(directory / "README.md", manual(rows, listed, known).encode())
    return tuple(found)


def _file_names(layer: ExportedLayer) -> set[str]:
    """Files of a layer that are numbered, and so may be fewer than another export wrote."""
    cores = [stream.head.core for stream in layer.streams.streams]
    calls = {f"call{number}.bin" for number in range(len(layer.constants))}
    return calls | {f"core{core}.{end}" for core in cores for end in ("bin", "txt")}


def _require_nothing_left(directory: Path, written: Mapping[str, set[str]]) -> None:
    """Refuse what another export left and this one does not replace; removing it could take what somebody wants."""
    for layer in sorted(directory.glob("[0-9][0-9]*-*")):
        if not (layer / "memory.json").is_file():
            continue
        left = [layer]
        if layer.name in written:
            there = sorted(
                each for each in layer.iterdir() if re.fullmatch(r"core\d+\.(bin|txt)|call\d+\.bin", each.name)
            )
            left = [each for each in there if each.name not in written[layer.name]]
        if left:
            raise WorkdirError(
                f"{directory}: cannot write streams: {left[0].relative_to(directory)} is of another export and would "
                "stay; remove it or choose another directory"
            )


def _write_layer(path: Path, layer: ExportedLayer, c_name: str) -> None:
    durable.make_directory(path)
    memory = layer.streams.memory
    for stream in layer.streams.streams:
        remarks = f"# {_one_line(layer.name)}\n# {_one_line(layer.what)}\n# {_one_line(layer.mapping)}\n"
        durable.write_file(path / f"core{stream.head.core}.bin", to_bytes(stream))
        durable.write_file(path / f"core{stream.head.core}.txt", (remarks + to_text(stream)).encode())
    described = {
        "layer": layer.name,
        "computes": layer.what,
        "mapping": layer.mapping,
        "runs_inside_groups": list(layer.groups),
        "bytes": memory.num_bytes,
        "regions": [
            {
                "name": region.name, "address": region.address, "bytes": region.num_bytes, "dtype": region.dtype,
                "shape": list(region.shape), "comes_from": _origins(layer, region.name),
            }
            for region in memory.regions
        ],
    }  # fmt: skip
    durable.write_file(path / "memory.json", json.dumps(described, indent=1).encode() + b"\n")
    durable.write_file(path / "memory.h", memory_header(c_name, memory).encode())
    calls = []
    for number, tensors in enumerate(layer.constants):
        packed, segments = _packed(memory, tensors)
        name = f"call{number}.bin"
        durable.write_file(path / name, packed)
        calls.append({"file": name, "segments": segments})
    durable.write_file(path / "constants.json", json.dumps(calls, indent=1).encode() + b"\n")


def _origins(layer: ExportedLayer, region: str) -> list[str]:
    """Where a tensor comes from, per call."""
    if region in ("O", "P"):
        return [{"O": "written: the result", "P": "written and read back: partial sums"}[region]] * len(layer.constants)
    return [
        sources.get(region, "constant" if region in constants else "unknown")
        for constants, sources in zip(layer.constants, layer.sources, strict=True)
    ]


def _packed(memory: MemoryMap, tensors: Mapping[str, NDArray[np.generic]]) -> tuple[bytes, list[dict[str, object]]]:
    """The bytes of known tensors one after the other, and where each of them goes."""
    packed, segments = b"", []
    for region in memory.regions:
        if region.name not in tensors:
            continue
        data = memory.bytes_of(region, tensors[region.name])
        segments.append({"region": region.name, "offset": len(packed), "address": region.address, "bytes": len(data)})
        packed += data
    return packed, segments


def _one_line(text: str) -> str:
    return re.sub(r"[^ -~]", "_", text)


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "/").replace("`", "'")
