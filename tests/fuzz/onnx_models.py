"""Small valid ONNX graphs of odd shape, and the check that an imported one computes what ONNX's reference computes."""

from __future__ import annotations

from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.fuzz.outcome import REFUSED, RIGHT
from tvm_spm.deploy import runtime
from tvm_spm.errors import SpmError
from tvm_spm.frontend import extract, load_model

MAX_MEMORY_BYTES = 2**28

NAMES = ("x", "", "[/lab]", "a\nb", "\x1b[31m", "caf\u00e9", "a b", "main", "$x$", "0", "%s", "x" * 300, "..", "a/b")
"""Names that are odd in a terminal, a path, an identifier or a format."""


class Builder:
    """Grows a graph of float tensors node by node; every tensor's shape is known."""

    def __init__(self, random: Random) -> None:
        self.random, self.nodes, self.constants = random, [], []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.inputs: list[str] = []
        self._array_rng = np.random.default_rng(random.randrange(2**32))
        for _ in range(random.choice((1, 1, 2, 3))):
            rank = random.choice((0, 1, 2, 2, 3, 4, 4, 5))
            self.inputs.append(self._new(tuple(random.choice((1, 1, 2, 3, 5)) for _ in range(rank))))

    def _new(self, shape: tuple[int, ...]) -> str:
        odd = self.random.choice(NAMES) if self.random.random() < 0.15 else ""
        name = f"{odd}t{len(self.shapes)}"
        self.shapes[name] = shape
        return name

    def constant(self, shape: tuple[int, ...]) -> str:
        """Small numbers."""
        name = self._new(shape)
        values = self._array_rng.uniform(-1, 1, shape).astype(np.float32)
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def whole(self, values: list[int]) -> str:
        """A constant of whole numbers; not in ``shapes``, so that no operator takes it for data."""
        name = f"i{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def add(self, operator: str, inputs: list[str], shape: tuple[int, ...], **attributes: object) -> str:
        """One node; returns its result."""
        result = self._new(shape)
        self.nodes.append(helper.make_node(operator, inputs, [result], **attributes))
        return result

    def step(self) -> None:
        """A random operator on a random tensor that it takes."""
        data = self.random.choice(list(self.shapes))
        shape = self.shapes[data]
        choices = [self._unary, self._binary, self._reshape, self._transpose, self._reduce, self._concat]
        if len(shape) >= 2:
            choices += [self._matmul, self._matmul, self._softmax, self._slice]
        if len(shape) == 4:
            choices += [self._conv, self._conv, self._conv, self._pool, self._pad]
        self.random.choice(choices)(data, shape)

    def _unary(self, data: str, shape: tuple[int, ...]) -> None:
        operator = self.random.choice(
            ("Relu", "Identity", "Sigmoid", "Tanh", "Neg", "Abs", "Dropout", "Exp", "LeakyRelu")
        )
        self.add(operator, [data], shape)

    def _binary(self, data: str, shape: tuple[int, ...]) -> None:
        kind = self.random.randrange(4)
        if kind == 0:
            other = data
        elif kind == 1:
            other = self.constant(())
        else:
            other = self.constant(
                tuple(self.random.choice((1, extent)) for extent in shape[self.random.randrange(2) :])
            )
        pair = [data, other] if self.random.random() < 0.7 else [other, data]
        self.add(self.random.choice(("Add", "Mul", "Sub", "Max", "Min")), pair, shape)

    def _reshape(self, data: str, shape: tuple[int, ...]) -> None:
        flat = int(np.prod(shape))
        divisor = self.random.choice([d for d in range(1, flat + 1) if flat % d == 0])
        new = self.random.choice(((flat,), (divisor, flat // divisor), (1, divisor, flat // divisor), (1, 1, flat, 1)))
        self.add("Reshape", [data, self.whole([-1, *new[1:]] if self.random.random() < 0.3 else list(new))], new)

    def _transpose(self, data: str, shape: tuple[int, ...]) -> None:
        perm = self.random.sample(range(len(shape)), len(shape))
        if perm:
            self.add("Transpose", [data], tuple(shape[axis] for axis in perm), perm=perm)

    def _reduce(self, data: str, shape: tuple[int, ...]) -> None:
        if shape:
            axis = self.random.randrange(len(shape))
            keep = self.random.randrange(2)
            new = (*shape[:axis], *([1] if keep else []), *shape[axis + 1 :])
            operator = self.random.choice(("ReduceMean", "ReduceMax", "ReduceMin"))
            self.add(operator, [data], new, axes=[self.random.choice((axis, axis - len(shape)))], keepdims=keep)

    def _concat(self, data: str, shape: tuple[int, ...]) -> None:
        if shape:
            axis = self.random.randrange(len(shape))
            self.add("Concat", [data, data], (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]), axis=axis)

    def _matmul(self, data: str, shape: tuple[int, ...]) -> None:
        n = self.random.choice((1, 2, 7))
        if len(shape) == 2 and self.random.random() < 0.4:
            transposed = self.random.randrange(2)
            weight = self.constant((n, shape[1]) if transposed else (shape[1], n))
            extra = [self.constant(self.random.choice(((n,), (1, n), ())))] if self.random.random() < 0.5 else []
            self.add("Gemm", [data, weight, *extra], (shape[0], n), transB=transposed)
            return
        self.add("MatMul", [data, self.constant((shape[-1], n))], (*shape[:-1], n))

    def _softmax(self, data: str, shape: tuple[int, ...]) -> None:
        self.add("Softmax", [data], shape, axis=self.random.randrange(-len(shape), len(shape)))

    def _slice(self, data: str, shape: tuple[int, ...]) -> None:
        axis = self.random.randrange(len(shape))
        start = self.random.randrange(shape[axis])
        new = (*shape[:axis], shape[axis] - start, *shape[axis + 1 :])
        self.add("Slice", [data, self.whole([start]), self.whole([2**31]), self.whole([axis])], new)

    def _conv(self, data: str, shape: tuple[int, ...]) -> None:
        n, channels, rows, cols = shape
        groups = self.random.choice((1, 1, channels))
        filters = groups * self.random.choice((1, 2, 3))
        taps = [self.random.choice((1, 2, 3)), self.random.choice((1, 2, 3))]
        stride, pads = self.random.choice((1, 1, 2)), [self.random.randrange(3) for _ in range(4)]
        out = [
            (extent + pads[axis] + pads[axis + 2] - taps[axis]) // stride + 1
            for axis, extent in enumerate((rows, cols))
        ]
        if min(out) < 1 or rows + pads[0] + pads[2] < taps[0] or cols + pads[1] + pads[3] < taps[1]:
            return
        inputs = [data, self.constant((filters, channels // groups, *taps))]
        inputs += [self.constant((filters,))] if self.random.random() < 0.5 else []
        self.add("Conv", inputs, (n, filters, *out), group=groups, strides=[stride, stride], pads=pads)

    def _pool(self, data: str, shape: tuple[int, ...]) -> None:
        if self.random.random() < 0.3:
            self.add("GlobalAveragePool", [data], (*shape[:2], 1, 1))
        elif min(shape[2:]) >= 2:
            new = (*shape[:2], shape[2] - 1, shape[3] - 1)
            self.add(self.random.choice(("MaxPool", "AveragePool")), [data], new, kernel_shape=[2, 2])

    def _pad(self, data: str, shape: tuple[int, ...]) -> None:
        self.add("Pad", [data, self.whole([0, 0, 1, 0, 0, 0, 0, 1])], (*shape[:2], shape[2] + 1, shape[3] + 1))

    def model(self) -> onnx.ModelProto:
        """The graph with one to three of its tensors as outputs, now and then an input or a constant."""
        made = [name for node in self.nodes for name in node.output]
        outputs = list(dict.fromkeys(self.random.choices(made, k=self.random.choice((1, 1, 2)))))
        if self.random.random() < 0.1:
            outputs.append(self.random.choice([name for name in self.shapes if name not in outputs]))

        def info(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shapes[name])

        graph = helper.make_graph(
            self.nodes,
            self.random.choice(NAMES),
            [info(name) for name in self.inputs],
            [info(name) for name in outputs],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def odd_model(random: Random, most_nodes: int = 8) -> onnx.ModelProto:
    """A valid model."""
    builder = Builder(random)
    goal = random.randint(1, most_nodes)
    while len(builder.nodes) < goal:
        builder.step()
    return builder.model()


def check_import(model: onnx.ModelProto | str, *, is_run: bool) -> str:
    """Import a model; where that succeeds its outputs have the shapes, and if run the numbers, of the reference."""
    try:
        extraction = extract(load_model(model, max_memory_bytes=MAX_MEMORY_BYTES))
    except SpmError:
        return REFUSED
    if is_run:
        proto = onnx.load(model) if isinstance(model, str) else model
        data = inputs_of(proto)
        with np.errstate(all="ignore"):
            expected = ReferenceEvaluator(proto).run(None, data)
        found = runtime.run(runtime.build(extraction.mod, "edge-256"), list(data.values()))
        assert len(found) == len(expected), (len(found), len(expected))
        for got, want in zip(found, expected, strict=True):
            assert got.dtype == want.dtype, (got.dtype, want.dtype)
            assert got.shape == want.shape, (got.shape, want.shape)
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    return RIGHT


def inputs_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Random data for every input that is no constant."""
    rng = np.random.default_rng(5)
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        value.name: rng.uniform(-1, 1, [dim.dim_value for dim in value.type.tensor_type.shape.dim]).astype(
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        )
        for value in model.graph.input
        if value.name not in constants
    }
