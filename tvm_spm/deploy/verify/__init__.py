"""Generated code against the untuned reference, in a process of its own.

``task`` and ``network`` are given code and give back an ``outcome``: equal, equal within a bound per element, or
where the first difference is. The code runs in another ``process``, whose crash is an outcome too; ``messages`` and
``answers`` are what the two say to each other. ``expected`` is what the reference makes of its data, found out beside
the search; ``compare`` and ``run`` are what that process does with it.
"""
