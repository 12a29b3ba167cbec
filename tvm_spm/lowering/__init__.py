"""The TVM target ``spm/<arch>``, its pipeline, and the passes of it.

``target`` registers both. A pass is given a scheduled function and gives back one that the host can run with the same
numbers: ``tiles`` keeps copies to what the nest needs, ``double`` alternates two buffers, ``partial`` moves
unfinished sums out and back in, ``host`` binds what is left to the host's threads. ``blocks`` and ``root_block``
serve them.
"""
