"""The certified best mapping with any factors: the smallest tile for each number of iterations.

``search`` is the entry. ``floors`` and ``floor_list`` bound SPM tiles, ``arrays`` and ``array_list`` array tiles,
``pairs`` one of each (a ``pair``), ``pair_order`` with all loops in order, ``join`` lists the mappings that the bounds
leave, ``prices`` says what those cost; where it simulates, most promising first, the others are ``waiting``. ``tables``
holds what every cut of one dim comes to, ``ports`` how long tiles take to cross.
"""
