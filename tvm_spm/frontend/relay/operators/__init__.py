"""What Relay operators mean, in Relax; importing the package fills the table.

``registry`` holds the table: what an operator takes, its attributes with their defaults, and the function that makes
it. The other modules fill it by kind; each function is given tensors and attributes and gives back Relax bindings.
"""

from tvm_spm.frontend.relay.operators import (
    convolution,
    data_movement,
    dequantised,
    elementwise,
    image,
    normalisation,
    quantised,
    quantised_layers,
    reduction,
)
from tvm_spm.frontend.relay.operators.registry import OPERATORS, apply, find

__all__ = [
    "OPERATORS", "apply", "convolution", "data_movement", "dequantised", "elementwise", "find", "image",
    "normalisation", "quantised", "quantised_layers", "reduction",
]  # fmt: skip
