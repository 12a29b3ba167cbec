"""StableHLO, as JAX and TensorFlow write it, as Relax modules.

``source`` tells what is such a file without loading MLIR. ``load`` parses the text, or a portable artifact, with the
MLIR that jaxlib carries (an optional dependency) and walks the functions; ``operators`` says what each operator is in
Relax, and ``value`` is a tensor with copies that are not written yet. TVM's own importer stops at the first type with
today's jaxlib, and knows no calls.
"""
