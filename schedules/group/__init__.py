"""Code of fused groups, and what is read back from it."""
