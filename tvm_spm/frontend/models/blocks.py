"""Pieces of which built-in networks are made. Weights are parameters: no numbers are stored."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax
from tvm.relax.frontend import nn


class Layers(nn.Module):
    """A chain of modules and functions."""

    def __init__(self, *layers: nn.Module | Callable[[nn.Tensor], nn.Tensor]) -> None:
        self.layers = nn.ModuleList([layer for layer in layers if isinstance(layer, nn.Module)])
        modules = iter(range(len(self.layers)))
        self.order = [next(modules) if isinstance(layer, nn.Module) else layer for layer in layers]

    def forward(self, data: nn.Tensor) -> nn.Tensor:
        """All steps, one after the other."""
        for step in self.order:
            data = self.layers[step](data) if isinstance(step, int) else step(data)
        return data


def conv(cin: int, cout: int, kernel: int, stride: int = 1, padding: int | None = None, groups: int = 1) -> nn.Conv2D:
    """Batch normalisation of inference is part of the weights and the bias."""
    pad = kernel // 2 if padding is None else padding
    return nn.Conv2D(cin, cout, kernel, stride=stride, padding=pad, groups=groups, bias=True)


Step = nn.Module | Callable[[nn.Tensor], nn.Tensor]
"""One step of a chain."""


def max_pool(kernel: int, stride: int, padding: int = 0) -> Callable[[nn.Tensor], nn.Tensor]:
    """Largest number of each square window."""

    def pool(x: nn.Tensor) -> nn.Tensor:
        return nn.op.wrap_nested(relax.op.nn.max_pool2d(x._expr, (kernel, kernel), (stride, stride), padding), "pool")

    return pool


def mean_pool(x: nn.Tensor) -> nn.Tensor:
    """Average over all positions."""
    return nn.op.wrap_nested(relax.op.mean(x._expr, axis=[2, 3]), "mean")


def flatten(x: nn.Tensor) -> nn.Tensor:
    """All axes but the first as one."""
    rest = 1
    for extent in x.shape[1:]:
        rest *= int(extent)
    return nn.op.reshape(x, (x.shape[0], rest))


def relu6(x: nn.Tensor) -> nn.Tensor:
    """Numbers between 0 and 6."""
    return nn.op.wrap_nested(relax.op.clip(x._expr, 0, 6), "relu6")


relu: Callable[[nn.Tensor], nn.Tensor] = nn.op.relu
silu: Callable[[nn.Tensor], nn.Tensor] = nn.op.silu


def upsample(x: nn.Tensor) -> nn.Tensor:
    """Twice the rows and columns, each number four times."""
    size = [2 * int(extent) for extent in x.shape[2:]]
    call = relax.op.image.resize2d(
        x._expr, tuple(size), layout="NCHW", method="nearest_neighbor", coordinate_transformation_mode="asymmetric",
        rounding_method="floor",
    )  # fmt: skip
    return nn.op.wrap_nested(call, "upsample")


class Residual(nn.Module):
    """``act(branch(x) + shortcut(x))``."""

    def __init__(
        self, branch: nn.Module, shortcut: nn.Module | None, act: Callable[[nn.Tensor], nn.Tensor] | None
    ) -> None:
        self.branch = branch
        self.shortcut = shortcut
        self.act = act

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """The sum, activated."""
        base = self.shortcut(x) if self.shortcut is not None else x
        total = nn.op.add(self.branch(x), base)
        return self.act(total) if self.act is not None else total
