"""Code of attention with an online softmax."""
