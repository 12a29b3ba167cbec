"""What one transfer moves and how long it takes, by hand."""

from __future__ import annotations

import pytest

from tvm_spm.transfer import transfer


@pytest.mark.parametrize(
    ("elems", "bursts", "elem_bits", "burst_bits", "cycles", "bits"),
    [
        # 3 bursts of 20 B: 3 * 10 + 60 / 8 = 37.5 cycles
        (30, 3, 16, 1, 38, 480),
        # the same in bursts of 8 B: 3 * 24 = 72 B, 30 + 9
        (30, 3, 16, 64, 39, 576),
        # of 64 B: 192 B, 30 + 24
        (30, 3, 16, 512, 54, 1536),
        # 33 elements of 2 B in one burst: 66 B are two bursts of 64, 10 + 16
        (33, 1, 16, 512, 26, 1024),
        (32, 1, 16, 512, 18, 512),
        # 4-bit elements, 3 runs of 3: without bursts 36 bits in 5 B, 30 + 0.625; else 3 whole ones
        (9, 3, 4, 1, 31, 36),
        (9, 3, 4, 64, 33, 192),
        # nothing is moved, not even a burst
        (0, 0, 16, 512, 0, 0),
    ],
)
def test_transfer(elems: int, bursts: int, elem_bits: int, burst_bits: int, cycles: int, bits: int) -> None:
    assert transfer(elems, bursts, elem_bits, burst_bits, 10.0, 8.0) == (cycles, bits)
