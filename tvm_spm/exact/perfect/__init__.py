"""The certified best mapping with factors that divide.

``search`` is the entry. ``spm_tiles``, by ``axis_tables``, and ``array_tiles`` list tiles with floors under their
costs, ``join`` pairs them, best bound first, ``finish`` bounds every order and buffering of a pair, of one core alone,
by ``core_passes`` and ``pass_time``, and has the formula price what that leaves.
"""
