"""MetaSchedule's tuning context without the tensor intrinsics of GPUs, whose import takes half a minute."""

from __future__ import annotations

import logging

import tvm
from tvm.s_tir.meta_schedule import TuneContext, _ffi_api
from tvm.s_tir.meta_schedule.logging import get_logging_func
from tvm.s_tir.meta_schedule.search_strategy import SearchStrategy
from tvm.s_tir.meta_schedule.space_generator import SpaceGenerator


class _LightContext(TuneContext):
    """A context whose parts are all given, made by TVM's own constructor of the object."""

    def __init__(
        self,
        mod: tvm.IRModule,
        target: tvm.target.Target | None,
        parts: tuple[SpaceGenerator | None, SearchStrategy | None],
        name: str,
        seed: int,
    ) -> None:
        log = get_logging_func(logging.getLogger(__name__))
        self.__init_handle_by_constructor__(_ffi_api.TuneContext, mod, target, *parts, name, 1, seed, log)
        _ffi_api.TuneContextInitialize(self)


def light_context(
    mod: tvm.IRModule,
    target: tvm.target.Target | None,
    name: str,
    *,
    space: SpaceGenerator | None = None,
    strategy: SearchStrategy | None = None,
    seed: int = 1,
) -> TuneContext:
    """A context of one thread.

    Args:
        mod: A function alone in a module.
        target: The accelerator.
        name: Of the task.
        space: Its designs.
        strategy: Searches them.
        seed: TVM's random state, at least 1.
    """
    return _LightContext(mod, target, (space, strategy), name, seed)
