"""The composition root: from a model and a target to verified schedules, from a workload to the best mapping found."""

from __future__ import annotations

from collections.abc import Mapping as StringMapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cost_model.analytical.model import AnalyticalModel
from cost_model.published.mappings import MODEL_NAME, published_search
from cost_model.simulator import SimulatorModel
from tvm_spm.arch import Arch, load_arch
from tvm_spm.arguments import (
    check_bytes,
    check_choice,
    check_count,
    check_energy,
    check_executor,
    check_flag,
    check_measurer,
    check_path,
    check_seconds,
    check_shapes,
    check_type,
    check_values,
    objective_of,
)
from tvm_spm.cost import Cost, CostModel
from tvm_spm.errors import MappingError, SpmError
from tvm_spm.exact import exact_search
from tvm_spm.exact.stops import REQUEST
from tvm_spm.interrupt import StopRequest, stop_on_interrupt
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.progress import ProgressBar
from tvm_spm.result import SearchResult
from tvm_spm.searchers import SEARCHERS, MakeSearcher
from tvm_spm.space import legality
from tvm_spm.space.case import Case
from tvm_spm.space.constraints import ANYTHING, Constraints
from tvm_spm.space.countable import require_countable
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.tuning.measurer import Measurer
from tvm_spm.tuning.options import EXACT, Proposer, TunerOptions
from tvm_spm.tuning.result import TuningResult
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.screen import screen_workload
from tvm_spm.tuning.task import tune_workload
from tvm_spm.tuning.waits import TRIALS, improve_with_waits, search_with_waits
from tvm_spm.tuning.warm_up import load, parts_of_search
from tvm_spm.workers import Workers
from tvm_spm.workload import Workload

if TYPE_CHECKING:
    import tvm
    from numpy.typing import ArrayLike

    from tvm_spm.frontend.load import Model
    from tvm_spm.frontend.relay import ParamsLike
    from tvm_spm.frontend.torch.source import ExampleInputs

_MODELS: dict[str, type[AnalyticalModel] | type[SimulatorModel]] = {
    "analytical": AnalyticalModel,
    "simulator": SimulatorModel,
}
PUBLISHED_SEARCHERS = ("exact", "dmazerunner-pruned")
FACTORS = ("any", "perfect")
SEARCH_STEPS = 3000
"""Of the exact search of one layer without a time limit."""


def evaluate(workload: Workload, arch: Arch | str | Path, mapping: Mapping, *, model: str = "simulator") -> Cost:
    """Price one mapping.

    Args:
        workload: What runs.
        arch: An accelerator, the name of one, or the path of its file.
        mapping: How it runs.
        model: ``simulator`` or ``analytical``. With open pages ``analytical`` leaves out what misses cost, and the
            ``model`` of its cost says so: where no cores share a channel of DRAM its cycles are a lower bound.

    Raises:
        MappingError: The mapping is not legal; says which rule it breaks.
        SpmError: Unknown model.
    """
    check_type("workload", workload, Workload, "a Workload")
    check_type("mapping", mapping, Mapping, "a Mapping")
    accelerator = _load_arch(arch)
    require_countable(workload, accelerator)
    rejection = legality.check(workload, accelerator, mapping)
    if rejection is not None:
        raise MappingError(f"illegal mapping: {rejection}")
    cost = _cost_model(model).cost(workload, accelerator, mapping)
    if model == "analytical" and accelerator.levels.DRAM.pages is not None:
        is_bound = accelerator.cores.count <= accelerator.levels.DRAM.channels
        return replace(cost, model=f"{model}, {'a lower bound ' if is_bound else ''}without what misses of pages cost")
    return cost


