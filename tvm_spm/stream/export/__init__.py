"""Streams in a directory, for a machine or a simulator of one: words, text, constants, memory map, header, manual.

``files`` writes it all; ``header`` is the C header and ``manual`` the README, both made of the table of all fields.
"""

from tvm_spm.stream.export.files import ExportedLayer, write_export

__all__ = ["ExportedLayer", "write_export"]
