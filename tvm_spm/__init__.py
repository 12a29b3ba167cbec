"""Tune, verify and time neural networks for accelerators with scratchpad memory."""
