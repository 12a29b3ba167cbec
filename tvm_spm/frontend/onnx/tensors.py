"""The tensors of an ONNX model: how many bytes they need, whether they hold what they claim; those in other files."""

from __future__ import annotations

import collections.abc
import math
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import TensorProto

from tvm_spm.errors import ModelError
from tvm_spm.frontend.memory import require_memory
from tvm_spm.input_file import open_beneath
from tvm_spm.units import bits_to_bytes, format_bytes, parse_whole, shown

_ELEM_BITS = {
    TensorProto.FLOAT: 32, TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16, TensorProto.INT16: 16,
    TensorProto.INT32: 32, TensorProto.INT64: 64, TensorProto.BOOL: 8, TensorProto.FLOAT16: 16, TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32, TensorProto.UINT64: 64, TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16, TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E4M3FNUZ: 8, TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8, TensorProto.UINT4: 4, TensorProto.INT4: 4, TensorProto.FLOAT4E2M1: 4,
}  # fmt: skip
_ELEM_BITS |= {number: 2 for name, number in TensorProto.DataType.items() if name in ("INT2", "UINT2")}

_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")

_MAX_AXIS = 2**31 - 1

_MESSAGES_PER_GRAPH = 3
"""A graph is in an attribute, which is in a node, which is in a graph."""

_MAX_DEPTH = 24
"""Graphs inside graphs; protobuf reads about 33 from a file, but a model in memory may hold more."""


def load_tensors(model: onnx.ModelProto, base: Path | None, *, origin: str, max_memory_bytes: int) -> None:
    """Check every tensor of a model, and read those that are stored in files of their own.

    Such a file lies beside the model, and no link on the way to it is followed. Exactly as many bytes are read as the
    tensor's shape and type need. Nothing is read before all of them are known to fit the memory.

    Args:
        model: Changed in place: afterwards all tensors are in it.
        base: Where the model's file is; ``None`` for a model from memory, whose tensors must be in memory too.
        origin: What errors call the model.
        max_memory_bytes: Refuse a model that needs more.

    Raises:
        ModelError: A tensor is not what its shape and type say, or cannot be read; names it.
    """
    _check_texts(model, origin)
    tensors = list(_tensors(model, origin))
    require_memory(tensors_bytes(tensors, origin), max_memory_bytes, origin, "weights")
    outside = []
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            outside.append((tensor, _stored(tensor, origin)))
        else:
            _check_content(tensor, origin)
    if not outside:
        return
    if base is None:
        raise ModelError(
            f"{origin}: tensor {shown(outside[0][0].name)} is stored in a file, and a model in memory has no directory "
            "to look for it; give the path of the model"
        )
    _read_all(base, outside, origin)


def tensors_bytes(tensors: collections.abc.Iterable[TensorProto], origin: str) -> int:
    """Bytes that the shapes and types of tensors ask for.

    Raises:
        ModelError: A shape or a type is impossible.
    """
    return sum(_num_bytes(tensor, origin) for tensor in tensors)


