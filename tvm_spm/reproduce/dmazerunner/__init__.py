"""The tables of Dave et al. (dMazeRunner), in their published model (``cost_model.published``).

``setup`` holds layers, dataflows, quoted numbers and the searches to run, ``tables`` makes the tables from their
rows.
"""
