"""The first run compiles: much of it in a second process, so that two cores share the wait.

Compiled code is kept on disk (``jit``), so later runs only load it. Each run compiles the parts it needs and no others.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from enum import Enum
from functools import cache
from pathlib import Path
from types import TracebackType

import numpy as np

from cost_model.analytical.model import bound_batch, evaluate_batch, evaluate_rows, least_rows
from cost_model.fused.bound import bound_rows
from cost_model.fused.many import finish
from cost_model.fused.queues import run_cores
from cost_model.side_by_side import Job, finish_together
from cost_model.side_by_side.engine import run_together
from cost_model.simulator import simulate_batch
from cost_model.simulator.events import simulate_rows
from tvm_spm import interrupt
from tvm_spm.arch import load_arch
from tvm_spm.exact import exact_search
from tvm_spm.exact.any_factors.join import list_mappings
from tvm_spm.exact.any_factors.prices import FormulaPrices
from tvm_spm.exact.any_factors.relaxed import improve
from tvm_spm.exact.any_factors.search import AnyFactorsSearch
from tvm_spm.exact.perfect.join import join
from tvm_spm.exact.stops import Stops
from tvm_spm.fusion.proof import prove_group
from tvm_spm.graph import GraphTensor, Layer, LayerGraph, Read
from tvm_spm.group import Group
from tvm_spm.jit import is_on_disk
from tvm_spm.mapping import Mapping
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import encode
from tvm_spm.space.rows import vary_rows
from tvm_spm.space.tiles import tile_above
from tvm_spm.tuning.screen import space_of
from tvm_spm.workload import Workload

NOTICE = "the first run compiles, for half a minute to a minute on two cores; what it compiles is kept"


class Part(Enum):
    """What is compiled together, because it is used together."""

    EXACT = "exact search"
    DEFAULT = "default mapping"
    ANY_FACTORS = "exact search over any factors"
    SCREEN = "map space and analytical model"
    SIMULATOR = "simulator"
    GROUPS = "groups of layers"


_LAST_COMPILED: dict[Part, tuple[Callable[..., object], ...]] = {
    Part.EXACT: (join, evaluate_rows),
    Part.DEFAULT: (tile_above,),
    Part.ANY_FACTORS: (list_mappings, vary_rows, least_rows),
    Part.SCREEN: (vary_rows, evaluate_rows),
    Part.SIMULATOR: (simulate_rows,),
    Part.GROUPS: (run_cores, finish, bound_rows, run_together),
}


def parts_of_search(*, measures: bool, is_exact: bool, perfect: bool) -> tuple[Part, ...]:
    """What a search of one layer needs.

    Args:
        measures: By the simulator.
        is_exact: With the exact search.
        perfect: Only factors that divide.
    """
    more = () if perfect else (Part.ANY_FACTORS,)
    if is_exact and not measures:
        return (Part.EXACT, *more, Part.DEFAULT)
    found = (Part.SCREEN, Part.SIMULATOR) if measures else (Part.SCREEN,)
    return (Part.EXACT, *found, *more) if is_exact else found


def parts_of_tune(*, measures: bool, fuses: bool) -> tuple[Part, ...]:
    """What tuning a network needs.

    Args:
        measures: By the simulator.
        fuses: Several layers may run as one.
    """
    found = parts_of_search(measures=True, is_exact=True, perfect=False)
    kept = found if measures else tuple(part for part in found if part is not Part.SIMULATOR)
    return (*kept, Part.GROUPS) if fuses else kept


def is_compiled(parts: Iterable[Part]) -> bool:
    """Whether the code of an earlier run of the same sources is on disk."""
    return all(is_on_disk(function) for part in parts for function in _LAST_COMPILED[part])


_OWN = (Part.SIMULATOR, Part.EXACT)
"""What ``Compilation`` compiles in this process, in this order."""


class Compilation:
    """Everything compiled code is needed for, in the order in which it is needed.

    This process compiles the simulator and the exact search with perfect factors; a second one the formula, which that
    search calls last, the map space and the exact search with any factors, and then what prices fused groups, while
    this one goes on with the search.
    """

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self._own = [part for part in _OWN if part in parts]
        others = [part.name for part in parts if part not in _OWN]
        # From the folder this package is in: the cache belongs to that copy; the working directory may hold another.
        # A session of its own, as Ctrl-C is for this process to answer; it ends when its input does, however we end.
        self._other = subprocess.Popen(
            [sys.executable, "-m", "tvm_spm.tuning.warm_up", *others], cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        interrupt.add_child(self._other.pid)

    def __enter__(self) -> Compilation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._other.poll() is None:
            self._other.kill()
        self._other.wait()
        interrupt.forget_child(self._other.pid)
        for stream in (self._other.stdin, self._other.stdout):
            assert stream is not None
            stream.close()

    def finish_search(self, report: Callable[[str], None] = lambda text: None) -> None:
        """Compile, or load, what a search of one layer calls.

        Args:
            report: Told when a part is ready.
        """
        load(self._own)
        report("exact search compiled")
        assert self._other.stdout is not None
        self._other.stdout.readline()
        report("models compiled")

    def finish_groups(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Wait for what a search of fused groups calls, or until there is no time for one.

        Args:
            should_stop: Asked while waiting.
        """
        while self._other.poll() is None and not should_stop():
            try:
                self._other.wait(timeout=POLL_S)
            except subprocess.TimeoutExpired:
                continue


