"""What may be chosen for one task: the map space, its limits, and many mappings at once."""
