"""Units as they are shown."""

from __future__ import annotations

import pytest

from tvm_spm.units import format_bytes, format_capacity, format_energy, format_seconds, format_si


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (3.78e-6, "3.78 us"), (0.0449, "44.9 ms"), (12.34, "12.3 s"), (125, "2 m 05 s")],
)
def test_seconds(seconds: float, text: str):
    assert format_seconds(seconds) == text


def test_sizes_energies_and_prefixes():
    assert format_bytes(296_960) == "296,960 B"
    assert format_capacity(131_072) == "128 KiB"
    assert format_energy(7.41e10) == "74.1 mJ"
    assert format_si(22_426_764, "cycles") == "22.4 Mcycles"