def search(
    workload: Workload,
    arch: Arch | str | Path,
    *,
    objective: str = "edp",
    model: str = "analytical",
    searcher: str | MakeSearcher = "exact",
    factors: str | None = None,
    perfect: bool | None = None,
    constraints: Constraints = ANYTHING,
    energy_cap_pj: float | None = None,
    trials: int | None = None,
    time_limit_s: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> SearchResult:
    """Find the best mapping of one workload in the space of a searcher, without TVM.

    The exact searcher proves that no mapping of its space is better by the analytical model. The other two propose
    mappings, imperfect factors included, until their budget is used up.

    Args:
        workload: What to run.
        arch: An accelerator, the name of one, or the path of its file.
        objective: ``edp``, ``energy`` or ``latency``.
        model: Prices the result; with ``simulator`` the candidates are measured too, and nothing is certified. On an
            accelerator with open pages the simulator prices with ``analytical`` too, whose own optimum is the bound.
            ``dmazerunner`` is the published model of Dave et al., searched over its own tilings.
        searcher: ``exact``, ``evolutionary`` or ``random``, or a class of your own as in ``tvm_spm.searchers``; with
            the model ``dmazerunner`` only ``exact``, or ``dmazerunner-pruned`` for the authors' own pruned search.
        factors: ``any`` (if None), with the smallest tiles for their numbers of iterations; or, only for ``exact`` with
            ``analytical``, ``perfect``: those that divide, a smaller space that is searched faster.
        perfect: An earlier way to give ``factors``, which scripts still use: True for ``perfect``, False for ``any``.
            Where both are given, they must say the same.
        constraints: What every mapping must keep to; see ``tvm_spm.space.constraints``.
        energy_cap_pj: Only for ``exact`` with ``analytical``: no mapping may need more energy.
        trials: Mappings priced by ``model``, but for ``exact`` with ``analytical``, which prices what it must; default
            20,000 with ``analytical``, 64 with ``simulator``, 512 simulated with ``analytical`` and open pages.
        time_limit_s: Stop after this long with the best so far; Ctrl-C and SIGTERM stop too. Without one, ``exact``
            with ``analytical`` ends after ``SEARCH_STEPS`` steps, about half a minute, and ``ended_by`` says so.
        seed: Same seed, same result.
        progress: Show on stderr how far the search is.

    Raises:
        NoMappingError: Nothing is legal; the text counts the reasons.
        SpmError: Unknown objective, model or searcher, or arguments that contradict each other.
    """
    check_type("workload", workload, Workload, "a Workload")
    minimised = objective_of(objective)
    check_choice("model", model, (*_MODELS, MODEL_NAME))
    if model == MODEL_NAME or not callable(searcher):
        check_choice("searcher", searcher, PUBLISHED_SEARCHERS if model == MODEL_NAME else (EXACT.name, *SEARCHERS))
    if factors is not None:
        check_choice("factors", factors, FACTORS)
    if perfect is not None:
        check_flag("perfect", perfect)
        if factors is not None and perfect != (factors == "perfect"):
            raise SpmError(
                f"factors = {factors!r} and perfect = {perfect}: they contradict each other; give only factors"
            )
    given = "perfect = True" if perfect else f"factors = {factors!r}"
    perfect = bool(perfect) or factors == "perfect"
    if perfect and (model, searcher) != ("analytical", "exact"):
        raise SpmError(f"{given}: only for searcher 'exact' with model 'analytical'")
    check_flag("progress", progress)
    check_type("constraints", constraints, Constraints, "Constraints, such as Constraints.parse(['SPM.K=32'])")
    _check_budget(trials, time_limit_s, seed)
    check_energy("energy_cap_pj", energy_cap_pj)
    if energy_cap_pj is not None and (model, searcher) != ("analytical", "exact"):
        raise SpmError(f"energy_cap_pj = {energy_cap_pj:g}: only for searcher 'exact' with model 'analytical'")
    case = Case(workload=workload, arch=_load_arch(arch), objective=minimised, constraints=constraints)
    _require_energy(case.arch, minimised)
    require_countable(workload, case.arch)
    with stop_on_interrupt(time_limit_s) as should_stop:
        run = Run(seed=seed, should_stop=should_stop)
        if model == MODEL_NAME:
            should_stop.keep()
            return _search_published(case, should_stop, is_pruned=searcher == "dmazerunner-pruned")
        proposer = Proposer.of(searcher)
        waits = case.arch.levels.DRAM.pages is not None
        load(parts_of_search(measures=waits or model == "simulator", is_exact=proposer is EXACT, perfect=perfect))
        should_stop.keep()
        if model == "simulator":
            options = TunerOptions() if trials is None else TunerOptions(trials=trials)
            return tune_workload(case, options, run, proposer=proposer)
        if proposer is EXACT:
            with ProgressBar(SEARCH_STEPS, enabled=progress) as bar:
                bar.phase("exact search", total=SEARCH_STEPS, unit="steps")
                most_steps = SEARCH_STEPS if time_limit_s is None else None
                found = exact_search(
                    case, perfect=perfect, energy_cap_pj=energy_cap_pj, time_limit_s=time_limit_s,
                    most_steps=most_steps, should_stop=should_stop, report=bar.reached,
                )  # fmt: skip
            found = _with_default(_with_reason(found, should_stop, time_limit_s), case)
            if not waits:
                return found
            return improve_with_waits(
                case, run, proposer.make, found, trials=trials or TRIALS, perfect=perfect, energy_cap_pj=energy_cap_pj
            )
        if waits:
            return search_with_waits(case, run, proposer.make, trials=trials or TRIALS)
        return screen_workload(case, run, proposer.make, trials=trials or 20_000)


def _with_reason(found: SearchResult, should_stop: StopRequest, time_limit_s: float | None) -> SearchResult:
    """With the name of what asked to stop, if anything did."""
    if found.ended_by != REQUEST:
        return found
    return replace(found, ended_by=should_stop.signal_name or f"a time limit of {time_limit_s:g} s")


def _with_default(found: SearchResult, case: Case) -> SearchResult:
    default = MapSpace(workload=case.workload, arch=case.arch).default_mapping()
    priced = found.cost if default is None else AnalyticalModel().cost(case.workload, case.arch, default)
    return replace(found, default_cost=priced)


def _search_published(case: Case, should_stop: StopRequest, *, is_pruned: bool) -> SearchResult:
    if case.constraints:
        raise SpmError(f"model {MODEL_NAME!r}: constraints {case.constraints} do not apply to its own search space")
    return published_search(
        case.workload, case.arch, objective=case.objective, pruned=is_pruned, should_stop=should_stop
    )


def tune(
    mod: Model,
    target: tvm.target.Target | Arch | str | Path,
    *,
    objective: str = "edp",
    trials: int | None = None,
    time_limit_s: float | None = None,
    seed: int = 0,
    workdir: str | Path | None = None,
    executor: Executor | None = None,
    measurer: Measurer | None = None,
    store: str | Path | None = None,
    fusion: bool = True,
    baselines: bool = True,
    shapes: StringMapping[str, tuple[int, ...]] | None = None,
    values: StringMapping[str, ArrayLike] | None = None,
    params: ParamsLike = None,
    example_inputs: ExampleInputs = None,
    dtype: str | None = None,
    max_memory_bytes: int | None = None,
    progress: bool = False,
) -> TuningResult:
    """Tune, verify and time every layer of a network.

    Args:
        mod: A Relax module with or without bound parameters, an ``onnx.ModelProto``, a ``torch.nn.Module`` or
            ``torch.export.ExportedProgram``, a Relay module or its text, the path of an ONNX, Relay or ``.pt2`` file,
            or the name of a built-in model.
        target: ``spm/<accelerator>`` as text or as a TVM target, an accelerator, or the path of its file.
        objective: ``edp``, ``energy`` or ``latency``: of each task, and of the whole network where layers are fused.
        trials: Mappings measured per task at most; default 64. Where the exact search proves an optimum, that and the
            default mapping are all that is measured. With a ``measurer``, as many per task on average: one that
            promises much gets up to four times as many.
        time_limit_s: From the call until the end of the search, compilation on a first run included. The mappings of
            layers get half of it, fusion the rest; the default mapping and the start of the exact search are measured
            for every task however short it is. Verification comes on top: it is never cut.
        seed: Same seed, same result (as long as no time limit strikes).
        workdir: Keeps the log of trials and TVM's tuning database. A later run with it continues; other networks,
            objectives, seeds and measurers may share it, one run at a time.
        executor: Runs measurements and searches that do not depend on each other; in this process if None. For
            example ``tvm_spm.workers.ProcessWorkers(4)``, whose processes may be killed, a pool of
            ``concurrent.futures``, or ``get_executor()`` of a Dask client. Results do not depend on it.
        measurer: Says how long a mapping takes, for example RTL simulation or a board; the simulator if None. What
            fails costs one trial. With a method ``measure_groups`` it also times layers that run as one; vector work is
            timed by the numbers that are fitted to its answers.
        store: Where answers of a ``measurer`` are kept for all networks: the path of a file, or ``none``. By default
            what ``TVM_SPM_STORE`` says, or a file in the user's cache. Answers to equal layers are not asked again, and
            what all of them teach about the accelerator is known from the start.
        fusion: Whether several layers may run as one, tile by tile, where the plan of the whole network gains by it;
            with a ``measurer`` only if it times groups. Element-wise layers are fused with the layer before them in
            any case.
        baselines: Whether to find what results are compared with besides the default mapping: the best of four prior
            dataflows and random search, a few seconds of work beside verification; not with a ``measurer``.
        shapes: Shapes of inputs whose dims the model leaves open.
        values: Numbers of inputs that never change, such as a sampling rate: one for all elements or as many as the
            input has. They become constants, and so does all that follows from them alone.
        params: Weights of a Relay text: bytes of ``relay.save_param_dict``, the path of a file with them or of an
            ``.npz`` file, or arrays by name. Those that are missing are drawn at random, which a warning says.
        dtype: Of the numbers of a built-in network: ``float32``, ``float16``, ``bfloat16`` or ``int8``; if None, as
            wide as a word of the accelerator.
        example_inputs: What a ``torch.nn.Module`` is called with, which gives the network its shapes: a tensor, a tuple
            of them, or tensors by the names of ``forward``.
        max_memory_bytes: Refuse a model whose tensors (inputs, weights and values between operators, each once) need
            more; by default a quarter of the memory of this machine, since a run holds weights about four times.
        progress: Show on stderr how far the work is: a bar on a terminal, elsewhere a line a task.

    Returns:
        The best found so far also after a time limit, and after Ctrl-C or SIGTERM once the search has begun;
        ``left_out`` says what was not done then. A second signal ends the work: Ctrl-C raises ``KeyboardInterrupt``.

    Raises:
        SpmError: A wrong argument, an unreadable model or accelerator, a work directory of another accelerator, or no
            legal mapping for any task.
    """
    from tvm_spm.deploy.verify import process as verify_process

    minimised = objective_of(objective)
    _check_budget(trials, time_limit_s, seed)
    check_path("workdir", workdir)
    check_path("store", store)
    check_executor(executor)
    check_measurer(measurer)
    check_flag("fusion", fusion)
    check_flag("baselines", baselines)
    check_flag("progress", progress)
    check_shapes(shapes)
    check_values(values)
    if max_memory_bytes is not None:
        check_bytes("max_memory_bytes", max_memory_bytes)
    # The process that will run code imports TVM beside this one, which takes both of them seconds.
    verify_process.start_early()
    from tvm_spm.frontend import check_model
    from tvm_spm.lowering.target import arch_of
    from tvm_spm.tuning.network import NetworkOptions, tune_network

    check_model(mod)
    options = NetworkOptions(
        objective=minimised,
        task=TunerOptions() if trials is None else TunerOptions(trials=trials),
        workdir=None if workdir is None else Path(workdir),
        store=store,
        fusion=fusion,
        baselines=baselines,
        shapes=shapes,
        values=values,
        params=params,
        example_inputs=example_inputs,
        dtype=dtype,
        max_memory_bytes=max_memory_bytes,
        time_limit_s=time_limit_s,
    )
    arch = load_arch(target) if isinstance(target, (Arch, Path)) else arch_of(target)
    _require_energy(arch, minimised)
    with stop_on_interrupt(time_limit_s) as should_stop:
        with ProgressBar(options.task.trials, enabled=progress) as bar:
            run = Run(seed=seed, measurer=measurer, workers=Workers(executor), progress=bar, should_stop=should_stop)
            return tune_network(mod, arch, options, run)


def _load_arch(arch: Arch | str | Path) -> Arch:
    check_type("arch", arch, (Arch, str, Path), "an accelerator, its name or the path of its file")
    return load_arch(arch)


def _check_budget(trials: int | None, time_limit_s: float | None, seed: int) -> None:
    if trials is not None:
        check_count("trials", trials, at_least=1)
    check_seconds("time_limit_s", time_limit_s)
    check_count("seed", seed, at_least=0)


def _require_energy(arch: Arch, objective: Objective) -> None:
    if objective is not Objective.LATENCY and not arch.has_energy:
        raise SpmError(
            f"{arch.name}: all energies are 0 pJ, so no mapping has a better {objective} by its energy; "
            "give energies, or use objective 'latency'"
        )


def _cost_model(name: str) -> CostModel:
    check_choice("model", name, tuple(_MODELS))
    return _MODELS[name]()
