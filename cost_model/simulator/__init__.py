"""Cycle-level model of the accelerator: events of DMA engines, NoC and PE array on every core."""

from cost_model.simulator.model import SimulatorModel, simulate_batch

__all__ = ["SimulatorModel", "simulate_batch"]
