"""Instruction streams: what one core executes for one layer, in words that hardware can run as they stand.

``binary`` and ``text`` write and read them; ``layout`` has every field, its place and its width; ``instructions`` has
the values. Layers alone have streams, fused groups have none.
"""

from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import Stream

__all__ = ["Stream", "StreamError"]
