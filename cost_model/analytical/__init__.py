"""Cycles and energy of a mapping in closed form.

``model`` is the ``CostModel`` and takes one mapping or a batch; the rest is compiled. ``transfers`` are the DMA
transfers of a mapping, ``passes`` the cycles of its passes, ``core`` the timeline made of both, ``cores`` all of them
together, ``energy`` what is counted. Exact on one core; where cores share channels an estimate, and a bound.
"""
