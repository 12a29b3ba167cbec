"""Activations of recurrent layers, written as ONNX operators."""

from __future__ import annotations

from collections.abc import Callable

from tvm_spm.frontend.onnx.writer import Array, Writer

DEFAULT_ALPHA = {"LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "Elu": 1.0, "HardSigmoid": 0.2}
DEFAULT_BETA = {"HardSigmoid": 0.5}

Activation = Callable[[Writer, str, "Array | None", "Array | None"], str]


def _plain(operator: str) -> Activation:
    return lambda writer, tensor, alpha, beta: writer.emit(operator, tensor)


def _with_alpha(operator: str) -> Activation:
    return lambda writer, tensor, alpha, beta: writer.emit(operator, tensor, alpha=_plain_number(alpha))


def _plain_number(value: Array | None) -> float:
    assert value is not None
    return float(value)


def _affine(writer: Writer, tensor: str, alpha: Array | None, beta: Array | None) -> str:
    assert alpha is not None
    assert beta is not None
    return writer.emit("Add", writer.emit("Mul", tensor, writer.constant(alpha)), writer.constant(beta))


def _scaled_tanh(writer: Writer, tensor: str, alpha: Array | None, beta: Array | None) -> str:
    assert alpha is not None
    assert beta is not None
    inner = writer.emit("Tanh", writer.emit("Mul", tensor, writer.constant(beta)))
    return writer.emit("Mul", inner, writer.constant(alpha))


def _hard_sigmoid(writer: Writer, tensor: str, alpha: Array | None, beta: Array | None) -> str:
    return writer.emit("HardSigmoid", tensor, alpha=_plain_number(alpha), beta=_plain_number(beta))


ACTIVATIONS: dict[str, Activation] = {
    "Relu": _plain("Relu"),
    "Tanh": _plain("Tanh"),
    "Sigmoid": _plain("Sigmoid"),
    "Softsign": _plain("Softsign"),
    "Softplus": _plain("Softplus"),
    "LeakyRelu": _with_alpha("LeakyRelu"),
    "ThresholdedRelu": _with_alpha("ThresholdedRelu"),
    "Elu": _with_alpha("Elu"),
    "HardSigmoid": _hard_sigmoid,
    "Affine": _affine,
    "ScaledTanh": _scaled_tanh,
}
TAKES_ALPHA = ("Affine", "Elu", "HardSigmoid", "LeakyRelu", "ScaledTanh", "ThresholdedRelu")
TAKES_BETA = ("Affine", "HardSigmoid", "ScaledTanh")
