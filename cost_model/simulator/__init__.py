"""Cycle-level model of the accelerator."""
