"""From a Mapping to TIR: layers, groups of layers, attention."""
