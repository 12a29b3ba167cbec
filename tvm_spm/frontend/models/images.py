"""Networks that look at one image."""

from __future__ import annotations

from tvm import relax
from tvm.relax.frontend import nn

from tvm_spm.frontend.models.blocks import (
    Layers,
    Residual,
    Step,
    conv,
    flatten,
    max_pool,
    mean_pool,
    relu,
    relu6,
    silu,
    upsample,
)


def resnet(blocks: tuple[int, int, int, int], *, bottleneck: bool) -> nn.Module:
    """He et al. 2016, with so many blocks in each of four stages."""
    layers: list[Step] = [conv(3, 64, 7, 2), relu, max_pool(3, 2, 1)]
    channels = 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        out = width * 4 if bottleneck else width
        for block in range(count):
            stride = 2 if stage and not block else 1
            if bottleneck:
                parts = [conv(channels, width, 1), relu, conv(width, width, 3, stride), relu, conv(width, out, 1)]
            else:
                parts = [conv(channels, width, 3, stride), relu, conv(width, out, 3)]
            shortcut = conv(channels, out, 1, stride) if stride > 1 or channels != out else None
            layers.append(Residual(Layers(*parts), shortcut, relu))
            channels = out
    return Layers(*layers, mean_pool, nn.Linear(channels, 1000))


def vgg19() -> nn.Module:
    """Simonyan and Zisserman 2015, configuration E."""
    layers: list[Step] = []
    channels = 3
    for width, count in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(count):
            layers += [conv(channels, width, 3), relu]
            channels = width
        layers.append(max_pool(2, 2))
    classifier = [nn.Linear(512 * 7 * 7, 4096), relu, nn.Linear(4096, 4096), relu, nn.Linear(4096, 1000)]
    return Layers(*layers, flatten, *classifier)


def alexnet() -> nn.Module:
    """Krizhevsky 2014, one tower."""
    return Layers(
        conv(3, 64, 11, 4, 2), relu, max_pool(3, 2), conv(64, 192, 5), relu, max_pool(3, 2),
        conv(192, 384, 3), relu, conv(384, 256, 3), relu, conv(256, 256, 3), relu, max_pool(3, 2),
        flatten, nn.Linear(256 * 6 * 6, 4096), relu, nn.Linear(4096, 4096), relu, nn.Linear(4096, 1000),
    )  # fmt: skip


def mobilenet_v2() -> nn.Module:
    """Sandler et al. 2018, table 2."""
    layers: list[Step] = [conv(3, 32, 3, 2), relu6]
    channels = 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, out, count, first_stride in stages:
        for block in range(count):
            stride, hidden = first_stride if block == 0 else 1, channels * expansion
            parts: list[Step] = []
            if expansion > 1:
                parts += [conv(channels, hidden, 1), relu6]
            parts += [conv(hidden, hidden, 3, stride, groups=hidden), relu6, conv(hidden, out, 1)]
            body = Layers(*parts)
            layers.append(Residual(body, None, None) if stride == 1 and channels == out else body)
            channels = out
    return Layers(*layers, conv(channels, 1280, 1), relu6, mean_pool, nn.Linear(1280, 1000))


class _Excite(nn.Module):
    """Channels weighed by two products with their means."""

    def __init__(self, channels: int, hidden: int) -> None:
        self.shrink, self.grow = conv(channels, hidden, 1), conv(hidden, channels, 1)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        means = nn.op.wrap_nested(relax.op.mean(x._expr, axis=[2, 3], keepdims=True), "means")
        return nn.op.multiply(x, nn.op.sigmoid(self.grow(silu(self.shrink(means)))))


