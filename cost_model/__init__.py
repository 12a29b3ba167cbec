"""What a mapping costs: reuse, formula, learned corrections, and simulation.

Every model is given a workload, an ``Arch`` and a mapping and gives back a ``Cost`` with its breakdown.
``analytical`` is the formula, one or many mappings at once; ``simulator`` the same rule event by event, with waits
for shared DRAM channels; ``fused`` prices groups of layers and ``attention`` attention, ``vector`` what runs beside
the array; ``learned`` corrects the formula by measurements. ``published`` is the model of a paper, on purpose with
its errors. ``problem`` is a workload on an accelerator, and ``nest`` one mapping of it, as records that formula and
simulator read. ``bounds`` holds floors that no mapping is below, ``transfer`` the cost of a DRAM transfer,
``objective`` what is minimised.
"""