POLL_S = 0.1
"""Seconds between two questions whether to go on waiting."""


def load(parts: Iterable[Part]) -> None:
    """Compile, or load, so that nothing compiles later."""
    for part in parts:
        _load_once(part)


@cache
def _load_once(part: Part) -> None:
    """What a process has loaded it keeps: a search after another one waits for nothing."""
    _COMPILE[part]()


def _compile_exact() -> None:
    exact_search(_toy_case())


def _compile_any_factors() -> None:
    # without the search among perfect factors, which another process may be compiling
    case, stops = _toy_case(), Stops(None, None, None)
    near, _ = improve(case, encode([Mapping()]), math.inf, stops)
    # below a mapping that is known little is left to search, but nothing less is called
    start = FormulaPrices(case, math.inf).best_of(near, math.inf, stops)
    AnyFactorsSearch(case, math.inf, stops, start or (None, math.inf)).run()
    bound_batch(case.workload, case.arch, encode([Mapping()]))


def _compile_default() -> None:
    space_of(_toy_case()).require_default()


def _compile_screen() -> None:
    case, rng = _toy_case(), np.random.default_rng(0)
    # the formula first: another process that compiles the exact search meanwhile calls it last
    evaluate_batch(case.workload, case.arch, encode([Mapping()]))
    space = space_of(case)
    space.require_default()
    batch = space.sample(rng, 4)
    space.check(space.cross(space.mutate(batch, rng), batch, rng))


def _compile_simulator() -> None:
    case = _toy_case()
    simulate_batch(case.workload, case.arch, [Mapping()])


def _compile_groups() -> None:
    layer, arch = _toy_case().workload, _toy_case().arch
    shape = (1, 4, 4, 4)
    tensors = [GraphTensor(name="in", shape=shape, dtype="int16")]
    tensors += [GraphTensor(name=f"weight{i}", shape=(4, 4, 3, 3), dtype="int16", is_constant=True) for i in range(2)]
    tensors += [GraphTensor(name=f"out{i}", shape=shape, dtype="int16", producer=i) for i in range(2)]
    loops = tuple(layer.dims.as_dict().items())
    layers = tuple(
        Layer(
            name=f"layer{i}", output=3 + i, loops=loops, out_axes=layer.O.axes, workload=layer,
            reads=(
                Read(tensor=source, role="I", accesses=(layer.I.axes,)),
                Read(tensor=1 + i, role="W", accesses=(layer.W.axes,)),
            ),
        )
        for i, source in enumerate((0, 3))
    )  # fmt: skip
    group = Group.interval(LayerGraph(tensors=tuple(tensors), layers=layers, outputs=(4,)), 0, 2)
    prove_group(group, arch, most_steps=1)
    finish_together(arch, [Job(work=layer, mapping=Mapping())])


def _toy_case() -> Case:
    layer = Workload.conv2d(K=4, C=4, OY=4, OX=4, FY=3, FX=3, padding=1)
    return Case(workload=layer, arch=load_arch("edge-256"))


_COMPILE: dict[Part, Callable[[], object]] = {
    Part.EXACT: _compile_exact,
    Part.DEFAULT: _compile_default,
    Part.ANY_FACTORS: _compile_any_factors,
    Part.SCREEN: _compile_screen,
    Part.SIMULATOR: _compile_simulator,
    Part.GROUPS: _compile_groups,
}


def _end_with_input() -> None:
    """End when nobody is left to read what this process compiles for."""
    # Not through the stream: its lock, held by this thread, would be missing when the interpreter ends first.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    asked = [Part[name] for name in sys.argv[1:]]
    load(part for part in asked if part is not Part.GROUPS)
    sys.stdout.write("models\n")
    sys.stdout.flush()
    load(part for part in asked if part is Part.GROUPS)
