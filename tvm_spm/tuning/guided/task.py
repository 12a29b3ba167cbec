"""The search of one task, step by step, so that a run can share its measurements among tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tvm_spm.cost import Cost
from tvm_spm.exact import shares_channels
from tvm_spm.mapping import Mapping
from tvm_spm.result import SearchResult
from tvm_spm.space.case import Case
from tvm_spm.space.countable import require_countable
from tvm_spm.space.mapping_batch import concat, decode, encode
from tvm_spm.tuning.exact_starts import ExactStart
from tvm_spm.tuning.guided.guide import LEAST_VALUE, Answers, Guide, answers_on
from tvm_spm.tuning.guided.pool import Pool
from tvm_spm.tuning.log_lines import SearchEnd
from tvm_spm.tuning.options import Proposer, TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.screen import space_of, unproved
from tvm_spm.tuning.search_path import ProgramOf, SearchPath

LITTLE = 1e-3
"""A step that lowers the objective by less of it counts as one that lowered nothing."""


class GuidedTask:
    """One task of a run.

    Attributes:
        case: The task, on the accelerator as declared.
        count: How often the network runs it.
        path: What was tried.
        default: The untuned mapping.
    """

    def __init__(
        self, case: Case, options: TunerOptions, run: Run, *, proposer: Proposer, program_of: ProgramOf | None,
        count: int = 1,
    ) -> None:  # fmt: skip
        """A task before its first measurement.

        Raises:
            NoMappingError: Nothing in the map space is legal; the text counts the reasons.
            WorkloadError: A mapping could take more cycles than 64 bits count.
        """
        require_countable(case.workload, case.arch)
        self.case, self.count, self._options, self._run = case, count, options, run
        self._proposer = proposer
        space = space_of(case)
        self.default = space.require_default()
        self.memory = run.memory(case.workload)
        self.path = SearchPath(case, run, self.memory, program_of)
        self._pool = Pool(space, case, proposer.make)
        self._starts: list[Mapping] = []
        self._candidates: list[Mapping] = []
        self._gain = math.inf
        self._num_idle = 0
        self._value_before = math.inf

    @property
    def gain(self) -> float:
        """By how much the next measurement may lower the logarithm of the objective; infinite before anybody looked.

        What is expected, halved for every step before that lowered nothing: expectations can be wrong for one task
        alone.
        """
        return self._gain * 0.5**self._num_idle

    @property
    def rejected(self) -> dict[str, int]:
        """Mappings refused, by reason."""
        return self._pool.rejected

    @property
    def is_measured(self) -> bool:
        """Whether any measurement succeeded."""
        return any(trial.cost is not None for trial in self.path.trials.values())

    def starts(self, guide: Guide) -> list[ExactStart]:
        """The searches of the best mapping by the numbers that are known; none if not asked for.

        Where cores share channels of DRAM the formula only estimates their waits, best for equal shares, and its best
        mapping with any factors is one that it flatters: there its best one with equal shares is a start, and that of
        the simulator of the machine as it is known, as far as its search gets.
        """
        if not self._proposer.starts_exact:
            return []
        case, most_steps = guide.case(self.case), self._options.start_steps
        waits = guide.rehearses and shares_channels(case)
        found = [ExactStart(case=case, most_steps=most_steps, perfect=False, is_simulated=waits)]
        return [*found, ExactStart(case=case, most_steps=most_steps, perfect=True)] if waits else found

    def add_starts(self, found: Sequence[Mapping]) -> None:
        """Mappings that candidates evolve from."""
        self._starts += [mapping for mapping in found if mapping not in self._starts]

    def best_start(self, guide: Guide, found: Sequence[Mapping]) -> list[Mapping]:
        """Of what exact searches found, what is expected to be best; candidates evolve from the others too."""
        if not found:
            return []
        self.add_starts(found)
        return [found[int(np.argmin(guide.expect(self.case, encode(found)).mean))]]

    def by_promise(self, guide: Guide, mappings: Sequence[Mapping]) -> list[Mapping]:
        """Those of which most is expected first, each once."""
        found = list(dict.fromkeys(mappings))
        if len(found) < 2:
            return found
        return [found[at] for at in np.argsort(guide.expect(self.case, encode(found)).mean, kind="stable")]

    def probes(self, number: int) -> list[Mapping]:
        """A few mappings that are bound by different things, for a fit."""
        rng = np.random.default_rng([self._run.seed, 0])
        space = space_of(self.case)
        batch = space.sample(rng, 256)
        batch = batch.take(space.check(batch) == 0)
        return [decode(batch, row) for row in range(min(number, batch.num_mappings))]

    def answers(self) -> Answers:
        """What was measured on this path; cycles only."""
        return answers_on(self.path, self.case.workload)

    def best_cost(self) -> Cost:
        """Of the best mapping on this path."""
        costs = [trial.cost for trial in self.path.trials.values() if trial.cost is not None]
        return min(costs, key=lambda cost: cost.objective(self.case.objective))

    def look(self, guide: Guide, number: int) -> None:
        """Find candidates, and what the best of them promises.

        Args:
            guide: What is known of the machine.
            number: Of the round: what is drawn depends on the seed and it alone.
        """
        rng = np.random.default_rng([self._run.seed, number])
        known, _ = self.path.measured()
        if self._starts:
            known = concat([known, encode(self._starts)])
        self._pool.refresh(
            guide, known, rng, generations=self._options.generations, population=self._options.population
        )
        best = math.log(max(self.path.best_value(), LEAST_VALUE))
        self._candidates, self._gain = self._pool.choose(
            best, self.path.trials, 2 * self._options.batch, rng, explores=guide.residual is not None
        )

    def next(self, number: int) -> list[Mapping]:
        """The candidates to measure next."""
        chosen, self._candidates = self._candidates[:number], self._candidates[number:]
        self._value_before = self.path.best_value()
        return chosen

    def note_step(self) -> None:
        """The candidates were measured."""
        lowered = self.path.best_value() < self._value_before * (1 - LITTLE)
        self._num_idle = 0 if lowered else self._num_idle + 1

    def end(self, settings: str) -> None:
        """Keep that the search came to its end.

        Args:
            settings: Everything but objective and seed that decides which mappings are tried.
        """
        origin = self.memory.origin
        self.memory.end(
            SearchEnd(
                task=origin.task, objective=str(self.case.objective), seed=origin.seed, measurer=origin.measurer,
                settings=settings, num_trials=self.path.num_trials, rejected=tuple(sorted(self.rejected.items())),
                failures=self.path.failures(),
            )
        )  # fmt: skip

    def result(self) -> SearchResult:
        """The best mapping of everything that is known of the task, earlier runs included."""
        best = min(
            self.memory.succeeded(),
            key=lambda trial: (trial.measured_cost.objective(self.case.objective), trial.mapping.line()),
        )
        default = self.memory.recall(self.default)
        return replace(
            unproved(self.case, best.mapping, best.measured_cost),
            default_cost=None if default is None else default.cost,
            num_evaluated=self.path.num_trials,
            rejected=tuple(sorted(self.rejected.items())),
            failures=self.path.failures(),
        )
