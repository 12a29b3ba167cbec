"""Cycle-level model of the accelerator: events of DMA engines, NoC and PE array on every core.

It follows the same lockstep rule as the analytical model, event by event, and adds the wait for shared DRAM channels.
"""

from cost_model.simulator.model import EventCounts, SimulatorModel, simulate_batch, simulate_events

__all__ = ["EventCounts", "SimulatorModel", "simulate_batch", "simulate_events"]
