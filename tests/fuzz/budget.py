"""How many cases of each kind run in CI, and how many before a release."""

from __future__ import annotations

CI_CASES = {
    "mapping_texts": 500,
    "arch_files": 400,
    "log_lines": 400,
    "onnx_bytes": 450,
    "onnx_graphs": 100,
    "command_lines": 150,
}
"""2,000 in all."""

SLOW_TIMES = 25
"""50,000 before a release."""
