"""The ``QuantizeLinear`` behind a layer of integers, whose scale joins those in front into one factor.

Runtimes execute such a layer as ``QLinearConv``, ``QLinearMatMul`` or ``QGemm``: the sum as float32 times one factor is
defined to the last bit. The float32 graph that it stands for is not, since the order of its sums is open.

Before::

    QuantizeLinear(Relu(sums * scale), step, zero)

After::

    QuantizeLinear(Relu(sums * (scale / step)), 1, zero)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from tvm_spm.frontend.onnx.in_place import Floats, NodeInPlace
from tvm_spm.frontend.onnx.writer import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Requantised:
    """Where the result of a layer becomes bytes.

    Attributes:
        step: What one is worth.
        last: The ``QuantizeLinear``, by the name of its result.
        clip: A ``Clip`` in between that takes off nothing which the bytes would hold, by the name of its result.
    """

    step: Floats
    last: str
    clip: str = ""


class Requantisations:
    """Those of a model.

    Args:
        model: Its nodes; every tensor that leaves it counts as read.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {value.name for value in model.graph.output}
        self._joined: set[str] = set()

    def behind(self, name: str, known: Mapping[str, Array]) -> Requantised | None:
        """What makes a tensor bytes, maybe behind a ReLU or a limit, if nothing else reads it."""
        first = self._reader(name)
        clip = first if first is not None and first.op_type in ("Clip", "Relu") else None
        last = first if clip is None else self._reader(clip.output[0])
        if last is None or last.op_type != "QuantizeLinear" or last.input[0] != (clip.output[0] if clip else name):
            return None
        step = known.get(last.input[1])
        if (
            step is None
            or step.dtype != np.float32
            or step.size != 1
            or any(attr.name != "axis" for attr in last.attribute)
        ):
            return None
        if clip is None or clip.op_type == "Relu":
            return Requantised(step=step.reshape(()).astype(np.float32), last=last.output[0])
        found = Requantised(step=step.reshape(()).astype(np.float32), last=last.output[0], clip=clip.output[0])
        return found if _is_all_kept(clip, last, known) else None

    def join(self, requantised: Requantised) -> None:
        """The layer in front scales its sums to steps."""
        self._joined |= {requantised.last, requantised.clip}

    def is_joined(self, node: onnx.NodeProto) -> bool:
        """Whether the scale of a node went to the layer in front."""
        return node.op_type in ("Clip", "QuantizeLinear") and node.output[0] in self._joined

    def _reader(self, name: str) -> onnx.NodeProto | None:
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._outputs and not readers[0].domain else None


def without_scale(each: NodeInPlace) -> None:
    """In the place of a node whose scale went to the layer in front."""
    if each.node.op_type == "Clip":
        each.writer.emit("Identity", each.input(0), out=each.out)
        return
    one = each.writer.constant(np.ones((), np.float32))
    inputs = [each.input(0), one, *([each.input(2)] if each.input(2) else [])]
    each.writer.nodes.append(helper.make_node("QuantizeLinear", inputs, [each.out]))


def _is_all_kept(clip: onnx.NodeProto, last: onnx.NodeProto, known: Mapping[str, Array]) -> bool:
    """Whether what lies beyond the limits becomes the smallest or the largest byte anyway."""
    zero = known.get(last.input[2]) if len(last.input) > 2 else np.zeros((), np.uint8)
    limits = {attr.name: float(attr.f) for attr in clip.attribute}
    for key, name in zip(("min", "max"), clip.input[1:], strict=False):
        if name and (name not in known or known[name].dtype != np.float32):
            return False
        if name:
            limits[key] = float(known[name].reshape(-1)[0])
    if zero is None or str(zero.dtype) not in ("int8", "uint8"):
        return False
    step, lowest = known[last.input[1]].astype(np.float32).reshape(()), -128 if zero.dtype == np.int8 else 0
    numbers = {key: np.rint(np.float32(limit) / step) + zero.astype(np.int64) for key, limit in limits.items()}
    return bool(numbers.get("min", -np.inf) <= lowest and numbers.get("max", np.inf) >= lowest + 255)
