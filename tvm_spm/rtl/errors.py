"""What can go wrong with hardware."""

from __future__ import annotations

from tvm_spm.errors import SpmError


class RtlError(SpmError):
    """An accelerator that is not built as hardware, a stream that it does not execute, or a tool that is missing."""
