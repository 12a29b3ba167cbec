"""One layer of Llama 3.2 1B: heads that share keys, rotated positions, a gated product."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax
from tvm.relax.frontend import nn

WIDTH, HEADS, KEY_HEADS, DEPTH, HIDDEN = 2048, 32, 8, 64, 8192
"""As in the published configuration of Llama 3.2 1B."""

PAST = 2048
"""Tokens before the one that a decoding step adds."""

_ROTARY_BASE = 500_000.0
"""Of the longest wave of positions; Llama 3's. Its scaling of waves beyond 8,192 tokens changes none of the work."""


class _Norm(nn.RMSNorm):
    """Rows of root mean square 1, scaled."""

    def __init__(self) -> None:
        super().__init__(WIDTH, -1, bias=False)


class LlamaLayer(nn.Module):
    """Attention and a gated product, each normalised before and with a residual around it.

    Takes tokens alone, or one token and the keys and values of those before it; then its own key and value are
    results too, to be appended outside.
    """

    def __init__(self) -> None:
        keys = KEY_HEADS * DEPTH
        self.before, self.behind = _Norm(), _Norm()
        self.q, self.k, self.v = (nn.Linear(WIDTH, width, bias=False) for width in (WIDTH, keys, keys))
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate, self.up = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: nn.Tensor, *past: nn.Tensor) -> nn.Tensor | list[nn.Tensor]:
        """The layer."""
        attended, key, value = self._attended(self.before(x), past)
        x = nn.op.add(x, attended)
        inner = self.behind(x)
        x = nn.op.add(x, self.down(nn.op.multiply(nn.op.silu(self.gate(inner)), self.up(inner))))
        return [x, key, value] if past else x

    def _attended(self, x: nn.Tensor, past: tuple[nn.Tensor, ...]) -> tuple[nn.Tensor, nn.Tensor, nn.Tensor]:
        batch, tokens = int(x.shape[0]), int(x.shape[1])
        first = int(past[0].shape[2]) if past else 0
        query, key = (_rotated(each, first) for each in (self.q(x), self.k(x)))
        key, value = (nn.op.permute_dims(_heads(each), [0, 2, 1, 3]) for each in (key, self.v(x)))
        group = HEADS // KEY_HEADS
        if past:
            # The queries of a group are rows of one product with the keys that they share.
            query = nn.op.reshape(query, (batch, KEY_HEADS, group, DEPTH))
            scores = nn.op.concat([_scores(query, past[0]), _scores(query, key)], 3)
            old, new = nn.op.split(nn.op.softmax(scores, axis=-1), [first], axis=3)
            found = nn.op.add(nn.op.matmul(old, past[1]), nn.op.matmul(new, value))
        else:
            grouped = nn.op.reshape(query, (batch, tokens, KEY_HEADS, group, DEPTH))
            query = nn.op.permute_dims(grouped, [0, 2, 3, 1, 4])
            alone = (batch, KEY_HEADS, 1, tokens, DEPTH)
            scores = _scores(query, nn.op.reshape(key, alone))
            hidden = np.triu(np.full((tokens, tokens), -1e4, "float32"), 1)
            scores = nn.op.add(scores, nn.op.wrap_nested(relax.const(hidden, str(scores.dtype)), "mask"))
            found = nn.op.matmul(nn.op.softmax(scores, axis=-1), nn.op.reshape(value, alone))
            found = nn.op.permute_dims(found, [0, 3, 1, 2, 4])
        return self.out(nn.op.reshape(found, (batch, tokens, WIDTH))), key, value


def _heads(x: nn.Tensor) -> nn.Tensor:
    return nn.op.reshape(x, (x.shape[0], x.shape[1], int(x.shape[2]) // DEPTH, DEPTH))


def _rotated(x: nn.Tensor, first: int) -> nn.Tensor:
    """Every head's halves turned against each other by its token's position (Su et al. 2021), in their places."""
    batch, tokens, width = (int(extent) for extent in x.shape)
    waves = _ROTARY_BASE ** (-np.arange(0, DEPTH, 2) / DEPTH)
    angles = (first + np.arange(tokens)[:, None]) * waves
    shape, table = (batch, tokens, width // DEPTH, 2, DEPTH // 2), (1, tokens, 1, 2, DEPTH // 2)
    halves = nn.op.reshape(x, shape)
    other = nn.op.wrap_nested(relax.op.flip(halves._expr, axis=3), "other_half")
    turned = [
        nn.op.multiply(half, nn.op.wrap_nested(relax.const(each.reshape(table), str(x.dtype)), "wave"))
        for half, each in (
            (halves, np.stack([np.cos(angles), np.cos(angles)], 1).astype("float32")),
            (other, np.stack([-np.sin(angles), np.sin(angles)], 1).astype("float32")),
        )
    ]
    return nn.op.reshape(nn.op.add(*turned), (batch, tokens, width))


def _scores(query: nn.Tensor, key: nn.Tensor) -> nn.Tensor:
    axes = list(range(len(key.shape)))
    product = nn.op.matmul(query, nn.op.permute_dims(key, [*axes[:-2], axes[-1], axes[-2]]))
    scale = nn.op.wrap_nested(relax.const(1 / math.sqrt(DEPTH), str(product.dtype)), "scale")
    return nn.op.multiply(product, scale)
