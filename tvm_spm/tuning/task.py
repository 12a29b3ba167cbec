"""Tune one workload: by a proof, or by evolution guided by the formula and what it misses; measured in any case."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np

from tvm_spm.exact import shares_channels
from tvm_spm.mapping import Mapping
from tvm_spm.result import SearchResult
from tvm_spm.space.case import Case
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.countable import is_countable, require_countable
from tvm_spm.tuning.ahead import FindsStarts
from tvm_spm.tuning.exact_starts import ExactStart
from tvm_spm.tuning.guided.guide import LEAST_VALUE, Guide, answers_on
from tvm_spm.tuning.guided.pool import Pool
from tvm_spm.tuning.log_lines import SearchEnd
from tvm_spm.tuning.options import EXACT, Proposer, TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.screen import space_of, unproved
from tvm_spm.tuning.search_path import ProgramOf, SearchPath
from tvm_spm.tuning.task_memory import TaskMemory

SEARCH_VERSION = 3
"""Raised when the same settings come to try other mappings, so that searches which ended before are done again."""


TOLERANCE = 1e-9
"""Relative: the exact search and who measures add the same energies, in another order."""


def tune_workload(
    case: Case,
    options: TunerOptions,
    run: Run,
    *,
    proposer: Proposer = EXACT,
    program_of: ProgramOf | None = None,
    starts: FindsStarts | None = None,
) -> SearchResult:
    """Find the mapping of one workload that measures best.

    The exact search comes first. Where it proves the optimum of what the simulator says, nothing else is tried; where
    its budget strikes, where DRAM has pages and where somebody else measures, evolution goes on from its best.

    What earlier runs measured changes nothing in the path of the search; only the best mapping measured by then is the
    result.

    Args:
        case: What to run, where, and what is minimised.
        options: Budget.
        run: Whose trials these are.
        proposer: Who proposes what is screened.
        program_of: The scheduled code of a mapping, for a measurer that runs code.
        starts: Exact searches that ended beforehand, or run beside.

    Returns:
        The best mapping among everything that is known of the task, with a bound if the simulator measures. The cost
        of the untuned default mapping is None if its measurement failed.

    Raises:
        NoMappingError: Nothing in the map space is legal; the text counts the reasons. Or a mapping could take more
            cycles than 64 bits count.
        NoMeasurementError: No measurement succeeded.
        DisagreementError: The simulator and the analytical model differ where they must be equal.
        WorkersLostError: The executor is broken.
        WorkdirError: The log cannot be written.
    """
    require_countable(case.workload, case.arch)
    space = space_of(case)
    default = space.require_default()
    memory = run.memory(case.workload)
    settings = _settings(options, proposer, case.constraints)
    ended = memory.ended(case.objective, settings)
    if ended is not None and memory.succeeded():
        return _result(case, memory, default, ended)
    path = SearchPath(case, run, memory, program_of)
    path.measure([default])
    proof: SearchResult | None = None
    if proposer.starts_exact and path.num_trials < options.trials:
        start = start_of(case, options, run)
        proof = start.search(run.should_stop) if starts is None else starts.find(start, run.should_stop)
        path.measure([] if proof is None else [proof.mapping])
    is_bounded = proof is not None and run.measurer is None
    # A proof is one of what the simulator says, if it has no pages to open.
    is_proved = is_bounded and proof is not None and proof.certified and case.arch.levels.DRAM.pages is None
    rng = np.random.default_rng([run.seed, 0])
    guide, pool = Guide(declared=case.arch), Pool(space, case, proposer.make)
    idle, number = 0, 0
    while not is_proved and path.num_trials < options.trials and idle < options.patience and not run.should_stop():
        number += 1
        # What is drawn in a batch depends on the seed and its number alone, not on what was drawn before.
        rng.bit_generator.state = np.random.default_rng([run.seed, number]).bit_generator.state
        guide = guide.taught([answers_on(path, case.workload)], run.seed, options.min_to_rank)
        pool.refresh(guide, path.measured()[0], rng, generations=options.generations, population=options.population)
        # Chosen as if the whole batch fitted, so that a larger budget later goes on where this one ends.
        best = math.log(max(path.best_value(), LEAST_VALUE))
        chosen, _ = pool.choose(
            best, path.trials, options.batch, rng, explores=guide.residual is not None, repeats=True
        )
        if not chosen:
            break
        before = path.best_value()
        path.measure(chosen[: options.trials - path.num_trials])
        idle = 0 if path.best_value() < before else idle + 1
        run.progress.trials(path.num_trials, path.best_value(), pool.legal_share)
    if not memory.succeeded():
        raise path.no_measurement()
    end = SearchEnd(
        task=memory.origin.task, objective=str(case.objective), seed=memory.origin.seed,
        measurer=memory.origin.measurer, settings=settings, num_trials=path.num_trials,
        rejected=tuple(sorted(pool.rejected.items())), failures=path.failures(),
        lower_bound=proof.lower_bound if proof is not None and is_bounded else None,
        space=proof.space if proof is not None and is_bounded else "",
    )  # fmt: skip
    if not run.should_stop():
        memory.end(end)
    return _result(case, memory, default, end)


def start_of(case: Case, options: TunerOptions, run: Run) -> ExactStart:
    """The search of the best mapping, as far as its budget goes.

    Where cores share channels of DRAM, and the simulator measures, it is the simulator's best.
    """
    is_simulated = run.measurer is None and (shares_channels(case) or case.arch.levels.DRAM.pages is None)
    return ExactStart(
        case=case, most_steps=options.steps_for(case.objective), perfect=False, is_simulated=is_simulated
    )  # fmt: skip


def will_search(case: Case, options: TunerOptions, run: Run) -> bool:
    """Whether ``tune_workload`` needs the exact search: not for one trial, nor where an earlier run came to the end."""
    if options.trials == 1 or not is_countable(case.workload, case.arch):
        return False
    return run.memory(case.workload).ended(case.objective, _settings(options, EXACT, case.constraints)) is None


def _result(case: Case, memory: TaskMemory, default: Mapping, end: SearchEnd) -> SearchResult:
    best = min(
        memory.succeeded(), key=lambda trial: (trial.measured_cost.objective(case.objective), trial.mapping.line())
    )
    of_default = memory.recall(default)
    return replace(
        _bounded(unproved(case, best.mapping, best.measured_cost), end),
        default_cost=None if of_default is None else of_default.cost,
        num_evaluated=end.num_trials,
        rejected=end.rejected,
        failures=end.failures,
    )


def _bounded(found: SearchResult, end: SearchEnd) -> SearchResult:
    """With the bound of the exact search, if there is one."""
    if end.lower_bound is None or end.lower_bound < found.lower_bound:
        return found
    is_proved = found.value <= end.lower_bound * (1 + TOLERANCE)
    bound = min(end.lower_bound, found.value)
    return replace(found, lower_bound=bound, certified=is_proved, space=end.space)


def _settings(options: TunerOptions, proposer: Proposer, constraints: Constraints) -> str:
    """Everything but objective and seed that decides which mappings are tried."""
    found = {"version": SEARCH_VERSION, "searcher": proposer.name, "constraints": str(constraints), **asdict(options)}
    return json.dumps(found)
