"""Cycle-level model of the accelerator: events of DMA engines, NoC and PE array on every core.

It follows the same lockstep rule as the analytical model, event by event, and adds the wait for shared DRAM channels.
``model`` is the ``CostModel``. ``program`` is what a mapping makes the accelerator do, as one tree; compiled,
``placement`` says where a core starts, ``passes``, ``pe_array`` and ``dma`` how long a pass and its transfers take,
``boxes`` remembers transfers that come again, ``core`` and ``undisturbed`` are the timeline of one core, ``events``
that of all of them, ``rhythm`` what of it repeats. The workload, the accelerator and the mapping it is given are the
records that the formula reads too (``cost_model.problem``, ``cost_model.nest``).
"""

from cost_model.simulator.model import (
    Account,
    EventCounts,
    SimulatorModel,
    account,
    record,
    simulate_batch,
    simulate_cycles,
)

__all__ = ["Account", "EventCounts", "SimulatorModel", "account", "record", "simulate_batch", "simulate_cycles"]
