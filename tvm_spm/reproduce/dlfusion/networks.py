"""Networks as layers, in the data type and at the batch of the machine they run on."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import numpy_helper

from tvm_spm.frontend import extract, load_model
from tvm_spm.frontend.layers.graph import layer_graph
from tvm_spm.graph import LayerGraph, retype

MOST_BYTES = 1 << 35
"""Of all tensors of a network that is only looked at."""


def network_graph(name: str, dtype: str) -> LayerGraph:
    """The layers of a built-in network, batch 1, images of 224 x 224."""
    return retype(layer_graph(extract(load_model(name))).graph, dtype)


def batched_graph(model: str, batch: int, dtype: str) -> LayerGraph:
    """The layers of a light model of the ``onnx`` package at another batch."""
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{model}.onnx"
    # Nothing runs, so that the results of its layers, which a batch makes large, take no memory.
    module = load_model(with_batch(onnx.load(str(path)), batch), max_memory_bytes=MOST_BYTES)
    return retype(layer_graph(extract(module)).graph, dtype)


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A copy whose inputs have another first extent, as have the shapes that reshapes of results name."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in constants:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    for value in graph.output:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del graph.value_info[:]
    computed = {name for node in graph.node if node.op_type != "ConstantOfShape" for name in node.output}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[0] in computed and node.input[1] in constants:
            shape = constants[node.input[1]]
            extents = numpy_helper.to_array(shape).copy()
            extents[0] = batch
            shape.CopyFrom(numpy_helper.from_array(extents, shape.name))
    return changed
