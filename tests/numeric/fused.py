"""Functions as the front end makes them: small Relax modules, legalised and fused by TVM."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax
from tvm.script import relax as R

Body = Callable[[relax.BlockBuilder, list[relax.Var]], relax.Expr]


def network(shapes: list[tuple[tuple[int, ...], str]], body: Body) -> tvm.IRModule:
    """A module whose ``main`` has one parameter per shape."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"p{i}", R.Tensor(shape, dtype)) for i, (shape, dtype) in enumerate(shapes)]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(body(builder, params))
        builder.emit_func_output(result)
    return builder.get()


def fuse(mod: tvm.IRModule) -> tvm.IRModule:
    """One TIR function per group of operators."""
    transform = relax.transform
    steps = [transform.LegalizeOps(), transform.AnnotateTIROpPattern(), transform.FuseOps(), transform.FuseTIR()]
    return tvm.transform.Sequential(steps)(mod)


def functions(mod: tvm.IRModule) -> list[tvm.tirx.PrimFunc]:
    """The TIR functions of a module, by name."""
    named = {var.name_hint: func for var, func in mod.functions.items()}
    return [named[name] for name in sorted(named) if isinstance(named[name], tvm.tirx.PrimFunc)]


def _relu_conv(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
    total = builder.emit(relax.op.nn.conv2d(p[0], p[1], padding=(1, 0, 2, 1), strides=2))
    return builder.emit(relax.op.nn.relu(builder.emit(relax.op.add(total, p[2]))))


def _swish_residual(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
    total = builder.emit(relax.op.nn.conv2d(p[0], p[1], padding=1))
    total = builder.emit(relax.op.add(total, p[0]))
    return builder.emit(relax.op.multiply(total, builder.emit(relax.op.sigmoid(total))))


def _depthwise_affine(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
    total = builder.emit(relax.op.nn.conv2d(p[0], p[1], padding=1, groups=6))
    centred = builder.emit(relax.op.subtract(total, p[2]))
    scale = builder.emit(relax.op.rsqrt(p[3]))
    return builder.emit(relax.op.clip(builder.emit(relax.op.multiply(centred, scale)), 0, 6))


def _integer_conv(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
    total = builder.emit(relax.op.nn.conv2d(p[0], p[1], padding=1, groups=2, out_dtype="int32"))
    total = builder.emit(relax.op.add(total, p[2]))
    shifted = builder.emit(relax.op.right_shift(total, relax.const(4, "int32")))
    limited = builder.emit(relax.op.minimum(shifted, relax.const(127, "int32")))
    return builder.emit(relax.op.astype(limited, "int8"))


def _nhwc(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
    total = builder.emit(
        relax.op.nn.conv2d(p[0], p[1], padding=1, dilation=2, data_layout="NHWC", kernel_layout="HWIO")
    )
    return builder.emit(relax.op.add(total, p[2]))


def _gelu_matmul(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
    total = builder.emit(relax.op.matmul(p[0], p[1]))
    return builder.emit(relax.op.nn.gelu(builder.emit(relax.op.add(total, p[2]))))


F, B = "float32", "int8"
NETWORKS: dict[str, tvm.IRModule] = {
    "conv, bias, relu": network([((1, 3, 12, 13), F), ((5, 3, 3, 2), F), ((1, 5, 1, 1), F)], _relu_conv),
    "conv, residual, swish": network([((1, 4, 7, 9), F), ((4, 4, 3, 3), F)], _swish_residual),
    "depthwise, batch norm, relu6": network(
        [((1, 6, 7, 9), F), ((6, 1, 3, 3), F), ((1, 6, 1, 1), F), ((1, 6, 1, 1), F)], _depthwise_affine
    ),
    "grouped int8 conv, requantised": network(
        [((2, 4, 6, 5), B), ((6, 2, 3, 3), B), ((1, 6, 1, 1), "int32")], _integer_conv
    ),
    "NHWC conv, bias": network([((1, 7, 8, 3), F), ((3, 3, 3, 5), F), ((5,), F)], _nhwc),
    "matmul, bias, gelu": network([((7, 13), F), ((13, 11), F), ((11,), F)], _gelu_matmul),
    "batched matmul": network(
        [((3, 7, 13), F), ((3, 13, 5), F)], lambda builder, p: builder.emit(relax.op.matmul(p[0], p[1]))
    ),
}
