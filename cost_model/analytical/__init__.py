"""Cycles and energy of a mapping in closed form."""
