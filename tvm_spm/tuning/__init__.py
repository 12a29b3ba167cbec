"""Tuning: from tasks to measured mappings, and all that a run keeps.

``task`` is given one workload and gives back its best mapping: proved by the exact search, or else screened by the
formula and ranked by the learned model; measured by a ``measurer``. ``network`` does so for a whole Relax module and
has fusion, schedules, database and verification follow; ``result`` is what a user gets, compared with ``baselines``.
``run_log``, ``trial_log``, ``task_memory`` and ``saved_run`` are the work directory, in which every run ends as if it
had never been interrupted. ``warm_up`` compiles what a first run needs.
"""
