"""Small networks whose layers may run as one, each about one thing a planner can trip over."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R

Emit = Callable[[relax.Expr], relax.Var]
Shape = tuple[int, ...]


def built(shapes: list[Shape], body: Callable[..., relax.Expr], *, dtype: str = "float32") -> tvm.IRModule:
    """A module whose ``main`` has one input, the first shape, and weights; ``body`` gets ``emit`` and all of them."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"p{i}", R.Tensor(shape, dtype)) for i, shape in enumerate(shapes)]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(body(builder.emit, *params))
        builder.emit_func_output(result)
    mod = builder.get()
    mod["main"] = mod["main"].with_attr("num_input", 1)
    return mod


def conv(emit: Emit, data: relax.Expr, weight: relax.Expr, **attrs: object) -> relax.Var:
    size = int(weight.ty.shape.values[-1])
    return emit(op.nn.relu(emit(op.nn.conv2d(data, weight, padding=size // 2, **attrs))))


def chain(emit: Emit, x: relax.Var, *weights: relax.Var) -> relax.Expr:
    for weight in weights:
        x = conv(emit, x, weight)
    return x


def two_outputs(emit: Emit, x: relax.Var, stem: relax.Var, first: relax.Var, *others: relax.Var) -> relax.Expr:
    shared = conv(emit, x, stem)
    return relax.Tuple([conv(emit, shared, first), chain(emit, shared, *others)])


def inner_output(emit: Emit, x: relax.Var, *weights: relax.Var) -> relax.Expr:
    middle = chain(emit, x, *weights[:2])
    return relax.Tuple([chain(emit, middle, *weights[2:]), middle])


def inception(
    emit: Emit, x: relax.Var, one: relax.Var, reduce: relax.Var, three: relax.Var, pooled: relax.Var
) -> relax.Expr:
    pool = emit(op.nn.max_pool2d(x, (3, 3), (1, 1), 1))
    branches = [conv(emit, x, one), chain(emit, x, reduce, three), conv(emit, pool, pooled)]
    return emit(op.concat(branches, axis=1))


def residual(emit: Emit, x: relax.Var, first: relax.Var, second: relax.Var, skip: relax.Var) -> relax.Expr:
    total = emit(op.nn.conv2d(conv(emit, x, first), second, padding=1))
    return emit(op.nn.relu(emit(op.add(total, emit(op.nn.conv2d(x, skip))))))


def inverted_bottleneck(emit: Emit, x: relax.Var, wide: relax.Var, deep: relax.Var, narrow: relax.Var) -> relax.Expr:
    expanded = conv(emit, x, wide)
    mixed = conv(emit, expanded, deep, groups=int(deep.ty.shape.values[0]))
    return emit(op.add(emit(op.nn.conv2d(mixed, narrow)), x))


def attention(emit: Emit, x: relax.Var, *weights: relax.Var) -> relax.Expr:
    """One head with projections; values are computed after probabilities in the order of arguments."""
    q, k, v = (emit(op.matmul(x, weight)) for weight in weights)
    scores = emit(op.divide(emit(op.matmul(q, emit(op.permute_dims(k, [0, 2, 1])))), relax.const(4.0)))
    return emit(op.matmul(emit(op.nn.softmax(scores, axis=-1)), v))


def quantised(emit: Emit, x: relax.Var, *weights: relax.Var) -> relax.Expr:
    for weight in weights:
        total = emit(op.nn.conv2d(x, weight, padding=1, out_dtype="int32"))
        shifted = emit(op.right_shift(total, relax.const(5, "int32")))
        x = emit(op.astype(emit(op.clip(shifted, -128, 127)), "int8"))
    return x


@I.ir_module
class _Branching:
    @R.function
    def main(
        x: R.Tensor((1, 4, 12, 12), "float32"),
        first: R.Tensor((8, 4, 3, 3), "float32"),
        second: R.Tensor((4, 8, 3, 3), "float32"),
        choice: R.Tensor((), "bool"),
    ) -> R.Tensor((1, 4, 12, 12), "float32"):
        with R.dataflow():
            hidden = R.nn.relu(R.nn.conv2d(x, first, padding=1))
            out = R.nn.relu(R.nn.conv2d(hidden, second, padding=1))
            R.output(out)
        if choice:
            result = R.add(out, x)
        else:
            result = R.multiply(out, x)
        return result


CHAIN = built([(1, 4, 9, 9), (8, 4, 3, 3), (8, 8, 3, 3), (4, 8, 1, 1)], chain)

NETWORKS: dict[str, tvm.IRModule] = {
    "two outputs": built([(1, 4, 9, 9), (8, 4, 3, 3), (4, 8, 1, 1), (6, 8, 1, 1), (4, 6, 3, 3)], two_outputs),
    "inner output": built([(1, 4, 12, 12), (8, 4, 3, 3), (8, 8, 1, 1), (8, 8, 3, 3), (4, 8, 1, 1)], inner_output),
    "inception": built([(1, 8, 10, 10), (4, 8, 1, 1), (4, 8, 1, 1), (6, 4, 3, 3), (2, 8, 1, 1)], inception),
    "residual": built([(1, 4, 12, 12), (8, 4, 3, 3), (8, 8, 3, 3), (8, 4, 1, 1)], residual),
    "bottleneck": built([(1, 6, 10, 10), (24, 6, 1, 1), (24, 1, 3, 3), (6, 24, 1, 1)], inverted_bottleneck),
    "attention": built([(2, 24, 16), (16, 16), (16, 16), (16, 16)], attention),
    "quantised": built([(1, 8, 10, 10), (8, 8, 3, 3), (8, 8, 3, 3)], quantised, dtype="int8"),
    "if": _Branching,
}
