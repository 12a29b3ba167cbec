"""A legal mapping of one layer as streams, one per core.

``streams`` puts them together: what is set up once (``setup``), then the passes of a core (``passes``) with their
transfers in the order in which the simulator serves them. ``places`` says where tiles lie in DRAM, SPM and RF and what
moves of one. The result is a tuple of ``Stream`` and the memory map they share.
"""

from tvm_spm.stream.encode.streams import LayerStreams, encode

__all__ = ["LayerStreams", "encode"]
