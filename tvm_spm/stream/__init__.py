"""Instruction streams: what one core executes for one layer, in words that hardware can run as they stand.

``encode`` makes them, one per core, of a workload, an accelerator and a legal mapping; ``binary`` and ``text`` write
and read them; ``layout`` has every field, its place and its width; ``instructions`` the values. ``interpret`` executes
them on memory images and knows nothing else. ``memory`` says where the tensors of a layer lie, ``vector`` what may be
done to finished outputs, and ``export`` writes all of it into a directory. Layers alone have streams, fused groups have
none.
"""

from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import Stream

__all__ = ["Stream", "StreamError"]
