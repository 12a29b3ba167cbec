"""Convolutions over volumes as convolutions over images.

The taps along the first axis of a volume become channels, and its output positions become a batch: the same sums in
the same number, over planes that are stacked before. A plane that several taps read is stacked once for each.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx.writer import Array, Writer, known_arrays, require_opset, with_nodes


def has_volumes(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether a graph convolves over three axes."""
    return any(_is_volume(node, shapes) for node in model.graph.node)


def _is_volume(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    return node.op_type == "Conv" and node.domain in ("", "ai.onnx") and len(shapes.get(node.input[0], ())) == 5


def stack_planes(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], origin: str) -> onnx.ModelProto:
    """Write every convolution over a volume as one over images; those whose weights are not known stay.

    Args:
        model: Its constants are folded.
        shapes: Of its tensors, as far as known.
        origin: What errors call the model.

    Raises:
        ModelError: The model is too old.
    """
    opset = require_opset(model, "convolutions over volumes", origin)
    known = known_arrays(model)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    for position, node in enumerate(model.graph.node):
        if not _is_volume(node, shapes) or node.input[1] not in known:
            nodes.append(node)
            continue
        writer = Writer(prefix=f"conv{position}", opset=opset, known=known)
        _write(writer, node, shapes[node.input[0]], origin)
        nodes += writer.nodes
        constants |= writer.constants
    return with_nodes(model, nodes, constants)


def _write(writer: Writer, node: onnx.NodeProto, shape: tuple[int, ...], origin: str) -> None:
    attributes: dict[str, Any] = {attr.name: helper.get_attribute_value(attr) for attr in node.attribute}
    weights = writer.known[node.input[1]]
    window = weights.shape[2:]
    strides, dilation = attributes.get("strides", [1] * 3), attributes.get("dilations", [1] * 3)
    spans = [dilation[axis] * (window[axis] - 1) + 1 for axis in range(3)]
    pads = _pads(attributes, shape[2:], spans, strides)
    outputs = [(shape[2 + a] + pads[a] + pads[3 + a] - spans[a]) // strides[a] + 1 for a in range(3)]
    if min(outputs) < 1:
        raise ModelError(
            f"{origin}: cannot import: node {node.name or node.output[0]!r} (operator Conv): no output fits"
        )
    volume = node.input[0]
    if pads[0] or pads[3]:
        volume = writer.padded(volume, [0, 0, pads[0], 0, 0, 0, 0, pads[3], 0, 0])
    taps = []
    for tap in range(window[0]):
        start = tap * dilation[0]
        planes = writer.sliced(volume, start, start + (outputs[0] - 1) * strides[0] + 1, axis=2, step=strides[0])
        taps.append(writer.unsqueezed(planes, 2))
    stacked = writer.emit("Transpose", writer.concat(taps, 2), perm=[0, 3, 1, 2, 4, 5])
    images = writer.emit(
        "Reshape", stacked, writer.integers(shape[0] * outputs[0], shape[1] * window[0], shape[3], shape[4])
    )
    flat = writer.constant(weights.reshape(weights.shape[0], -1, *window[1:]))
    inputs = [images, flat, *(name for name in node.input[2:3] if name)]
    found = writer.emit(
        "Conv", *inputs, strides=list(strides[1:]), dilations=list(dilation[1:]), pads=[*pads[1:3], *pads[4:]],
        group=attributes.get("group", 1),
    )  # fmt: skip
    split = writer.emit("Reshape", found, writer.integers(shape[0], outputs[0], weights.shape[0], *outputs[1:]))
    writer.emit("Transpose", split, perm=[0, 2, 1, 3, 4], out=node.output[0])


def _pads(attributes: dict[str, Any], extents: tuple[int, ...], spans: list[int], strides: list[int]) -> list[int]:
    """In front of every axis, then behind every axis."""
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto in ("NOTSET", "VALID"):
        return list(attributes.get("pads", [0] * 6))
    totals = [
        max(0, (-(-extent // stride) - 1) * stride + span - extent)
        for extent, stride, span in zip(extents, strides, spans, strict=True)
    ]
    less = [total // 2 for total in totals]
    more = [total - part for total, part in zip(totals, less, strict=True)]
    return less + more if auto == "SAME_UPPER" else more + less
