"""Relay texts, damaged: what is read becomes a module of static shapes, or is refused."""

from __future__ import annotations

from random import Random

from tests.fuzz.mutate import damaged_text
from tests.fuzz.outcome import REFUSED, RIGHT
from tvm_spm.errors import SpmError
from tvm_spm.frontend import extract, load_model

HEADER = '#[version = "0.0.5"]\n'
TEXTS = (
    """def @main(%x: Tensor[(1, 4, 6, 6), float32], %w: Tensor[(8, 4, 3, 3), float32]) {
  %0 = nn.conv2d(%x, %w, padding=[1, 1, 1, 1], channels=8, kernel_size=[3, 3]);
  %1 = nn.relu(%0);
  %2 = nn.max_pool2d(%1, pool_size=[2, 2], strides=[2, 2], padding=[0, 0, 0, 0]);
  %3 = nn.batch_flatten(%2);
  nn.softmax(%3)
}
""",
    """def @main(%x: Tensor[(2, 3), float32], %w: Tensor[(4, 3), float32], %b: Tensor[(4), float32]) {
  %0 = nn.dense(%x, %w, units=4);
  let %a = nn.bias_add(%0, %b);
  %1 = (%a, %0);
  %2 = concatenate(%1, axis=1);
  add(%2, 1.5f)
}
""",
    """def @main(%x: Tensor[(2, 3, 4), int8]) {
  %0 = transpose(%x, axes=[0, 2, 1]);
  %1 = cast(%0, dtype="int32");
  %2 = reshape(%1, newshape=[2, -1]);
  %3 = sum(%2, axis=[1], keepdims=True);
  if (True) { %3 } else { negative(%3) }
}
""",
    """def @inner(%a: Tensor[(2, 3), float32], Primitive=1) -> Tensor[(2, 3), float32] {
  multiply(%a, 2f)
}
def @main(%x: Tensor[(2, 3), float32]) {
  %0 = @inner(%x);
  %1 = fn (%p: Tensor[(2, 3), float32]) { tanh(%p) };
  %1(%0)
}
""",
)


def run(random: Random) -> str:
    """One case."""
    text = HEADER + random.choice(TEXTS)
    if random.random() < 0.9:
        text = damaged_text(text, random)
    try:
        extract(load_model(text, max_memory_bytes=2**28))
    except SpmError:
        return REFUSED
    return RIGHT
