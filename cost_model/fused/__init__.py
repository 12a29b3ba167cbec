"""What fused groups of layers cost: the simulator of groups.

``group_cost`` is given a group and its mapping and gives back a ``GroupCost``, or the reason of a ``refusal``.
``flat`` is the group as arrays, ``walk`` follows the tiles of a core backwards from the last layer, ``inner`` chooses
how the array runs a stage, ``timeline`` runs all cores against the DRAM channels, ``capacity`` counts what is live in
SPM. ``probe`` judges a candidate from a few tiles; ``compiled`` holds the entry points.
"""

from cost_model.fused.cost import GroupCost, group_cost, refuse_group_mapping
from cost_model.fused.flat import group_key

__all__ = ["GroupCost", "group_cost", "group_key", "refuse_group_mapping"]
