"""Tells Relay texts from other models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol, runtime_checkable

from tvm_spm.errors import ModelError
from tvm_spm.frontend.relay.source import check_size


@runtime_checkable
class RelayModule(Protocol):
    """A module, function or expression of a TVM that had Relay, or anything else that prints itself as Relay text."""

    def astext(self) -> str:
        """The text, with the metadata."""


SUFFIXES = (".relay", ".rly")
_BEGINNING = re.compile(r"\s*(?:#\[version|def\s+@|fn\s*\(|free_var\s+%|//|/\*)")
_NUM_SNIFFED_BYTES = 256


def relay_text(model: object) -> tuple[str, str] | None:
    """The text that a model argument is or names, and what errors call it; ``None`` if it is something else.

    Args:
        model: A text, the path of a file, or an object with a method ``astext``.

    Raises:
        ModelError: The file cannot be read, is too long, or is not text.
    """
    if isinstance(model, str) and ("\n" in model or _BEGINNING.match(model)):
        return (model, "relay text") if _BEGINNING.match(model) else None
    if isinstance(model, (str, Path)):
        return _read(Path(model))
    astext = getattr(model, "astext", None)
    if callable(astext):
        text = astext()
        if not isinstance(text, str):
            raise ModelError(f"{type(model).__name__}.astext() gave {type(text).__name__}, not text")
        return text, type(model).__name__
    return None


def _read(path: Path) -> tuple[str, str] | None:
    try:
        if not path.is_file():
            return None
        if path.suffix.lower() not in SUFFIXES:
            with path.open("rb") as file:
                beginning = file.read(_NUM_SNIFFED_BYTES).decode("utf-8", "replace")
            if not _BEGINNING.match(beginning):
                return None
        check_size(path.stat().st_size, str(path))
        return path.read_text(encoding="utf-8"), str(path)
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not a Relay text: byte {error.start} is no UTF-8") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from None
