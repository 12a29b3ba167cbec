"""What MetaSchedule may rely on: failures are answers, scores mean something, what is drawn is legal and repeatable."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import s_tir
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.builder import BuilderInput
from tvm.s_tir.meta_schedule.runner import RunnerInput, RunnerResult
from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

import tvm_spm
import tvm_spm.meta_schedule as spm_ms
from schedules import layer
from tests.meta_schedule_cases import TARGET, functions, matmul, network, two_sums
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.meta_schedule.context import light_context
from tvm_spm.meta_schedule.tasks import mapping_of

CLOCK_HZ = tvm_spm.load_arch("edge-256").clock_hz


def alone(func: tvm.tirx.PrimFunc) -> tvm.IRModule:
    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})


MOD = alone(matmul())
NEST = read_nest(matmul())
assert isinstance(NEST, TirNest)
WORKLOAD = NEST.workload


def begun(made: spm_ms.Parts, mod: tvm.IRModule, *, seed: int = 1, trials: int = 32):
    """A context whose strategy has begun; the context keeps the strategy alive."""
    context = light_context(mod, made.target, "task", space=made.space, strategy=made.strategy, seed=seed).clone()
    context.pre_tuning(trials, 8, context.generate_design_space(), None, made.cost_model)
    return context


def candidate(sch: s_tir.Schedule) -> MeasureCandidate:
    return MeasureCandidate(sch, ArgInfo.from_prim_func(matmul()))


def answers(made: spm_ms.Parts, mods: list[tvm.IRModule]) -> list[tuple[float | None, str]]:
    """Seconds, or what builder or runner say is wrong."""
    found: list[tuple[float | None, str]] = []
    for result in made.builder.build([BuilderInput(mod, made.target) for mod in mods]):
        if result.error_msg is not None:
            assert result.artifact_path is None
            found.append((None, str(result.error_msg)))
            continue
        (future,) = made.runner.run([RunnerInput(result.artifact_path, "spm", [])])
        assert future.done()
        ran = future.result()
        found.append((None, str(ran.error_msg)) if ran.run_secs is None else (float(ran.run_secs[0]), ""))
    return found


def test_designs_are_legal_and_asked_again_are_others():
    made = spm_ms.parts(TARGET, num_designs=12)
    context = light_context(MOD, made.target, "task", space=made.space, seed=5)
    designs = [mapping_of(sch.mod) for _ in range(2) for sch in context.generate_design_space()]
    assert len(designs) == len(set(designs)) == 24
    for mapping in designs:
        tvm_spm.evaluate(WORKLOAD, "edge-256", mapping)


@pytest.mark.parametrize("strategy", ["replay-func", "evolutionary", None])
def test_a_space_of_few_mappings_comes_to_an_end(strategy: str | None):
    made = spm_ms.parts(TARGET, num_designs=4)
    if strategy is not None:
        options = {"population_size": 8, "init_min_unmeasured": 1} if strategy == "evolutionary" else {}
        chosen = s_tir.meta_schedule.SearchStrategy.create(strategy, **options)
        made = spm_ms.parts(TARGET, strategy=chosen, num_designs=4)
    context = light_context(alone(matmul(1)), made.target, "task", space=made.space, strategy=made.strategy).clone()
    database = s_tir.meta_schedule.database.MemoryDatabase()
    context.pre_tuning(20, 8, context.generate_design_space(), database, made.cost_model)
    batches = []
    while (batch := context.generate_measure_candidates()) is not None:
        batches.append(len(batch))
        assert len(batches) <= 20
        context.notify_runner_results(batch, [RunnerResult([1e-6], None)] * len(batch))
    assert sum(batches) <= 20 + 8


def test_a_strategy_gives_new_legal_mappings_and_repeats_itself():
    runs = []
    for _ in range(2):
        made = spm_ms.parts(TARGET)
        context = begun(made, MOD, seed=7, trials=16)
        mappings = []
        while (batch := context.generate_measure_candidates()) is not None:
            mappings += [mapping_of(each.sch.mod) for each in batch]
            found = answers(made, [each.sch.mod for each in batch])
            context.notify_runner_results(batch, [RunnerResult([seconds], None) for seconds, _ in found])
        runs.append(mappings)
    assert runs[0] == runs[1]
    assert len(runs[0]) == len(set(runs[0])) == 16
    # The untuned default is the first, so that every later one is compared with it.
    assert runs[0][0] == tvm_spm.MapSpace(workload=WORKLOAD, arch=tvm_spm.load_arch("edge-256")).default_mapping()


def test_a_search_that_gains_nothing_ends_early():
    made = spm_ms.parts(TARGET)
    context = begun(made, MOD, trials=1000)
    num_batches = 0
    while (batch := context.generate_measure_candidates()) is not None:
        num_batches += 1
        context.notify_runner_results(batch, [RunnerResult(None, "broken")] * len(batch))
    # No answer at all is no gain either, three times.
    assert num_batches == 3


def test_vector_work_is_measured_once_and_the_host_never():
    softmax = alone(functions(spm_ms.lower(network()))["softmax"])
    for mod, num_candidates in ((softmax, 1), (alone(two_sums()), 0)):
        made = spm_ms.parts(TARGET)
        context = begun(made, mod)
        batch = context.generate_measure_candidates() or []
        assert len(batch) == num_candidates
        context.notify_runner_results(batch, [RunnerResult([1.0], None)] * len(batch))
        assert context.generate_measure_candidates() is None


def test_builder_and_runner_time_what_the_simulator_times():
    made = spm_ms.parts(TARGET)
    batch = begun(made, MOD).generate_measure_candidates()
    expected = [tvm_spm.evaluate(WORKLOAD, "edge-256", mapping_of(each.sch.mod)).cycles / CLOCK_HZ for each in batch]
    assert answers(made, [each.sch.mod for each in batch]) == [(seconds, "") for seconds in expected]
    with ThreadPoolExecutor(2) as executor:
        beside = spm_ms.parts(TARGET, executor=executor)
        begun(beside, MOD)
        assert answers(beside, [each.sch.mod for each in batch]) == [(seconds, "") for seconds in expected]


def test_workers_that_are_gone_are_errors_of_their_candidates():
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    made = spm_ms.parts(TARGET, executor=executor)
    (first, *_) = begun(made, MOD).generate_measure_candidates()
    ((seconds, message),) = answers(made, [first.sch.mod])
    assert seconds is None
    assert "the workers are gone" in message


def annotated(func: tvm.tirx.PrimFunc, mapping: str, key: str) -> tvm.IRModule:
    sch = s_tir.Schedule(func)
    sch.annotate(sch.get_sblock("root"), "spm.task", key)
    sch.annotate(sch.get_sblock("root"), "spm.mapping", mapping)
    return sch.mod


def test_what_cannot_be_built_says_why():
    made = spm_ms.parts(TARGET)
    first, second = begun(made, MOD).generate_measure_candidates()[:2]
    key = str(first.sch.mod["main"].body.block.annotations["spm.task"])
    lines = [mapping_of(each.sch.mod).line() for each in (first, second)]
    plain = layer.schedule(matmul(), NEST, mapping_of(second.sch.mod)).mod["main"]
    found = answers(
        made,
        [
            MOD,
            alone(two_sums()),
            annotated(plain, lines[0], key),
            annotated(plain, lines[1], "0" * 16),
            annotated(plain, "cores: many", key),
            annotated(plain, lines[1].replace("cores: 1", "cores: OX=2"), key),
            annotated(plain, lines[1], key),
        ],
    )
    texts = [
        "it carries no mapping", "it stays on the host: 2 blocks multiply", "the code does not do what is timed",
        "which these parts of MetaSchedule have not seen", "mapping clause 'cores: many'", "illegal mapping",
    ]  # fmt: skip
    for (seconds, message), text in zip(found, texts, strict=False):
        assert seconds is None
        assert text in message
    assert found[-1][0] is not None
    (other,) = made.builder.build([BuilderInput(MOD, spm_ms.parts("quad-edge").target)])
    assert "these parts are for edge-256" in str(other.error_msg)


def test_an_artifact_of_somebody_else_is_an_error_of_its_candidate(tmp_path: Path):
    made = spm_ms.parts(TARGET)
    (tmp_path / "lib.tar").write_bytes(b"\x1f\x8b")
    (tmp_path / "other.json").write_text(json.dumps({"task": "1"}))
    wanted = [RunnerInput(str(tmp_path / name), "spm", []) for name in ("lib.tar", "other.json", "missing")]
    for future in made.runner.run(wanted):
        result = future.result()
        assert result.run_secs is None
        assert "not made by the builder of tvm_spm.meta_schedule" in str(result.error_msg)


def predicted_cycles(made: spm_ms.Parts, context: object, batch: list[MeasureCandidate]) -> np.ndarray:
    """A score is the share of the peak."""
    arch = tvm_spm.load_arch("edge-256")
    return WORKLOAD.macs / arch.peak_macs_per_cycle / made.cost_model.predict(context, batch)


def test_scores_are_those_of_the_formula_until_answers_say_otherwise(tmp_path: Path):
    made, fixed = spm_ms.parts(TARGET), spm_ms.parts(TARGET, learns=False)
    context = begun(made, MOD)
    context.pre_tuning(32, 24, [], None, made.cost_model)
    batch = list(context.generate_measure_candidates())
    cycles = np.array(
        [tvm_spm.evaluate(WORKLOAD, "edge-256", mapping_of(c.sch.mod), model="analytical").cycles for c in batch]
    )
    begun(fixed, MOD)
    for parts in (made, fixed):
        np.testing.assert_allclose(predicted_cycles(parts, context, batch), cycles, rtol=1e-6)
        parts.cost_model.update(context, batch, [RunnerResult([3 * c / CLOCK_HZ], None) for c in cycles])
    # A machine three times as slow for every mapping is learned from these answers but for what the trees shrink.
    np.testing.assert_allclose(predicted_cycles(made, context, batch), 3 * cycles, rtol=0.01)
    np.testing.assert_allclose(predicted_cycles(fixed, context, batch), cycles, rtol=1e-6)
    made.cost_model.save(str(tmp_path / "model.json"))
    again = spm_ms.parts(TARGET)
    begun(again, MOD)
    again.cost_model.load(str(tmp_path / "model.json"))
    assert again.cost_model.predict(context, batch).tolist() == made.cost_model.predict(context, batch).tolist()
    assert made.cost_model.predict(context, [candidate(s_tir.Schedule(MOD))]).tolist() == [0.0]


def test_failures_teach_nothing():
    made = spm_ms.parts(TARGET)
    context = begun(made, MOD)
    context.pre_tuning(32, 24, [], None, made.cost_model)
    batch = list(context.generate_measure_candidates())
    before = made.cost_model.predict(context, batch)
    made.cost_model.update(context, batch, [RunnerResult(None, "broken")] * len(batch))
    assert made.cost_model.predict(context, batch).tolist() == before.tolist()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path):
    # TVM calls it, and makes a RuntimeError of every error that is not its own.
    made, path = spm_ms.parts(TARGET), tmp_path / "model.json"
    for text in ("", "{", "[]", '{"version": 1}'):
        path.write_text(text)
        with pytest.raises(RuntimeError, match="not a cost model of tvm_spm.meta_schedule"):
            made.cost_model.load(str(path))
    made.cost_model.save(str(path))
    with pytest.raises(RuntimeError, match="about another accelerator than quad-edge"):
        spm_ms.parts("quad-edge").cost_model.load(str(path))
    path.write_text(path.read_text().replace('"version": 1', '"version": 0'))
    with pytest.raises(RuntimeError, match="written by version 0 of the cost model: this is 1"):
        made.cost_model.load(str(path))
    with pytest.raises(RuntimeError, match="cannot write"):
        made.cost_model.save(str(tmp_path / "missing" / "model.json"))
