"""What all tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _without_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes what the user's own machines were measured to take."""
    monkeypatch.setenv("TVM_SPM_STORE", "none")
