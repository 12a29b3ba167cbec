"""The tables of Liu et al. (DLFusion), on a model of their machine.

``networks`` gives layers, ``groups`` what a group of them costs, ``prices`` remembers it, ``strategies`` and
``heuristic`` hold eight ways to choose groups and cores from these prices, ``calibration`` finds the constants of the
heuristic on ``synthetic`` layers. ``setup`` runs them, one row each; ``tables`` and ``halo`` show the rows, and
``recompute`` counts what overlap computes again.
"""
