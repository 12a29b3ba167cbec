"""Valid ONNX graphs of odd shape and odd names: imported and run, they compute what ONNX's reference computes."""

from __future__ import annotations

from random import Random

from tests.fuzz.onnx_models import check_import, odd_model


def run(random: Random) -> str:
    """One case."""
    return check_import(odd_model(random), is_run=True)
