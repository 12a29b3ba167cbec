"""Texts that are wrong in one place are read, or refused by an error of ours that names the text."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from tests.relay_cases import function, metadata
from tvm_spm.errors import ModelError
from tvm_spm.frontend.relay import import_relay

KERNELS = np.ones((4, 3, 3, 3), "float32"), np.ones((3, 4, 3, 3), "float32")
GIVEN = {"g": np.ones(4, "float32")}
BODY = """
  %0 = nn.conv2d(%x, meta[relay.Constant][0], strides=[1, 1], padding=[1, 1], dilation=[1, 1], groups=1);
  %1 = nn.batch_norm(%0, %g, %g, %g, %g, axis=1, epsilon=1e-05f);
  %2 = nn.max_pool2d(%1.0, pool_size=[2, 2], strides=[2, 2], padding=[0, 0, 0, 0]);
  %3 = image.resize2d(%2, size=[6, 6], roi=[0f, 0f, 0f, 0f], method="linear");
  %4 = nn.pad(%3, 0f, pad_width=[[0, 0], [0, 0], [1, 1], [1, 1]]);
  %5 = reshape(strided_slice(%4, begin=[0, 0], end=[1, 2], strides=[1, 1], axes=[0, 1]), newshape=[1, -1]);
  let %t = split(%5, indices_or_sections=2, axis=1);
  %6 = expand_dims(take(concatenate((%t.0, %t.1), axis=1), 1, axis=1), axis=1, num_newaxis=2);
  %7 = nn.conv2d_transpose(%x, meta[relay.Constant][1], strides=[2, 2], padding=[1, 1], output_padding=[1, 1]);
  %8 = qnn.requantize(qnn.quantize(%7, 0.5f, 3, axis=1), 0.5f, 3, 0.25f, -1, axis=1, out_dtype="int8");
  %9 = nn.avg_pool2d(%7, pool_size=[2, 2], strides=[2, 2], padding=[1, 1]);
  (tile(repeat(%6, repeats=2, axis=0), reps=[1, 2, 1]), argmax(%5, axis=[1]), %8, topk(%5, k=3, axis=1).0, %9,
   one_hot(argmax(%5, axis=[1]), 1f, 0f, depth=3), nn.upsampling(%7, scale_h=2f, scale_w=2f),
   nn.depth_to_space(%7, block_size=2), nn.adaptive_avg_pool2d(%7, output_size=[3, 3]), nn.lrn(%7, size=3))"""
NUMBERS = ("0", "-1", "7", "1000000000000", "99999999999999999999999", "2", "-5", "inff", "None", '"x"')


def mutated(text: str, rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.7:
        begin, end = rng.choice([m.span() for m in re.finditer(r"(?<![%\w.])-?\d+(\.\d+)?f?(?=[\],)])", text)])
        return text[:begin] + rng.choice(NUMBERS) + text[end:]
    at = rng.randrange(len(text))
    if kind < 0.85:
        return text[:at] + text[at + rng.randrange(1, 9) :]
    return text[:at] + rng.choice('()[]{},;%@=-"/*#?.:0f') + text[at:]


@pytest.mark.parametrize("seed", range(3))
def test_one_wrong_place(seed: int):
    text = function(BODY, {"x": np.ones((1, 3, 8, 8), "float32")} | GIVEN)
    rng = random.Random(seed)
    import_relay(text + metadata(*KERNELS), params=GIVEN, origin="net.relay")
    refusals = []
    for _ in range(40):
        try:
            import_relay(mutated(text, rng) + metadata(*KERNELS), params=GIVEN, origin="net.relay")
        except ModelError as error:
            refusals.append(str(error))
    assert len(refusals) >= 10
    assert all(text.startswith("net.relay:") for text in refusals)
