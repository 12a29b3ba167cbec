"""Code of fused groups, and what is read back from it.

``code`` is given a group and its mapping and writes one function: ``regions`` says what a tile needs, ``places``
where in SPM it lies, ``mac`` and ``vector`` write the stages, ``emit`` the loops and copies. ``program`` reads the
code back and compares it with ``walk``, the plainest account of the same mapping.
"""