def efficientnet_b0() -> nn.Module:
    """Tan and Le 2019, table 1."""
    layers: list[Step] = [conv(3, 32, 3, 2), silu]
    channels = 32
    stages = (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )  # fmt: skip
    for expansion, out, count, first_stride, kernel in stages:
        for block in range(count):
            stride, hidden = first_stride if block == 0 else 1, channels * expansion
            parts: list[Step] = [conv(channels, hidden, 1), silu] if expansion > 1 else []
            parts += [conv(hidden, hidden, kernel, stride, groups=hidden), silu, _Excite(hidden, max(1, channels // 4))]
            body = Layers(*parts, conv(hidden, out, 1))
            layers.append(Residual(body, None, None) if stride == 1 and channels == out else body)
            channels = out
    return Layers(*layers, conv(channels, 1280, 1), silu, mean_pool, nn.Linear(1280, 1000))


class _SplitBlock(nn.Module):
    """Two halves of the channels, one through a chain of residual pairs; all that passed by is joined."""

    def __init__(self, cin: int, cout: int, count: int, *, shortcut: bool) -> None:
        half = cout // 2
        self.first, self.last = Layers(conv(cin, cout, 1), silu), Layers(conv((2 + count) * half, cout, 1), silu)
        pairs = [Layers(conv(half, half, 3), silu, conv(half, half, 3), silu) for _ in range(count)]
        self.pairs = nn.ModuleList([Residual(pair, None, None) if shortcut else pair for pair in pairs])

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        parts = list(nn.op.split(self.first(x), 2, axis=1))
        for pair in self.pairs:
            parts.append(pair(parts[-1]))
        return self.last(nn.op.concat(parts, 1))


class _Pyramid(nn.Module):
    """A detector of three scales in the manner of YOLOv8n: backbone, up and down again, two heads a scale."""

    def __init__(self) -> None:
        self.early = Layers(
            conv(3, 16, 3, 2), silu, conv(16, 32, 3, 2), silu, _SplitBlock(32, 32, 1, shortcut=True),
            conv(32, 64, 3, 2), silu, _SplitBlock(64, 64, 2, shortcut=True),
        )  # fmt: skip
        self.middle = Layers(conv(64, 128, 3, 2), silu, _SplitBlock(128, 128, 2, shortcut=True))
        self.late = Layers(conv(128, 256, 3, 2), silu, _SplitBlock(256, 256, 1, shortcut=True))
        self.pool_in, self.pool_out = Layers(conv(256, 128, 1), silu), Layers(conv(512, 256, 1), silu)
        self.up_middle, self.up_early = (
            _SplitBlock(cin, cout, 1, shortcut=False) for cin, cout in ((384, 128), (192, 64))
        )
        self.down_early, self.down_middle = Layers(conv(64, 64, 3, 2), silu), Layers(conv(128, 128, 3, 2), silu)
        self.out_middle, self.out_late = (
            _SplitBlock(cin, cout, 1, shortcut=False) for cin, cout in ((192, 128), (384, 256))
        )
        self.boxes = nn.ModuleList([_head(channels, 64, 64) for channels in (64, 128, 256)])
        self.classes = nn.ModuleList([_head(channels, 80, 80) for channels in (64, 128, 256)])

    def forward(self, x: nn.Tensor) -> list[nn.Tensor]:
        early = self.early(x)
        middle = self.middle(early)
        pooled = [self.pool_in(self.late(middle))]
        for _ in range(3):
            pooled.append(max_pool(5, 1, 2)(pooled[-1]))
        late = self.pool_out(nn.op.concat(pooled, 1))
        up = self.up_middle(nn.op.concat([upsample(late), middle], 1))
        fine = self.up_early(nn.op.concat([upsample(up), early], 1))
        mid = self.out_middle(nn.op.concat([self.down_early(fine), up], 1))
        coarse = self.out_late(nn.op.concat([self.down_middle(mid), late], 1))
        return [
            nn.op.concat([boxes(scale), classes(scale)], 1)
            for scale, boxes, classes in zip((fine, mid, coarse), self.boxes, self.classes, strict=True)
        ]


def _head(channels: int, hidden: int, out: int) -> nn.Module:
    return Layers(conv(channels, hidden, 3), silu, conv(hidden, hidden, 3), silu, conv(hidden, out, 1))


def yolov8n() -> nn.Module:
    """Layers and channels of YOLOv8n up to its raw heads; boxes are not decoded."""
    return _Pyramid()


class _UNet(nn.Module):
    """Ronneberger et al. 2015 with padding and nearest upsampling; channels as published."""

    def __init__(self) -> None:
        widths = (64, 128, 256, 512, 1024)
        self.down = nn.ModuleList([_pair(cin, cout) for cin, cout in zip((3, *widths), widths, strict=False)])
        self.halve = nn.ModuleList([conv(2 * width, width, 3) for width in widths[:-1]])
        self.up = nn.ModuleList([_pair(2 * width, width) for width in widths[:-1]])
        self.last = conv(64, 2, 1)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        kept = []
        for level, pair in enumerate(self.down):
            x = pair(x if level == 0 else max_pool(2, 2)(x))
            kept.append(x)
        for level in reversed(range(4)):
            grown = relu(self.halve[level](upsample(x)))
            x = self.up[level](nn.op.concat([kept[level], grown], 1))
        return self.last(x)


def _pair(cin: int, cout: int) -> nn.Module:
    return Layers(conv(cin, cout, 3), relu, conv(cout, cout, 3), relu)


def unet() -> nn.Module:
    """Segmentation; rows and columns must be multiples of 16."""
    return _UNet()


class _Grow(nn.Module):
    """A transposed convolution of 9x9 that doubles rows and columns."""

    def __init__(self, channels: int) -> None:
        self.weight = nn.Parameter((channels, 1, 9, 9))

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        call = relax.op.nn.conv2d_transpose(
            x._expr, self.weight._expr, strides=(2, 2), padding=(4, 4, 4, 4), output_padding=(1, 1)
        )
        return nn.op.wrap_nested(call, "grow")


def fsrcnn() -> nn.Module:
    """Dong et al. 2016, FSRCNN(56, 12, 4), twice the resolution of one channel."""
    layers: list[Step] = [conv(1, 56, 5), relu, conv(56, 12, 1), relu]
    for _ in range(4):
        layers += [conv(12, 12, 3), relu]
    return Layers(*layers, conv(12, 56, 1), relu, _Grow(56))
