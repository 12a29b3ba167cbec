"""What Relay operators mean, in Relax; importing the package fills the table."""

from tvm_spm.frontend.relay.operators import (
    convolution,
    data_movement,
    elementwise,
    image,
    normalisation,
    quantised,
    quantised_layers,
    reduction,
)
from tvm_spm.frontend.relay.operators.registry import OPERATORS, apply, find

__all__ = [
    "OPERATORS", "apply", "convolution", "data_movement", "elementwise", "find", "image", "normalisation", "quantised",
    "quantised_layers", "reduction",
]  # fmt: skip
