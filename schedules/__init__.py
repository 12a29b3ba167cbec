"""From a Mapping to a TIR schedule."""
