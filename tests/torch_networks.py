"""Small networks of PyTorch; a file that imports this one is skipped where PyTorch is not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch", reason='needs PyTorch, which is optional: pip install "tvm-spm[torch]"')

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812


class Residual(nn.Module):
    """Two convolutions with batch normalisation, and a way past them."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters), nn.ReLU(inplace=True),
            nn.Conv2d(filters, filters, 3, 1, 1, bias=False), nn.BatchNorm2d(filters),
        )  # fmt: skip
        self.past = (
            nn.Identity()
            if (channels, stride) == (filters, 1)
            else nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.past(x), inplace=True)


def resnet() -> nn.Module:
    """As TorchVision builds them, a few layers of it."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        Residual(8, 8, 1), Residual(8, 16, 2), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Dropout(),
        nn.Linear(16, 10),
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -1, 1),
                (module.running_var, 0.5, 2),
                (module.weight, 0.5, 2),
                (module.bias, -1, 1),
            ):
                nn.init.uniform_(tensor, low, high)
    return network.eval()


class Block(nn.Module):
    """A transformer block around ``scaled_dot_product_attention``."""

    def __init__(self, *, is_causal: bool = False) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.norm, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.rest = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        batch, rows, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, rows, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.is_causal)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, rows, 32))
        return x + self.rest(x)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class LlamaBlock(nn.Module):
    """8 heads that share 2 heads of keys and values, which join those of the tokens before.

    Args:
        sharing: ``flag``, or how the keys are copied by hand: ``interleave`` or ``expand``.
    """

    def __init__(self, sharing: str) -> None:
        super().__init__()
        self.sharing = sharing
        self.q, self.out = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
        self.k, self.v = nn.Linear(64, 16, bias=False), nn.Linear(64, 16, bias=False)
        self.gate, self.up = nn.Linear(64, 128, bias=False), nn.Linear(64, 128, bias=False)
        self.down = nn.Linear(128, 64, bias=False)
        self.norms = nn.ParameterList([torch.rand(64) + 0.5, torch.rand(64) + 0.5])

    def forward(
        self,
        x: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        cache: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch, rows, _ = x.shape
        normed = _rms_norm(x, self.norms[0])
        q, k, v = (layer(normed).view(batch, rows, -1, 8).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = torch.cat((cache[0], _rotated(k, *turn)), 2), torch.cat((cache[1], v), 2)
        attended = self._attention(_rotated(q, *turn), k, v, mask)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, rows, 64))
        normed = _rms_norm(x, self.norms[1])
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed)), k, v

    def _attention(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if self.sharing == "flag":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        if self.sharing == "interleave":
            keys, values = k.repeat_interleave(4, 1), v.repeat_interleave(4, 1)
        else:
            shape = (k.shape[0], 8, k.shape[2], 8)
            keys, values = (each[:, :, None].expand(-1, -1, 4, -1, -1).reshape(shape) for each in (k, v))
        scores = q @ keys.transpose(2, 3) / 8**0.5
        scores = scores if mask is None else scores + mask
        return torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype) @ values


class Case(NamedTuple):
    """A network, what it is called with, and how many attentions run as one."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[object, ...]]
    attentions: int = 0


def step(batch: int = 1, rows: int = 1, before: int = 15, *, hidden: int | None = None) -> tuple[object, ...]:
    """Inputs of a Llama block; the first tokens may be hidden."""
    angles = torch.rand(rows, 8)
    cache = (torch.randn(batch, 2, before, 8), torch.randn(batch, 2, before, 8))
    found = (torch.randn(batch, rows, 64), (angles.cos(), angles.sin()), cache)
    if hidden is None:
        return found
    mask = torch.zeros(batch, 1, rows, before + rows)
    mask[..., :hidden] = float("-inf")
    return (*found, mask)


CASES = {
    "resnet": Case(resnet, lambda: (torch.randn(1, 3, 32, 32),)),
    "encoder layer": Case(
        lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), lambda: (torch.randn(2, 12, 32),), 1
    ),
    "block": Case(Block, lambda: (torch.randn(2, 16, 32),), 1),
    "block, causal": Case(lambda: Block(is_causal=True), lambda: (torch.randn(1, 16, 32),), 1),
    "block, keys chosen": Case(Block, lambda: (torch.randn(1, 16, 32), torch.ones(16, 16).tril(2).bool()), 1),
    "block, mask": Case(Block, lambda: (torch.randn(2, 16, 32), torch.randn(2, 1, 1, 16)), 1),
    "llama, decode": Case(lambda: LlamaBlock("flag"), step, 1),
    "llama, decode, mask": Case(lambda: LlamaBlock("flag"), lambda: step(hidden=3), 1),
    "llama, decode, interleaved": Case(lambda: LlamaBlock("interleave"), lambda: step(hidden=3), 1),
    "llama, decode, expanded": Case(lambda: LlamaBlock("expand"), step, 1),
    "llama, prefill": Case(lambda: LlamaBlock("flag"), lambda: step(batch=2, rows=5, before=6, hidden=2), 1),
    "lstm": Case(
        lambda: nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True), lambda: (torch.randn(2, 5, 8),)
    ),
    "gru": Case(lambda: nn.GRU(8, 16), lambda: (torch.randn(4, 1, 8),)),
    "lstm, long": Case(
        lambda: nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), lambda: (torch.randn(2, 35, 8),)
    ),
    "lstm, long, projected": Case(
        lambda: nn.LSTM(8, 6, proj_size=4), lambda: (torch.randn(33, 8), (torch.randn(1, 4), torch.randn(1, 6)))
    ),
    "gru, long": Case(lambda: nn.GRU(8, 6, bidirectional=True), lambda: (torch.randn(34, 3, 8),)),
    "gru, long, without bias": Case(lambda: nn.GRU(8, 6, bias=False), lambda: (torch.randn(34, 3, 8),)),
    "rnn, long": Case(lambda: nn.RNN(8, 6, nonlinearity="relu"), lambda: (torch.randn(40, 1, 8),)),
    "attention with its weights": Case(
        lambda: nn.MultiheadAttention(32, 4, batch_first=True), lambda: tuple(torch.randn(1, 9, 32) for _ in range(3))
    ),
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, tuple[object, ...]]:
    """A network with its inputs, the same in every run."""
    torch.manual_seed(0)
    case = CASES[name]
    return case.make().eval(), case.inputs()


def leaves(value: object) -> list[torch.Tensor]:
    """All tensors of nested tuples."""
    return [each for each in torch.utils._pytree.tree_leaves(value) if isinstance(each, torch.Tensor)]
