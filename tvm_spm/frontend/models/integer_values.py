"""What a tensor of 8-bit integers stands for, and how far its numbers spread, from which its scale follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tvm import relax

from tvm_spm.frontend.inputs import DEVIATIONS
from tvm_spm.frontend.relay.tensors import Tensor

LARGEST = 127
"""Of int8, on both sides: the least number, -128, has no counterpart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerValue:
    """A tensor that stands for ``expr * scale``.

    Attributes:
        expr: int8, int32 sums, or float32; a tuple of such ones.
        scale: What an integer step is worth.
        deviation: Of the numbers that it stands for.
        largest: None of them is larger, whatever the deviation.
        mask: What is added before the softmax that reads it.
        layer: Which layer's function makes it, so far, counted from 1; 0 for none.
    """

    expr: relax.Expr
    scale: float = 1.0
    deviation: float = 1.0
    largest: float = math.inf
    mask: relax.Expr | None = None
    layer: int = 0

    @classmethod
    def constant(cls, constant: relax.Constant) -> IntegerValue:
        """Numbers as they are."""
        numbers = constant.value.numpy().astype("float64")
        return cls(expr=constant, deviation=math.sqrt(float(np.square(numbers).mean())))

    @property
    def dtype(self) -> str:
        """Of the elements."""
        return str(self.expr.ty.dtype)

    @property
    def step(self) -> float:
        """Scale of it as int8."""
        return 2.0 ** round(math.log2(min(DEVIATIONS * self.deviation, self.largest) / LARGEST))

    @property
    def tensor(self) -> Tensor:
        """The integers, for operators that know no scale."""
        shape = tuple(int(extent) for extent in self.expr.ty.shape.values)
        return Tensor(shape=shape, dtype=self.dtype, expr=self.expr)
