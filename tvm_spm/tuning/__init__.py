"""Tuning of one task and of a network, what is measured, the work directory and the result."""
