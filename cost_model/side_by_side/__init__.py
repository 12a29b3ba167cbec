"""Layers and groups of layers that run at the same time, each on cores of its own, behind one set of DRAM channels.

``finish_together`` is given them with their mappings and gives back when each has finished. ``engine`` is the timeline
of all cores: it lets every core advance by the rules of the simulator of layers or of that of groups, and serves their
requests in the order of time, then core number, as both do.
"""

from cost_model.side_by_side.model import Job, JobEnd, finish_together

__all__ = ["JobEnd", "Job", "finish_together"]
