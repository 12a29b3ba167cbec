"""Small networks in ONNX of blocks with squeeze-excite and hard activations, in the forms that exporters write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Emit = Callable[..., str]


@dataclass
class Writer:
    """Nodes and constants of a graph."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __call__(self, operator: str, *inputs: str, **attributes: object) -> str:
        """The result of a node."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, array: object) -> str:
        """Numbers."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def number(self, value: float) -> str:
        """One number."""
        return self.constant(np.float32(value))

    def weights(self, *shape: int) -> str:
        """As large as keeps what passes through."""
        terms = int(np.prod(shape[1:]))
        return self.constant((self.rng.standard_normal(shape) * np.sqrt(2 / terms)).astype("float32"))

    def bias(self, channels: int) -> str:
        """One number per channel."""
        return self.constant(self.rng.standard_normal(channels).astype("float32"))

    def conv(self, x: str, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        """With padding that keeps the size at stride 1."""
        return self(
            "Conv", x, self.weights(cout, cin // groups, kernel, kernel), self.bias(cout), kernel_shape=[kernel] * 2,
            pads=[kernel // 2] * 4, strides=[stride] * 2, group=groups,
        )  # fmt: skip


def _shifted(w: Writer, x: str) -> str:
    return w("Clip", w("Add", x, w.number(3)), w.number(0), w.number(6))


def _limited(w: Writer, x: str) -> str:
    return w("Min", w("Max", w("Add", x, w.number(3)), w.number(0)), w.number(6))


def _two_clips(w: Writer, x: str) -> str:
    return w("Clip", w("Clip", w("Add", x, w.number(3)), w.number(0)), "", w.number(6))


HARD_SWISH: dict[str, Callable[[Writer, str], str]] = {
    "operator": lambda w, x: w("HardSwish", x),
    "hard sigmoid": lambda w, x: w("Mul", x, w("HardSigmoid", x, alpha=1 / 6, beta=0.5)),
    "clip, divided last": lambda w, x: w("Div", w("Mul", x, _shifted(w, x)), w.number(6)),
    "clip, divided first": lambda w, x: w("Mul", x, w("Div", _shifted(w, x), w.number(6))),
    "two clips": lambda w, x: w("Div", w("Mul", x, _two_clips(w, x)), w.number(6)),
    "least and largest": lambda w, x: w("Mul", w("Mul", x, _limited(w, x)), w.number(1 / 6)),
}
"""``x * min(max(x + 3, 0), 6) / 6``."""

GATE: dict[str, Callable[[Writer, str], str]] = {
    "sigmoid": lambda w, x: w("Sigmoid", x),
    "operator": lambda w, x: w("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "clip, divided": lambda w, x: w("Div", _shifted(w, x), w.number(6)),
    "clip, multiplied": lambda w, x: w("Mul", _shifted(w, x), w.number(1 / 6)),
}
"""Between 0 and 1."""

POOL: dict[str, Callable[[Writer, str], str]] = {
    "operator": lambda w, x: w("GlobalAveragePool", x),
    "mean": lambda w, x: w("ReduceMean", x, w.constant(np.array([2, 3])), keepdims=1),
    "mean from behind": lambda w, x: w("ReduceMean", x, w.constant(np.array([-1, -2])), keepdims=1),
    "flat": lambda w, x: w("ReduceMean", x, w.constant(np.array([2, 3])), keepdims=0),
}
"""One number per channel."""


def _excited(w: Writer, x: str, channels: int, hidden: int, gate: str, pool: str) -> str:
    means, matrix = POOL[pool](w, x), pool == "flat"

    def product(data: str, cin: int, cout: int) -> str:
        if matrix:
            return w("Gemm", data, w.weights(cout, cin), w.bias(cout), transB=1)
        return w.conv(data, cin, cout, 1)

    share = GATE[gate](w, product(w("Relu", product(means, channels, hidden)), hidden, channels))
    if matrix:
        share = w("Reshape", share, w.constant(np.array([1, channels, 1, 1])))
    return w("Mul", share, x) if pool == "mean" else w("Mul", x, share)


@dataclass(frozen=True, kw_only=True)
class Block:
    """An inverted residual: wide, filtered per channel, weighed, narrow."""

    kernel: int
    wide: int
    out: int
    stride: int = 1
    is_hard: bool = True


SMALL = (
    Block(kernel=3, wide=8, out=8, is_hard=False),
    Block(kernel=3, wide=16, out=8),
    Block(kernel=5, wide=24, out=12, stride=2),
)


def network(
    blocks: Sequence[Block], size: int, *, swish: str = "operator", gate: str = "operator", pool: str = "operator"
) -> onnx.ModelProto:
    """Blocks behind a 3x3 convolution of stride 2 from 3 to as many channels as the first has.

    Args:
        blocks: In order.
        size: Rows and columns of the image.
        swish: One of ``HARD_SWISH``.
        gate: One of ``GATE``.
        pool: One of ``POOL``.
    """
    w = Writer(rng=np.random.default_rng(0))
    channels = blocks[0].wide
    x = HARD_SWISH[swish](w, w.conv("data", 3, channels, 3, 2))
    for block in blocks:
        act = HARD_SWISH[swish] if block.is_hard else lambda writer, y: writer("Relu", y)
        y = act(w, w.conv(x, channels, block.wide, 1)) if block.wide != channels else x
        y = act(w, w.conv(y, block.wide, block.wide, block.kernel, block.stride, block.wide))
        y = w.conv(_excited(w, y, block.wide, max(4, block.wide // 4), gate, pool), block.wide, block.out, 1)
        x = w("Add", y, x) if block.stride == 1 and channels == block.out else y
        channels = block.out
    graph = helper.make_graph(
        w.nodes, "squeeze-excite", [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)], w.constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
