"""From a ``Mapping`` to TIR: layers, groups of layers, attention.

``layer`` schedules a function that TVM made, with primitives that stock TVM replays; ``group`` and ``attention``
write the code of several layers directly. Each reads its code back and compares it with what was timed.
"""
