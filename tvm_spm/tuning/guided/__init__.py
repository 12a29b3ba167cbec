"""A search that measurements guide, for machines that the formula does not describe exactly.

``guide`` is what is known of the machine: fitted numbers, and a residual learned over all tasks. ``pool`` holds
the candidates of a task that it expects most of, ``task`` is the search of one task, ``together`` spends the
measurements of a run on all of its tasks.
"""

from __future__ import annotations

from tvm_spm.tuning.guided.guide import Guide, experience_of
from tvm_spm.tuning.guided.task import GuidedTask
from tvm_spm.tuning.guided.together import search_together

__all__ = ["Guide", "GuidedTask", "experience_of", "search_together"]
