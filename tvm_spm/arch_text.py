"""An accelerator as the text of a TOML file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import tomli_w

from tvm_spm.arch import Arch


def toml_of(arch: Arch) -> str:
    """The file of an accelerator; ``parse_arch`` reads it back as an equal one."""
    content = _given(asdict(arch))
    content["sources"] = dict(arch.sources)
    return tomli_w.dumps(content)


def _given(table: dict[str, Any]) -> dict[str, Any]:
    """Without what is left out, which TOML has no word for."""
    return {
        key: _given(value) if isinstance(value, dict) else value for key, value in table.items() if value is not None
    }
