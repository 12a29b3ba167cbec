"""The library of boosted trees, loaded when the first model is fitted."""

from __future__ import annotations

from types import ModuleType

from tvm_spm.errors import SpmError


def import_xgboost() -> ModuleType:
    """The library.

    Raises:
        SpmError: It is not installed.
    """
    try:
        import xgboost
    except ImportError as error:
        raise SpmError(
            "the learned model needs xgboost: pip install xgboost (or xgboost-cpu, without GPU libraries)"
        ) from error
    return xgboost
