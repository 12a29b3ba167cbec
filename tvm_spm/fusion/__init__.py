"""Which layers run as one: mappings of groups, and the best cut of a network into groups.

``search`` is given a group and gives back its Pareto front of mappings: ``candidates`` tries cores, tiles and kept
overlap, ``probe`` judges them from a few tiles, ``timing`` times the most promising. ``network`` asks for the best
plan of all groups and refines what it uses; ``planner`` finds that plan in a ``table`` of whole numbers, by ``sweep``
at given prices of a cycle and a pJ, ``hull`` for energy times delay.
``side_by_side`` lets branches of a plan run at the same time: ``down_sets`` lists the orders, ``side_ways`` ways to
run on fewer cores and what several cost together.
"""
