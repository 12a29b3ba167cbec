"""Attention with an online softmax: what it costs, and its best tiles.

``search`` is given an ``Attention`` and an accelerator and gives back tiles and their cost by ``model``; ``core``
lists what one core does, ``stages`` times the two products of a tile on the array.
"""
