"""Attention with an online softmax: what it costs, and its best tiles."""
