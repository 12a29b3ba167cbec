"""The closed form for many mappings at once, compiled."""
