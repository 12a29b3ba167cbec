"""Cycles and energy of a mapping in closed form, compiled; for one mapping or a batch."""
