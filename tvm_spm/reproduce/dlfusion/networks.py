"""Networks as layers, in the data type of the machine they run on."""

from __future__ import annotations

from dataclasses import replace

from tvm_spm.frontend import extract, load_model
from tvm_spm.frontend.layers.graph import layer_graph
from tvm_spm.graph import LayerGraph
from tvm_spm.workload import Projection, Workload, dtype_bits


def network_graph(name: str, dtype: str) -> LayerGraph:
    """The layers of a built-in network, batch 1, images of 224 x 224."""
    return retype(layer_graph(extract(load_model(name))).graph, dtype)


def retype(graph: LayerGraph, dtype: str) -> LayerGraph:
    """The same network with every tensor of floats, and every sum of them, in another type.

    Args:
        graph: The network; integers and booleans keep their types.
        dtype: Such as ``float16``.
    """
    dtype_bits(dtype)
    layers = tuple(
        replace(layer, workload=None if layer.workload is None else _retype_workload(layer.workload, dtype))
        for layer in graph.layers
    )
    tensors = tuple(replace(tensor, dtype=_retyped(tensor.dtype, dtype)) for tensor in graph.tensors)
    return replace(graph, tensors=tensors, layers=layers)


def _retype_workload(work: Workload, dtype: str) -> Workload:
    def projection(old: Projection) -> Projection:
        return replace(old, dtype=_retyped(old.dtype, dtype))

    return replace(
        work,
        I=projection(work.I),
        W=projection(work.W),
        O=projection(work.O),
        out_dtype=_retyped(work.out_dtype, dtype),
        epilogue=replace(work.epilogue, extras=tuple(projection(extra) for extra in work.epilogue.extras)),
    )


def _retyped(old: str, new: str) -> str:
    return new if old.startswith(("float", "bfloat")) else old
