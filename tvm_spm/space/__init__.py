"""What may be chosen for one task: the map space, its limits, and many mappings at once.

``MapSpace`` (``mapspace``) is given a workload, an accelerator and ``constraints``; it draws, changes, crosses and
counts ``MappingBatch``es (``rows``, ``repair``, ``knobs``, ``count``) and knows the untuned ``default``. ``legality``
says why a mapping is refused, ``legality_batch`` the same for a batch. ``case`` is the question put to a search.
Nothing here knows a cost.
"""
