"""TVM's MetaSchedule for accelerators: its loop and database, our mappings as its space, the simulator as its device.

    import tvm_spm.meta_schedule as spm_ms

    mod = spm_ms.lower(mod)                                               # Relax operators become TIR functions
    database = spm_ms.tune_relax(mod, "spm/edge-256", "work", 256)        # a JSONDatabase in the directory
    executable = spm_ms.compile_relax(database, mod, "spm/edge-256")      # MetaScheduleApplyDatabase and relax.build

TVM's own functions take the same parts, but import the intrinsics of all GPUs first, which takes half a minute:

    made = spm_ms.parts("spm/edge-256")
    meta_schedule.tune_tir(mod, made.target, "work", 256, seed=0, **made.keywords())

``tune`` is that loop and ``context`` what spares it the half minute; ``parts`` puts together ``space`` (sketches that
carry a mapping, a mutator and a post-processor), ``strategy`` (on ``queue``), ``measure`` (builder and runner) and
``model`` (cost model); ``tasks`` says what a function is to the accelerator. MetaSchedule minimises seconds, so
mappings are chosen for latency.
"""

from __future__ import annotations

from tvm_spm.meta_schedule.parts import Parts, parts
from tvm_spm.meta_schedule.tune import compile_relax, lower, tune_relax, tune_tir

__all__ = ["Parts", "compile_relax", "lower", "parts", "tune_relax", "tune_tir"]
