"""A model as newer ones would be: sparse constants with all their numbers, old opsets raised where that is needed."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import onnx
from onnx import numpy_helper, version_converter

from tvm_spm.errors import ModelError
from tvm_spm.frontend.memory import require_memory
from tvm_spm.frontend.onnx.recurrent import has_recurrent
from tvm_spm.frontend.onnx.writer import LEAST_OPSET, SUBGRAPHS, opset_of


def made_plain(model: onnx.ModelProto, origin: str, *, max_memory_bytes: int) -> onnx.ModelProto:
    """The model without sparse constants, and of an opset in which recurrent layers can be written out.

    Args:
        model: Stays as it is.
        origin: What errors call it.
        max_memory_bytes: Of the constants that were sparse.

    Raises:
        ModelError: A sparse constant is not what its shape says, or needs more memory than allowed.
    """
    if _has_sparse(model.graph):
        dense = onnx.ModelProto()
        dense.CopyFrom(model)
        _make_dense(dense.graph, origin, max_memory_bytes)
        model = dense
    if has_recurrent(model) and opset_of(model) < LEAST_OPSET:
        # Comparisons of whole numbers, for sequences of other lengths, are newer than the layers.
        # Where ONNX's converter knows no way for another operator, the layer itself says that the opset is too old.
        with contextlib.suppress(RuntimeError, version_converter.ConvertError):
            return version_converter.convert_version(model, LEAST_OPSET)
    return model


def _has_sparse(graph: onnx.GraphProto) -> bool:
    if graph.sparse_initializer:
        return True
    attributes = [attr for node in graph.node for attr in node.attribute]
    inner = [each for attr in attributes if attr.type in SUBGRAPHS for each in (attr.g, *attr.graphs)]
    return any(attr.HasField("sparse_tensor") for attr in attributes) or any(_has_sparse(each) for each in inner)


def _make_dense(graph: onnx.GraphProto, origin: str, max_memory_bytes: int) -> None:
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_dense(sparse, sparse.values.name, origin, max_memory_bytes))
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attr in node.attribute:
            if attr.HasField("sparse_tensor") and node.op_type == "Constant":
                tensor = _dense(attr.sparse_tensor, node.output[0], origin, max_memory_bytes)
                attr.Clear()
                attr.CopyFrom(onnx.helper.make_attribute("value", tensor))
            for inner in (attr.g, *attr.graphs) if attr.type in SUBGRAPHS else ():
                _make_dense(inner, origin, max_memory_bytes)


def _dense(sparse: onnx.SparseTensorProto, name: str, origin: str, max_memory_bytes: int) -> onnx.TensorProto:
    """All numbers; most are 0."""
    values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices).astype(np.int64)
    shape = tuple(int(extent) for extent in sparse.dims)
    size = math.prod(shape)
    require_memory(size * values.dtype.itemsize, max_memory_bytes, origin, f"sparse constant {name!r}")
    if places.ndim == 2 and places.shape[1] == len(shape):
        is_inside = bool(((places >= 0) & (places < np.array(shape))).all())
        places = places @ np.array([math.prod(shape[axis + 1 :]) for axis in range(len(shape))], np.int64)
    else:
        is_inside = places.ndim == 1 and bool(((places >= 0) & (places < size)).all())
    if not is_inside or places.shape != values.shape:
        raise ModelError(
            f"{origin}: cannot import: sparse constant {name!r} of shape {list(shape)}: {values.size} numbers at "
            f"{list(sparse.indices.dims)} indices: must be one index for each, inside of the shape"
        )
    array = np.zeros(size, values.dtype)
    array[places] = values
    return numpy_helper.from_array(array.reshape(shape), name)
