"""What fused groups of layers cost: the simulator of groups.

``group_cost`` is given a group and its mapping and gives back a ``GroupCost``.
``flat`` is the group as arrays, ``walk`` follows the tiles of a core backwards from the last layer, ``passes`` asks the
formula what the array takes for a stage, ``queues`` runs all cores against the DRAM channels, ``capacity`` counts what
is live in SPM. For a search, ``probe`` judges a candidate from a few tiles, ``inner`` lists ways to run a stage on the
array and ``inner_mapper`` picks one.
"""

from cost_model.fused.cost import GroupCost, group_cost
from cost_model.fused.flat import group_key

__all__ = ["GroupCost", "group_cost", "group_key"]
