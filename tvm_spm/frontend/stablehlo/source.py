"""What is a StableHLO file, told without loading MLIR."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tvm_spm.errors import ModelError

_SUFFIXES = (".mlir", ".stablehlo", ".mlirbc")


def is_stablehlo_path(path: Path) -> bool:
    """Whether a file is StableHLO by its name."""
    return path.suffix.lower() in _SUFFIXES


def require_jaxlib(origin: str) -> None:
    """Check that the parser is installed.

    Raises:
        ModelError: It is not; says what to install.
    """
    if importlib.util.find_spec("jaxlib") is None:
        raise ModelError(f'{origin}: StableHLO is parsed by jaxlib; install it with: pip install "tvm-spm[stablehlo]"')
