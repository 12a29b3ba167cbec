"""How many cases of each kind run in CI, and how many before a release."""

from __future__ import annotations

CI_CASES = {
    "mapping_texts": 400,
    "arch_files": 350,
    "log_lines": 350,
    "onnx_bytes": 450,
    "onnx_graphs": 100,
    "relay_texts": 200,
    "command_lines": 150,
}
"""2,000 in all."""

SLOW_TIMES = 25
"""50,000 before a release."""
