"""Networks over sequences: transformers and a recurrent one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tvm import relax
from tvm.relax.frontend import nn

from tvm_spm.frontend.models.blocks import Layers

_BLOCKS = 12
"""Of BERT base, GPT-2 and ViT-B alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """Numbers of a token, its heads, and numbers between the two products."""

    width: int
    heads: int
    hidden: int


_BASE = _Size(width=768, heads=12, hidden=3072)
_TINY = _Size(width=192, heads=3, hidden=768)


class _Norm(nn.LayerNorm):
    """Layer normalisation; TVM's takes no bfloat16, which is normalised as float32."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.width = width

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """Rows of mean 0 and deviation 1, scaled and shifted."""
        if x.dtype != "bfloat16":
            return super().forward(x)
        wide, weight, bias = (nn.op.astype(each, "float32") for each in (x, self.weight, self.bias))
        return nn.op.astype(nn.op.layer_norm(wide, [self.width], weight, bias, self.eps), x.dtype)


class _Attention(nn.Module):
    """Self-attention; ``past`` are keys and values of earlier tokens, which come as they are."""

    def __init__(self, size: _Size, *, causal: bool) -> None:
        self.q, self.k, self.v, self.out = (nn.Linear(size.width, size.width) for _ in range(4))
        self.heads, self.causal = size.heads, causal

    def forward(self, x: nn.Tensor, past: tuple[nn.Tensor, nn.Tensor] | None = None) -> list[nn.Tensor]:
        batch, tokens, width = (int(extent) for extent in x.shape)

        def heads(tensor: nn.Tensor) -> nn.Tensor:
            apart = (batch, tokens, self.heads, width // self.heads)
            return nn.op.permute_dims(nn.op.reshape(tensor, apart), [0, 2, 1, 3])

        query, key, value = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        scores = _scores(query, key)
        if past is None:
            found = nn.op.matmul(nn.op.softmax(self._masked(scores, tokens), axis=-1), value)
        else:
            earlier = int(past[0].shape[2])
            shares = nn.op.softmax(nn.op.concat([_scores(query, past[0]), scores], 3), axis=-1)
            old, new = nn.op.split(shares, [earlier], axis=3)
            found = nn.op.add(nn.op.matmul(old, past[1]), nn.op.matmul(new, value))
        joined = nn.op.reshape(nn.op.permute_dims(found, [0, 2, 1, 3]), (batch, tokens, width))
        return [self.out(joined), key, value]

    def _masked(self, scores: nn.Tensor, tokens: int) -> nn.Tensor:
        if not self.causal:
            return scores
        hidden = np.triu(np.full((1, 1, tokens, tokens), -1e4, "float32"), 1)
        return nn.op.add(scores, nn.op.wrap_nested(relax.const(hidden, str(scores.dtype)), "mask"))


def _scores(query: nn.Tensor, key: nn.Tensor) -> nn.Tensor:
    product = nn.op.matmul(query, nn.op.permute_dims(key, [0, 1, 3, 2]))
    scale = relax.const(1 / math.sqrt(int(query.shape[-1])), str(product.dtype))
    return nn.op.multiply(product, nn.op.wrap_nested(scale, "scale"))


class _Block(nn.Module):
    """Attention and two products, each with a residual; normalised before them, or after the sum as BERT does."""

    def __init__(self, size: _Size, *, causal: bool, before: bool) -> None:
        self.attention = _Attention(size, causal=causal)
        self.norms = nn.ModuleList([_Norm(size.width), _Norm(size.width)])
        self.grow, self.shrink = nn.Linear(size.width, size.hidden), nn.Linear(size.hidden, size.width)
        self.before = before

    def forward(self, x: nn.Tensor, past: tuple[nn.Tensor, nn.Tensor] | None = None) -> list[nn.Tensor]:
        first, second = self.norms
        attended, key, value = self.attention(first(x) if self.before else x, past)
        x = nn.op.add(x, attended)
        x = x if self.before else first(x)
        inner = self.shrink(nn.op.gelu(self.grow(second(x) if self.before else x)))
        x = nn.op.add(x, inner)
        return [x if self.before else second(x), key, value]


def _last(x: nn.Tensor, index: int) -> nn.Tensor:
    """One position of a sequence."""
    call = relax.op.strided_slice(x._expr, axes=[1], begin=[index], end=[index + 1])
    return nn.op.reshape(nn.op.wrap_nested(call, "position"), (x.shape[0], x.shape[2]))


class _Stack(nn.Module):
    def __init__(self, *, causal: bool, before: bool) -> None:
        self.blocks = nn.ModuleList([_Block(_BASE, causal=causal, before=before) for _ in range(_BLOCKS)])

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        for block in self.blocks:
            x = block(x)[0]
        return x


def bert_base() -> nn.Module:
    """The encoder, from embedded tokens to the last hidden states (Devlin et al. 2019)."""
    return _Stack(causal=False, before=False)


class _OneBlock(nn.Module):
    def __init__(self, size: _Size, *, before: bool) -> None:
        self.block = _Block(size, causal=False, before=before)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return self.block(x)[0]


def bert_base_layer() -> nn.Module:
    """One of the blocks of ``bert_base``."""
    return _OneBlock(_BASE, before=False)


def vit_tiny_block() -> nn.Module:
    """One block of ViT-Ti, the smallest of Steiner et al. 2022 and Touvron et al. 2021."""
    return _OneBlock(_TINY, before=True)


class _Gpt2(nn.Module):
    def __init__(self) -> None:
        self.stack = _Stack(causal=True, before=True)
        self.norm, self.head = _Norm(_BASE.width), nn.Linear(_BASE.width, 50_257, bias=False)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return self.head(self.norm(_last(self.stack(x), int(x.shape[1]) - 1)))


def gpt2() -> nn.Module:
    """All tokens of a prompt at once, from embeddings to the scores of the next token (Radford et al. 2019)."""
    return _Gpt2()


class _Gpt2Decode(nn.Module):
    def __init__(self) -> None:
        self.blocks = nn.ModuleList([_Block(_BASE, causal=True, before=True) for _ in range(_BLOCKS)])
        self.norm, self.head = _Norm(_BASE.width), nn.Linear(_BASE.width, 50_257, bias=False)

    def forward(self, x: nn.Tensor, *past: nn.Tensor) -> list[nn.Tensor]:
        made = []
        for number, block in enumerate(self.blocks):
            x, key, value = block(x, (past[2 * number], past[2 * number + 1]))
            made += [key, value]
        return [self.head(self.norm(_last(x, 0))), *made]


def gpt2_decode() -> nn.Module:
    """One token after those whose keys and values are inputs; its own are outputs, to be appended outside."""
    return _Gpt2Decode()


class _Vit(nn.Module):
    def __init__(self) -> None:
        self.patches = nn.Conv2D(3, _BASE.width, 16, stride=16, bias=True)
        self.token = nn.Parameter((1, 1, _BASE.width))
        self.positions = nn.Parameter((1, 197, _BASE.width))
        self.stack = _Stack(causal=False, before=True)
        self.norm, self.head = _Norm(_BASE.width), nn.Linear(_BASE.width, 1000)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        batch = int(x.shape[0])
        patches = nn.op.permute_dims(nn.op.reshape(self.patches(x), (batch, _BASE.width, 196)), [0, 2, 1])
        token = nn.op.broadcast_to(self.token, (batch, 1, _BASE.width))
        tokens = nn.op.add(nn.op.concat([token, patches], 1), self.positions)
        return self.head(self.norm(_last(self.stack(tokens), 0)))


def vit_b16() -> nn.Module:
    """Dosovitskiy et al. 2021."""
    return _Vit()


class _Recurrent(nn.Module):
    """One layer of an LSTM: all inputs are multiplied at once, the state step after step."""

    def __init__(self, depth: int, hidden: int) -> None:
        self.inputs, self.state = nn.Linear(depth, 4 * hidden), nn.Linear(hidden, 4 * hidden, bias=False)
        self.hidden = hidden

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        batch, steps = int(x.shape[0]), int(x.shape[1])
        gates = self.inputs(x)
        state, cell, made = None, None, []
        for step in range(steps):
            total = _last(gates, step)
            total = total if state is None else nn.op.add(total, self.state(state))
            entered, kept, new, left = nn.op.split(total, 4, axis=1)
            entering = nn.op.multiply(nn.op.sigmoid(entered), nn.op.tanh(new))
            cell = entering if cell is None else nn.op.add(nn.op.multiply(nn.op.sigmoid(kept), cell), entering)
            state = nn.op.multiply(nn.op.sigmoid(left), nn.op.tanh(cell))
            made.append(nn.op.reshape(state, (batch, 1, self.hidden)))
        return nn.op.concat(made, 1)


def lstm() -> nn.Module:
    """Two layers of 256 over a sequence of 128 numbers a step, and a classifier at each step."""
    return Layers(_Recurrent(128, 256), _Recurrent(256, 256), nn.Linear(256, 64))
