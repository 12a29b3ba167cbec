"""A built-in network in 8-bit integers: int8 between layers, int8 weights, int32 sums.

What a layer makes is ``integer * scale``; zero points are 0. A sum takes its bias as int32, then the element-wise work
behind it as float32, and is rounded to int8 (halves to even) where it leaves the layer: all of that is the layer's
epilogue. Softmax, normalisation and means compute in float32 and read and write int8.

The weights of a built-in network hold no numbers, so scales follow from a rule: all of int8 stands for ``DEVIATIONS``
standard deviations of a tensor, rounded to a power of two so that equal layers stay equal tasks, and a weight keeps the
deviation of what it multiplies. ``frontend.inputs`` draws integers to fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import tvm
from tvm import relax, te

from tvm_spm.frontend.models import integer_vectors as vectors
from tvm_spm.frontend.models.curves import deviation_behind, gelu, sigmoid, silu
from tvm_spm.frontend.models.integer_values import LARGEST, IntegerValue
from tvm_spm.frontend.relay.operators.convolution import conv_attrs, convolve_transposed
from tvm_spm.frontend.relay.operators.quantised_layers import convolve_integers, multiply_integers
from tvm_spm.frontend.relay.operators.registry import Attrs
from tvm_spm.frontend.relay.tensors import Builder, Tensor

_MAX_CONSTANT_BYTES = 2**30

_IN_PLACE = (
    "relax.add", "relax.clip", "relax.multiply", "relax.nn.gelu", "relax.nn.relu", "relax.nn.silu", "relax.sigmoid",
    "relax.tanh",
)  # fmt: skip
"""Element-wise operators; behind a layer they belong to its epilogue."""

_MOVES = (
    "relax.broadcast_to", "relax.flip", "relax.image.resize2d", "relax.nn.max_pool2d", "relax.permute_dims",
    "relax.reshape", "relax.split", "relax.strided_slice",
)  # fmt: skip
"""Operators that choose among numbers."""

_LAYERS = ("relax.matmul", "relax.nn.conv2d", "relax.nn.conv2d_transpose")

_HIDES = -1e3
"""A constant with numbers below is a mask of a softmax."""

_RECTIFIED = 0.7
"""Deviation behind a ReLU and its kind; of the root of the mean square, which is what counts here."""


def as_integers(mod: tvm.IRModule) -> tvm.IRModule:
    """A built-in network in float32 as one in int8.

    Args:
        mod: A module whose ``main`` takes inputs and then weights, as ``build_model`` makes it.

    Returns:
        The same layers. Inputs are int8, and so are results that other layers read too; other results are float32.
        Biases are int32, what normalisations scale and shift by float32, all other weights int8.
    """
    return _Writer(mod["main"]).written()


class _Writer:
    """Writes ``main`` again, binding by binding."""

    def __init__(self, main: relax.Function) -> None:
        self._main = main
        self._bb = relax.BlockBuilder()
        self._b = Builder(_MAX_CONSTANT_BYTES, block_builder=self._bb)
        self._bindings = [binding for block in main.body.blocks for binding in block.bindings]
        self._makers = {binding.var: binding.value for binding in self._bindings}
        self._readers: dict[relax.Var, list[relax.Binding]] = {}
        for binding in self._bindings:
            for var in relax.analysis.free_vars(binding.value):
                self._readers.setdefault(var, []).append(binding)
        self._values: dict[relax.Var, IntegerValue] = {}
        self._num_layers = 0

    def written(self) -> tvm.IRModule:
        """The module."""
        num_inputs = int(self._main.attrs["num_input"])
        params = []
        for index, param in enumerate(self._main.params):
            dtype = "int8" if index < num_inputs else self._dtype_of(param)
            made = relax.Var(param.name, relax.TensorType(param.ty.shape, dtype))
            value = IntegerValue(expr=made)
            self._values[param] = replace(value, scale=value.step) if dtype == "int8" else value
            params.append(made)
        with self._bb.function("main", params, attrs={"num_input": num_inputs}):
            with self._bb.dataflow():
                for binding in self._bindings:
                    self._values[binding.var] = self._stored(binding.var, self._written(binding.value))
                outputs = self._bb.emit_output(self._output(self._main.body.body))
            self._bb.emit_func_output(outputs)
        return self._bb.get()

    def _output(self, expr: relax.Expr) -> relax.Expr:
        """What leaves the network: int8 where layers read it too, otherwise numbers."""
        value = self._values[expr]
        if isinstance(value.expr, relax.Tuple):
            return value.expr
        return value.expr if value.dtype == "int8" else self._numbers(value)

    def _dtype_of(self, param: relax.Var) -> str:
        """Biases are added to sums, normalisations take their vectors as they are; anything else multiplies."""
        readers = {_operator(binding.value) for binding in self._readers.get(param, ())}
        wide = sum(int(extent) > 1 for extent in param.ty.shape.values)
        if readers & {"relax.nn.layer_norm", "relax.nn.rms_norm"}:
            return "float32"
        return "int32" if wide < 2 and readers <= {"relax.add", "relax.reshape"} else "int8"

    def _stored(self, var: relax.Var, value: IntegerValue) -> IntegerValue:
        """A result as int8, unless the layer that makes it goes on with it, or it leaves the network."""
        readers = self._readers.get(var, [])
        if not isinstance(value.expr.ty, relax.TensorType) or value.mask is not None or value.dtype == "int8":
            return value
        if not readers or isinstance(value.expr, tvm.ir.GenericConst) or self._is_weight(var):
            return value
        (first, *others), extents = readers, list(var.ty.shape.values)
        goes_on = not others and (
            _operator(first.value) == _RESULT
            or (_operator(first.value) in _IN_PLACE and list(first.var.ty.shape.values) == extents)
        )
        return value if goes_on else replace(self._integers(value), layer=0)

    def _written(self, expr: relax.Expr) -> IntegerValue:
        if isinstance(expr, relax.Var):
            return self._values[expr]
        if isinstance(expr, tvm.ir.GenericConst):
            return IntegerValue.constant(expr)
        if isinstance(expr, relax.TupleGetItem):
            whole = self._values[expr.tuple_value]
            return replace(whole, expr=self._bb.emit(relax.TupleGetItem(whole.expr, expr.index)))
        if isinstance(expr, relax.Tuple):
            return IntegerValue(expr=relax.Tuple([self._output(field) for field in expr.fields]))
        name = _operator(expr)
        if name in _LAYERS:
            return self._layer(expr, name)
        if name == "relax.add":
            return self._add(expr)
        if name in _MOVES:
            return self._moved(expr)
        return _OTHERS[name](self, expr)

    # Layers

    def _layer(self, call: relax.Call, name: str) -> IntegerValue:
        left, right = (self._integers(self._values[arg]) for arg in call.args[:2])
        terms = _terms(call, name)
        if self._is_weight(call.args[1]):
            right = replace(right, scale=right.scale / math.sqrt(terms), deviation=1 / math.sqrt(terms))
        if name == "relax.matmul":
            sums = multiply_integers(self._b, left.tensor, right.tensor, self._zeros())
        else:
            sums = self._convolved(call, name, left.tensor, right.tensor)
        deviation = left.deviation * right.deviation * math.sqrt(terms)
        scale, self._num_layers = left.scale * right.scale, self._num_layers + 1
        return IntegerValue(expr=self._b.expr(sums), scale=scale, deviation=deviation, layer=self._num_layers)

    def _convolved(self, call: relax.Call, name: str, data: Tensor, kernel: Tensor) -> Tensor:
        given = {key: tuple(int(each) for each in call.attrs[key]) for key in ("strides", "padding", "dilation")}
        is_transposed = name.endswith("transpose")
        if is_transposed:
            given["output_padding"] = tuple(int(each) for each in call.attrs.output_padding)
        attrs = Attrs(conv_attrs(2, transposed=is_transposed)).but(groups=int(call.attrs.groups), **given)
        if is_transposed:
            return convolve_transposed(self._b, attrs.but(out_dtype="int32"), data, kernel, 2)
        return convolve_integers(self._b, attrs, data, kernel, self._zeros())

    def _zeros(self) -> tuple[Tensor, Tensor]:
        zero = self._b.const(np.zeros((), np.int8))
        return zero, zero

    def _is_weight(self, expr: relax.Expr) -> bool:
        """Whether it is a parameter behind the inputs, or one seen in another order."""
        inputs = int(self._main.attrs["num_input"])
        if any(expr.same_as(param) for param in self._main.params[inputs:]):
            return True
        maker = self._makers.get(expr)
        return isinstance(maker, relax.Call) and _operator(maker) in _MOVES and self._is_weight(maker.args[0])

    # Element-wise work

    def _add(self, call: relax.Call) -> IntegerValue:
        left, right = (self._values[arg] for arg in call.args)
        if right.dtype == "int32" and self._is_weight(call.args[1]) and left.dtype == "int32":
            return replace(left, expr=self._emit(relax.op.add(left.expr, right.expr)))
        if isinstance(right.expr, tvm.ir.GenericConst) and right.expr.value.numpy().min() < _HIDES:
            return replace(self._integers(left), mask=right.expr)
        return replace(
            self._combined("add", left, right, vectors.add), deviation=math.hypot(left.deviation, right.deviation)
        )

    def multiply(self, call: relax.Call) -> IntegerValue:
        """A scale is one of the sums; two tensors are multiplied as numbers."""
        left, right = (self._values[arg] for arg in call.args)
        if isinstance(right.expr, tvm.ir.GenericConst) and not right.expr.ty.ndim:
            factor = float(right.expr.value.numpy())
            return replace(left, scale=left.scale * factor, deviation=left.deviation * abs(factor))
        found = self._combined("multiply", left, right, vectors.multiply)
        return replace(found, deviation=left.deviation * min(right.deviation, right.largest))

    def _combined(
        self,
        name: str,
        left: IntegerValue,
        right: IntegerValue,
        compute: Callable[[vectors.Scaled, vectors.Scaled], te.Tensor],
    ) -> IntegerValue:
        """Two tensors; int8 is read as such, not widened before.

        ``FuseOps`` takes it to the layer whose numbers are written first: of two layers to the first one, and what the
        other makes leaves it as int8.
        """
        if left.layer and right.layer:
            first, second = sorted((left, right), key=lambda value: value.layer)
            kept = IntegerValue(expr=self._numbers(first), layer=first.layer)
            moved = replace(self._integers(second), layer=0)
            left, right = (kept, moved) if first is left else (moved, kept)
        operands = [
            value if value.dtype == "int8" else IntegerValue(expr=self._numbers(value)) for value in (left, right)
        ]

        def both(one: te.Tensor, other: te.Tensor) -> te.Tensor:
            return compute((one, operands[0].scale), (other, operands[1].scale))

        expr = self._bb.emit_te(both, *(value.expr for value in operands), primfunc_name_hint=name)
        return IntegerValue(expr=expr, layer=max(left.layer, right.layer))

    def relu(self, call: relax.Call) -> IntegerValue:
        """Of sums, since a scale is positive."""
        value = self._values[call.args[0]]
        return replace(value, expr=self._emit(relax.op.nn.relu(value.expr)), deviation=value.deviation * _RECTIFIED)

    def clip(self, call: relax.Call) -> IntegerValue:
        """Between two numbers."""
        value = self._values[call.args[0]]
        low, high = (float(arg.value.value if hasattr(arg.value, "value") else arg.value) for arg in call.args[1:])
        made, largest = self._emit(relax.op.clip(self._numbers(value), low, high)), max(abs(low), abs(high))
        deviation = min(value.deviation * _RECTIFIED, largest)
        return IntegerValue(expr=made, deviation=deviation, largest=largest, layer=value.layer)

    def gated(self, call: relax.Call) -> IntegerValue:
        """A smooth ReLU: about half of small numbers is left."""
        value = self._values[call.args[0]]
        made = self._emit(relax.Call(call.op, [self._numbers(value)], call.attrs))
        curve = silu if call.op.name == "relax.nn.silu" else gelu
        return IntegerValue(expr=made, deviation=deviation_behind(curve, value.deviation), layer=value.layer)

    def saturating(self, call: relax.Call) -> IntegerValue:
        """Never above 1."""
        value = self._values[call.args[0]]
        made = self._emit(relax.Call(call.op, [self._numbers(value)], call.attrs))
        curve = sigmoid if call.op.name == "relax.sigmoid" else math.tanh
        return IntegerValue(
            expr=made, deviation=deviation_behind(curve, value.deviation), largest=1.0, layer=value.layer
        )

    # Whatever else reads int8

    def _moved(self, call: relax.Call) -> IntegerValue:
        value = self._values[call.args[0]]
        return replace(value, expr=self._emit(relax.Call(call.op, [value.expr, *call.args[1:]], call.attrs)))

    def concat(self, call: relax.Call) -> IntegerValue:
        """All parts in the coarsest of their scales."""
        parts = [self._integers(self._values[field]) for field in call.args[0].fields]
        widest = max(parts, key=lambda part: part.scale)
        alike = [self._rounded(part, widest.scale) if part.scale != widest.scale else part for part in parts]
        made = self._emit(relax.op.concat([part.expr for part in alike], axis=int(call.attrs.axis)))
        deviation = max(part.deviation for part in parts)
        return replace(widest, expr=made, deviation=deviation)

    def mean(self, call: relax.Call) -> IntegerValue:
        """Over positions; numbers behind a ReLU do not cancel."""
        value = self._integers(self._values[call.args[0]])
        axes, keeps = [int(axis) for axis in call.attrs.axis], bool(call.attrs.keepdims)
        return self._vector(
            "mean", value, [], replace(value, deviation=value.deviation * _RECTIFIED),
            lambda data: vectors.mean(data, axes, keepdims=keeps),
        )  # fmt: skip

    def softmax(self, call: relax.Call) -> IntegerValue:
        """Shares of a row; none is taken to be above 16 times their mean."""
        value = self._integers(self._values[call.args[0]])
        share = 1 / int(value.expr.ty.shape.values[-1])
        mask = [] if value.mask is None else [value.mask]
        made = IntegerValue(expr=value.expr, deviation=2 * share, largest=min(1.0, 16 * share))
        return self._vector("softmax", value, mask, made, vectors.softmax)

    def layer_norm(self, call: relax.Call) -> IntegerValue:
        """Deviation 1."""
        value = self._integers(self._values[call.args[0]])
        vector = [self._values[arg].expr for arg in call.args[1:]]
        axes, epsilon = [int(axis) for axis in call.attrs.axes], float(call.attrs.epsilon)
        return self._vector(
            "layer_norm", value, vector, IntegerValue(expr=value.expr),
            lambda data, gamma, beta: vectors.layer_norm(data, gamma, beta, axes, epsilon),
        )  # fmt: skip

    def rms_norm(self, call: relax.Call) -> IntegerValue:
        """Deviation 1."""
        value, weight = self._integers(self._values[call.args[0]]), self._values[call.args[1]].expr
        axes, epsilon = [int(axis) for axis in call.attrs.axes], float(call.attrs.epsilon)
        return self._vector(
            "rms_norm", value, [weight], IntegerValue(expr=value.expr),
            lambda data, gamma: vectors.rms_norm(data, gamma, axes, epsilon),
        )  # fmt: skip

    def _vector(
        self,
        name: str,
        value: IntegerValue,
        others: Sequence[relax.Expr],
        made: IntegerValue,
        compute: Callable[..., te.Tensor],
    ) -> IntegerValue:
        """One function that reads int8, computes in float32 and writes int8."""

        def whole(data: te.Tensor, *rest: te.Tensor) -> te.Tensor:
            return vectors.rounded(compute(vectors.numbers(data, value.scale), *rest), made.step)

        expr = self._bb.emit_te(whole, value.expr, *others, primfunc_name_hint=name)
        return replace(made, expr=expr, scale=made.step, mask=None)

    # Integers and numbers

    def _numbers(self, value: IntegerValue) -> relax.Expr:
        """As float32."""
        expr = value.expr
        if value.dtype != "float32":
            expr = self._emit(relax.op.astype(expr, "float32"))
        return expr if value.scale == 1.0 else self._emit(relax.op.multiply(expr, _scalar(value.scale)))

    def _integers(self, value: IntegerValue) -> IntegerValue:
        """As int8."""
        return value if value.dtype == "int8" else self._rounded(value, value.step)

    def _rounded(self, value: IntegerValue, step: float) -> IntegerValue:
        """As int8 of a scale: one product, halves to even, and what does not fit becomes the nearest that does."""
        numbers = self._numbers(replace(value, scale=value.scale / step))
        whole = self._emit(relax.op.clip(self._emit(relax.op.round(numbers)), -LARGEST - 1, LARGEST))
        return replace(value, expr=self._emit(relax.op.astype(whole, "int8")), scale=step)

    def _emit(self, expr: relax.Expr) -> relax.Var:
        return self._bb.emit(expr)


_RESULT = "result"
"""Stands for the operator where the network ends."""

_OTHERS: dict[str, Callable[[_Writer, relax.Call], IntegerValue]] = {
    "relax.clip": _Writer.clip, "relax.concat": _Writer.concat, "relax.mean": _Writer.mean,
    "relax.multiply": _Writer.multiply, "relax.nn.gelu": _Writer.gated, "relax.nn.layer_norm": _Writer.layer_norm,
    "relax.nn.relu": _Writer.relu, "relax.nn.rms_norm": _Writer.rms_norm, "relax.nn.silu": _Writer.gated,
    "relax.nn.softmax": _Writer.softmax,
    "relax.sigmoid": _Writer.saturating, "relax.tanh": _Writer.saturating,
}  # fmt: skip


def _operator(expr: relax.Expr) -> str:
    if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
        return str(expr.op.name)
    return _RESULT if isinstance(expr, (relax.Var, relax.Tuple)) else ""


def _terms(call: relax.Call, name: str) -> int:
    """Of one sum."""
    shape = [int(extent) for extent in call.args[1].ty.shape.values]
    if name == "relax.matmul":
        return shape[-2]
    if name == "relax.nn.conv2d":
        return math.prod(shape[1:])
    strides = [int(each) for each in call.attrs.strides]
    return max(1, shape[0] * math.prod(shape[2:]) // math.prod(strides))


def _scalar(value: float) -> relax.Expr:
    return relax.const(np.float32(value))