def value_bytes(value: onnx.ValueInfoProto) -> int:
    """Bytes of a tensor between operators; 0 where its shape is not known."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return 0
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return 0
    return bits_to_bytes(math.prod(dim.dim_value for dim in tensor.shape.dim) * _ELEM_BITS.get(tensor.elem_type, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """Where a tensor is stored."""

    location: str
    offset_bytes: int
    length_bytes: int


def _stored(tensor: TensorProto, origin: str) -> _Stored:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    what = f"{origin}: tensor {shown(tensor.name)}"
    location = entries.get("location", "")
    parts = Path(location).parts
    if not parts or ".." in parts or Path(location).is_absolute() or "\0" in location:
        raise ModelError(f"{what}: stored in {shown(location)}: must be a file beside the model")
    needed = _num_bytes(tensor, origin)
    numbers = {"offset": 0, "length": needed}
    for key in numbers:
        if key in entries:
            value = parse_whole(entries[key])
            if value is None:
                raise ModelError(f"{what}: {key} {shown(entries[key])}: must be a whole number >= 0")
            numbers[key] = value
    if numbers["length"] != needed:
        raise ModelError(
            f"{what}: a length of {format_bytes(numbers['length'])}: its shape {_shape(tensor)} needs "
            f"{format_bytes(needed)}"
        )
    return _Stored(location=location, offset_bytes=numbers["offset"], length_bytes=needed)


def _read_all(base: Path, outside: list[tuple[TensorProto, _Stored]], origin: str) -> None:
    with ExitStack() as until_read:
        descriptors: dict[str, int] = {}
        for tensor, stored in outside:
            what = f"{origin}: tensor {shown(tensor.name)}: {shown(stored.location)}"
            try:
                if stored.location not in descriptors:
                    descriptors[stored.location] = open_beneath(base, stored.location)
                    until_read.callback(os.close, descriptors[stored.location])
                tensor.raw_data = _read_at(descriptors[stored.location], stored, what)
            except OSError as error:
                raise ModelError(f"{what}: cannot read: {error.strerror or error}") from None
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def _read_at(descriptor: int, stored: _Stored, what: str) -> bytes:
    end = stored.offset_bytes + stored.length_bytes
    size = os.fstat(descriptor).st_size
    if end > size:
        raise ModelError(
            f"{what}: {format_bytes(stored.length_bytes)} from byte {stored.offset_bytes:,} on: the file has only "
            f"{format_bytes(size)}"
        )
    parts, at = [], stored.offset_bytes
    while at < end:
        part = os.pread(descriptor, end - at, at)
        if not part:
            raise ModelError(f"{what}: the file became shorter while it was read")
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _num_bytes(tensor: TensorProto, origin: str) -> int:
    """Bytes that the shape and the type ask for; texts count one byte each."""
    if any(extent < 0 for extent in tensor.dims):
        raise ModelError(f"{origin}: tensor {shown(tensor.name)}: shape {_shape(tensor)}: no extent may be negative")
    if tensor.data_type == TensorProto.STRING:
        return math.prod(tensor.dims)
    if tensor.data_type not in _ELEM_BITS:
        raise ModelError(f"{origin}: tensor {shown(tensor.name)}: unknown element type {tensor.data_type}")
    return bits_to_bytes(math.prod(tensor.dims) * _ELEM_BITS[tensor.data_type])


def _check_content(tensor: TensorProto, origin: str) -> None:
    """Refuse a tensor that holds fewer or more numbers than its shape says."""
    what = f"{origin}: tensor {shown(tensor.name)}: shape {_shape(tensor)}"
    if tensor.HasField("raw_data"):
        needed = _num_bytes(tensor, origin)
        if len(tensor.raw_data) != needed:
            raise ModelError(
                f"{what} needs {format_bytes(needed)}, the tensor holds {format_bytes(len(tensor.raw_data))}"
            )
        return
    num_elems = math.prod(tensor.dims)
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        num_elems *= 2
    elif tensor.data_type != TensorProto.STRING and _ELEM_BITS[tensor.data_type] < 8:
        num_elems = bits_to_bytes(num_elems * _ELEM_BITS[tensor.data_type])
    held = sum(len(getattr(tensor, name)) for name in _FIELDS)
    if held != num_elems:
        raise ModelError(f"{what} needs {num_elems:,} numbers, the tensor holds {held:,}")


def _tensors(model: onnx.ModelProto, origin: str) -> collections.abc.Iterator[TensorProto]:
    """Every tensor of a model: of its graph, of graphs inside, of its functions and of attributes."""
    graphs: list[tuple[onnx.GraphProto | onnx.FunctionProto, int]] = [(model.graph, 0)]
    graphs += [(function, 0) for function in model.functions]
    while graphs:
        graph, depth = graphs.pop()
        if depth > _MAX_DEPTH:
            raise ModelError(f"{origin}: graphs are nested more than {_MAX_DEPTH} deep")
        if isinstance(graph, onnx.GraphProto):
            if depth:
                _check_declared(graph, origin)
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from _sparse(sparse)
        attributes = [attribute for node in graph.node for attribute in node.attribute]
        if isinstance(graph, onnx.FunctionProto):
            attributes += list(graph.attribute_proto)
        for attribute in attributes:
            _check_axes(attribute, origin)
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for each in (attribute.sparse_tensor,) if attribute.HasField("sparse_tensor") else ():
                yield from _sparse(each)
            for each in attribute.sparse_tensors:
                yield from _sparse(each)
            inner = [*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())]
            graphs += [(each, depth + 1) for each in inner]


def _check_texts(model: onnx.ModelProto, origin: str) -> None:
    """Refuse names that are no UTF-8 text: protobuf hands them out as bytes, or fails where they are first read."""
    messages: list[tuple[Message, int]] = [(model, 0)]
    while messages:
        message, depth = messages.pop()
        if depth > _MAX_DEPTH * _MESSAGES_PER_GRAPH:
            raise ModelError(f"{origin}: graphs are nested more than {_MAX_DEPTH} deep")
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                parts = value if isinstance(value, collections.abc.Sequence) else [value]
                messages += [(part, depth + 1) for part in parts if isinstance(part, Message)]
            elif field.type == FieldDescriptor.TYPE_STRING:
                for text in [value] if isinstance(value, (str, bytes)) else value:
                    if isinstance(text, bytes):
                        raise ModelError(
                            f"{origin}: {message.DESCRIPTOR.name}.{field.name} {shown(text)}: not UTF-8 text"
                        )


def _check_declared(graph: onnx.GraphProto, origin: str) -> None:
    """Refuse negative extents inside of a body: ONNX's shape inference believes them and ends the process."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if any(dim.dim_value < 0 for dim in value.type.tensor_type.shape.dim):
            raise ModelError(f"{origin}: tensor {shown(value.name)}: no extent may be negative")


def _check_axes(attribute: onnx.AttributeProto, origin: str) -> None:
    """Refuse an axis that ONNX and TVM would cut to 32 bits, and so take for another one."""
    if attribute.name in ("axis", "axes"):
        for axis in (attribute.i, *attribute.ints):
            if abs(axis) > _MAX_AXIS:
                raise ModelError(f"{origin}: attribute {attribute.name} = {shown(axis)}: there is no such axis")


def _sparse(sparse: onnx.SparseTensorProto) -> collections.abc.Iterator[TensorProto]:
    yield sparse.values
    yield sparse.indices


def _shape(tensor: TensorProto) -> str:
    return "x".join(str(extent) for extent in tensor.dims[:8]) or "scalar"
