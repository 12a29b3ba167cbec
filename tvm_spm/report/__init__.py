"""Where the cycles and the energy of one mapping go: a breakdown, a timeline, and pictures of it.

All of it follows what the simulator reports. ``breakdown`` sums it up by reason, resource and level, ``timeline``
lists it event by event, ``plot`` and ``plan_picture`` draw, ``text`` and ``show`` write. Nothing here is asked by a
search.
"""
