"""Executes streams on memory images, knowing nothing but their instructions.

``core`` walks the instructions of one core and gives back what moved; ``boxes`` are the tiles in memory that an
instruction names; ``array`` runs a pass, with what enters and leaves the PEs, and counts it; ``vector`` is the vector
unit. Sums of whole numbers wrap as hardware does, so that results are exact.
"""

from tvm_spm.stream.interpret.array import Traffic
from tvm_spm.stream.interpret.core import Execution, Transferred, interpret

__all__ = ["Execution", "Traffic", "Transferred", "interpret"]
