"""Networks to try the tuner on without a file: float32, one image, weights as parameters (no numbers are stored)."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax
from tvm.relax.frontend import nn

from tvm_spm.errors import ModelError, did_you_mean


class _Layers(nn.Module):
    """A chain of modules and functions."""

    def __init__(self, *layers: nn.Module | Callable[[nn.Tensor], nn.Tensor]) -> None:
        self.layers = nn.ModuleList([layer for layer in layers if isinstance(layer, nn.Module)])
        modules = iter(range(len(self.layers)))
        self.order = [next(modules) if isinstance(layer, nn.Module) else layer for layer in layers]

    def forward(self, data: nn.Tensor) -> nn.Tensor:
        for step in self.order:
            data = self.layers[step](data) if isinstance(step, int) else step(data)
        return data


def _conv(cin: int, cout: int, kernel: int, stride: int = 1, padding: int | None = None, groups: int = 1) -> nn.Conv2D:
    """Batch normalisation of inference is part of the weights and the bias."""
    pad = kernel // 2 if padding is None else padding
    return nn.Conv2D(cin, cout, kernel, stride=stride, padding=pad, groups=groups, bias=True)


def _max_pool(kernel: int, stride: int, padding: int = 0) -> Callable[[nn.Tensor], nn.Tensor]:
    def pool(x: nn.Tensor) -> nn.Tensor:
        return nn.op.wrap_nested(relax.op.nn.max_pool2d(x._expr, (kernel, kernel), (stride, stride), padding), "pool")

    return pool


def _mean_pool(x: nn.Tensor) -> nn.Tensor:
    """Average over all positions."""
    return nn.op.wrap_nested(relax.op.mean(x._expr, axis=[2, 3]), "mean")


def _flatten(x: nn.Tensor) -> nn.Tensor:
    rest = 1
    for extent in x.shape[1:]:
        rest *= int(extent)
    return nn.op.reshape(x, (x.shape[0], rest))


def _relu6(x: nn.Tensor) -> nn.Tensor:
    return nn.op.wrap_nested(relax.op.clip(x._expr, 0, 6), "relu6")


_relu: Callable[[nn.Tensor], nn.Tensor] = nn.op.relu


class _Residual(nn.Module):
    """``act(branch(x) + shortcut(x))``."""

    def __init__(
        self, branch: nn.Module, shortcut: nn.Module | None, act: Callable[[nn.Tensor], nn.Tensor] | None
    ) -> None:
        self.branch = branch
        self.shortcut = shortcut
        self.act = act

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        base = self.shortcut(x) if self.shortcut is not None else x
        total = nn.op.add(self.branch(x), base)
        return self.act(total) if self.act is not None else total


def _resnet(blocks: tuple[int, int, int, int], *, bottleneck: bool) -> nn.Module:
    layers: list[nn.Module | Callable[[nn.Tensor], nn.Tensor]] = [_conv(3, 64, 7, 2), _relu, _max_pool(3, 2, 1)]
    channels = 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        out = width * 4 if bottleneck else width
        for block in range(count):
            stride = 2 if stage and not block else 1
            if bottleneck:
                parts = [_conv(channels, width, 1), _relu, _conv(width, width, 3, stride), _relu, _conv(width, out, 1)]
            else:
                parts = [_conv(channels, width, 3, stride), _relu, _conv(width, out, 3)]
            shortcut = _conv(channels, out, 1, stride) if stride > 1 or channels != out else None
            layers.append(_Residual(_Layers(*parts), shortcut, _relu))
            channels = out
    return _Layers(*layers, _mean_pool, nn.Linear(channels, 1000))


def _vgg19() -> nn.Module:
    layers: list[nn.Module | Callable[[nn.Tensor], nn.Tensor]] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(count):
            layers += [_conv(channels, width, 3), _relu]
            channels = width
        layers.append(_max_pool(2, 2))
    classifier = [nn.Linear(512 * 7 * 7, 4096), _relu, nn.Linear(4096, 4096), _relu, nn.Linear(4096, 1000)]
    return _Layers(*layers, _flatten, *classifier)


def _alexnet() -> nn.Module:
    return _Layers(
        _conv(3, 64, 11, 4, 2), _relu, _max_pool(3, 2), _conv(64, 192, 5), _relu, _max_pool(3, 2),
        _conv(192, 384, 3), _relu, _conv(384, 256, 3), _relu, _conv(256, 256, 3), _relu, _max_pool(3, 2),
        _flatten, nn.Linear(256 * 6 * 6, 4096), _relu, nn.Linear(4096, 4096), _relu, nn.Linear(4096, 1000),
    )  # fmt: skip


def _mobilenet_v2() -> nn.Module:
    layers: list[nn.Module | Callable[[nn.Tensor], nn.Tensor]] = [_conv(3, 32, 3, 2), _relu6]
    channels = 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, out, count, first_stride in stages:
        for block in range(count):
            stride, hidden = first_stride if block == 0 else 1, channels * expansion
            parts: list[nn.Module | Callable[[nn.Tensor], nn.Tensor]] = []
            if expansion > 1:
                parts += [_conv(channels, hidden, 1), _relu6]
            parts += [_conv(hidden, hidden, 3, stride, groups=hidden), _relu6, _conv(hidden, out, 1)]
            body = _Layers(*parts)
            layers.append(_Residual(body, None, None) if stride == 1 and channels == out else body)
            channels = out
    return _Layers(*layers, _conv(channels, 1280, 1), _relu6, _mean_pool, nn.Linear(1280, 1000))


_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "alexnet": _alexnet,
    "mobilenet_v2": _mobilenet_v2,
    "resnet18": lambda: _resnet((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: _resnet((3, 4, 6, 3), bottleneck=True),
    "vgg19": _vgg19,
}


_IMAGE_EXTENT = 224
_FIXED_IMAGES = ("alexnet", "vgg19")


def models() -> tuple[str, ...]:
    """Names of the built-in networks."""
    return tuple(_BUILDERS)


def build_model(name: str, *, batch: int = 1, image_extent: int = _IMAGE_EXTENT) -> tvm.IRModule:
    """A built-in network.

    Args:
        name: One of ``models()``.
        batch: Images at a time.
        image_extent: Rows and columns of an image.

    Returns:
        A module whose ``main`` takes the images and then all weights; its attribute ``num_input`` is 1.

    Raises:
        ModelError: No such network, or one whose classifier needs images of 224 x 224.
    """
    if name not in _BUILDERS:
        raise ModelError(f"unknown model {name!r}: {did_you_mean(name, _BUILDERS)}")
    if name in _FIXED_IMAGES and image_extent != _IMAGE_EXTENT:
        raise ModelError(f"model {name!r}: image of {image_extent} x {image_extent}: its classifier needs 224 x 224")
    image = nn.spec.Tensor((batch, 3, image_extent, image_extent), "float32")
    mod, _ = _BUILDERS[name]().export_tvm({"forward": {"data": image}})
    main = mod["forward"]
    return tvm.IRModule({"main": main.with_attr("global_symbol", "main")})
