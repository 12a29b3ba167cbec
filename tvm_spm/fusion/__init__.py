"""Which layers run as one: mappings of groups, and the best cut of a network into groups."""
