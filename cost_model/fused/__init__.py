"""Cost of fused groups of layers."""

from cost_model.fused.cost import GroupCost, group_cost, refuse_group_mapping
from cost_model.fused.flat import group_key

__all__ = ["GroupCost", "group_cost", "group_key", "refuse_group_mapping"]
