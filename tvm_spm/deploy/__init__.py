"""Code of layers, groups and networks: built, verified, run, and kept in TVM's database.

``task_code`` schedules a task and ``task_checks`` finds out whether that computes the same, beside other work;
``network`` puts schedules into a Relax module, ``grouping`` and ``groups`` one function per group of a plan,
``side_by_side`` functions for fewer cores in the order of a plan, ``runtime`` builds the module and runs it,
``database`` keeps and applies schedules in TVM's own format. ``verify`` compares all of them with the untuned module.
"""
