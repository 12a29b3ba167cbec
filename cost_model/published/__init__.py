"""The execution model of Dave et al. as published, to the last digit, and its search.

Only tables of papers and ``--model dmazerunner`` use it. ``nest`` sees a workload and an accelerator as the paper
does, ``model`` prices a tiling in all loop orders, readably, and ``batch`` many, compiled. ``space`` holds the
authors' prunes, ``lattice`` all tilings, ``bounds`` what they cost at least, ``search`` the searches. ``mappings``
translates results into our nouns.
"""
