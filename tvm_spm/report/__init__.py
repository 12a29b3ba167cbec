"""Where the cycles and the energy of one mapping go: a breakdown, a timeline, and pictures of it."""
