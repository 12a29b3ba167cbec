"""MetaSchedule tunes for an accelerator: its database is filled, applied, and the numbers stay what they were."""

from __future__ import annotations

import logging
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.s_tir import meta_schedule
from tvm.s_tir.meta_schedule import relax_integration

import tvm_spm
import tvm_spm.meta_schedule as spm_ms
from tests.meta_schedule_cases import TARGET, expected, functions, inputs, matmul, network, two_sums
from tvm_spm.deploy import runtime
from tvm_spm.errors import ArchError, ModelError, SpmError, WorkdirError
from tvm_spm.frontend.tir.nest import TirNest, read_nest

INTRINSICS = "tvm.s_tir.tensor_intrin"
CLOCK_HZ = tvm_spm.load_arch("edge-256").clock_hz


def seconds(record: meta_schedule.database.TuningRecord) -> float:
    return float(np.mean([float(each) for each in record.run_secs]))


def mapping_in(func: tvm.tirx.PrimFunc) -> tvm_spm.Mapping:
    return tvm_spm.Mapping.parse(str(func.body.block.annotations["spm.mapping"]))


def best(database: meta_schedule.database.Database, func: tvm.tirx.PrimFunc) -> meta_schedule.database.TuningRecord:
    mod = tvm.IRModule({"main": func.with_attr("global_symbol", "main").with_attr("tirx.noalias", True)})
    return database.query_tuning_record(mod, tvm.target.Target(TARGET), "main")


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """TVM's own functions, but for half a minute of intrinsics of GPUs; they may configure logging only for a test."""
    if INTRINSICS not in sys.modules:
        monkeypatch.setitem(sys.modules, INTRINSICS, types.ModuleType(INTRINSICS))
    logger = logging.getLogger("tvm.s_tir.meta_schedule")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    logger.handlers.clear()
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


def check_compiled(database: meta_schedule.database.Database, lowered: tvm.IRModule) -> None:
    arrays = inputs()
    (got,) = runtime.run(spm_ms.compile_relax(database, lowered, TARGET), arrays)
    # Sums are exact; softmax rounds its power, its sum and its quotient.
    np.testing.assert_allclose(got, expected(arrays), rtol=1e-5, atol=1e-7)


def test_a_network_is_tuned_stored_applied_and_computes_the_same(tmp_path: Path):
    lowered, had_intrinsics = spm_ms.lower(network()), INTRINSICS in sys.modules
    spm_ms.tune_relax(lowered, TARGET, tmp_path, 24, num_trials_per_iter=8)
    assert (INTRINSICS in sys.modules) == had_intrinsics
    database = meta_schedule.database.JSONDatabase(work_dir=str(tmp_path), allow_missing=False)
    check_compiled(database, lowered)
    with tvm.target.Target(TARGET), database, tvm.transform.PassContext(opt_level=3):
        applied = functions(relax.transform.MetaScheduleApplyDatabase()(lowered))
    with pytest.raises(ModelError, match=r"function 'fused_.*' is scheduled already"):
        spm_ms.tune_tir(tvm.IRModule(applied), TARGET, tmp_path, 4)
    nests = {name: read_nest(func) for name, func in functions(lowered).items()}
    mapped = {name: nest for name, nest in nests.items() if isinstance(nest, TirNest)}
    assert len(mapped) == 2
    for name, nest in mapped.items():
        mapping = mapping_in(applied[name])
        # What was recorded is what the public simulator says of the mapping that the code carries.
        cost = tvm_spm.evaluate(nest.workload, "edge-256", mapping)
        assert seconds(best(database, functions(lowered)[name])) == cost.cycles / CLOCK_HZ
        found = tvm_spm.search(nest.workload, "edge-256", objective="latency")
        assert cost.cycles <= found.cost.cycles
    # Softmax has nothing to choose, so it is measured once; a view is not.
    assert num_records(database)[0] == 1
    assert len(num_records(database)) == 3
    assert sum(num_records(database)) == len(database) <= 24 + 8


def num_records(database: meta_schedule.database.Database) -> list[int]:
    """Per function, ascending."""
    found = Counter(tvm.ir.save_json(record.workload.mod) for record in database.get_all_tuning_records())
    return sorted(found.values())


def test_the_same_seed_gives_the_same_files(tmp_path: Path):
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        spm_ms.tune_tir(matmul(), TARGET, tmp_path / name, 16, num_trials_per_iter=8, seed=seed)
    one, two, other = (
        (tmp_path / name / "database_tuning_record.json").read_bytes() for name in ("one", "two", "other")
    )
    assert len(one.splitlines()) == 16
    assert one == two
    assert one != other


@pytest.mark.usefixtures("stock")
def test_functions_of_tvm_take_the_parts(tmp_path: Path):
    made = spm_ms.parts(TARGET)
    lowered = spm_ms.lower(network())
    database = relax_integration.tune_relax(
        lowered, None, TARGET, str(tmp_path / "relax"), 12, num_trials_per_iter=4, seed=0, **made.keywords()
    )
    check_compiled(database, lowered)
    assert len(num_records(database)) == 3


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize("name", ["evolutionary", "replay-trace", "replay-func"])
def test_strategies_of_tvm_search_mappings(tmp_path: Path, name: str):
    options = (
        {"population_size": 16, "init_min_unmeasured": 8, "genetic_num_iters": 2} if name == "evolutionary" else {}
    )
    made = spm_ms.parts(TARGET, strategy=meta_schedule.SearchStrategy.create(name, **options), num_designs=16)
    database = meta_schedule.tune_tir(
        matmul(), made.target, str(tmp_path), 12, num_trials_per_iter=6, seed=1, num_tuning_cores=1, **made.keywords()
    )
    records = database.get_all_tuning_records()
    assert len(records) >= 12
    texts = {str(record.trace.as_json()) for record in records}
    assert len(texts) > 6
    nest = read_nest(matmul())
    assert isinstance(nest, TirNest)
    for record in records:
        sch = tvm.s_tir.Schedule(record.workload.mod)
        record.trace.apply_to_schedule(sch, remove_postproc=False)
        cost = tvm_spm.evaluate(nest.workload, "edge-256", mapping_in(sch.mod["main"]))
        assert seconds(record) == cost.cycles / CLOCK_HZ


@pytest.mark.slow
def test_functions_of_tvm_run_with_all_they_import(tmp_path: Path):
    made = spm_ms.parts(TARGET)
    database = meta_schedule.tune_tir(matmul(), made.target, str(tmp_path), 4, seed=0, **made.keywords())
    assert len(database) == 4


def test_a_task_that_cannot_be_mapped_ends_with_its_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    mod = tvm.IRModule({"chain": two_sums(), "single": matmul()})
    database = spm_ms.tune_tir(mod, TARGET, tmp_path, 4)
    assert len(num_records(database)) == 1
    assert "it stays on the host: 2 blocks multiply and accumulate, one is expected" in caplog.text


class Failing:
    """A board that answers nothing but for mappings with the loop it likes."""

    name = "board"

    def __init__(self, works: bool) -> None:
        self.works, self.programs = works, []

    def measure(self, requests):
        self.programs += [request.program for request in requests]
        if not self.works or len(requests) > 1 or "double IW" not in requests[0].mapping.line():
            raise tvm_spm.tuning.measurer.MeasureError("the board is on fire")
        return [tvm_spm.tuning.measurer.Measurement(cycles=777)]


def test_candidates_that_fail_are_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    board = Failing(works=True)
    lowered = spm_ms.lower(network())
    database = spm_ms.tune_relax(lowered, TARGET, tmp_path, 16, using=spm_ms.parts(TARGET, measurer=board))
    assert "not measured: the board is on fire" in caplog.text
    assert all("spm.level" in program for program in board.programs)
    times = {seconds(record) for record in database.get_all_tuning_records()}
    assert 777 / CLOCK_HZ in times
    check_compiled(database, lowered)


def test_if_all_fail_the_functions_stay_as_they_are(tmp_path: Path):
    lowered = spm_ms.lower(network())
    made = spm_ms.parts(TARGET, measurer=Failing(works=False))
    database = spm_ms.tune_relax(lowered, TARGET, tmp_path, 6, num_trials_per_iter=2, using=made)
    with tvm.target.Target(TARGET), database, tvm.transform.PassContext(opt_level=3):
        applied = functions(relax.transform.MetaScheduleApplyDatabase()(lowered))
    assert not any("spm.mapping" in func.body.block.annotations for func in applied.values())
    check_compiled(database, lowered)


def test_a_work_directory_goes_on_and_keeps_its_accelerator(tmp_path: Path):
    spm_ms.tune_tir(matmul(), TARGET, tmp_path, 4, seed=1)
    path = tmp_path / "database_tuning_record.json"
    path.write_bytes(path.read_bytes() + b"{ cut")
    database = spm_ms.tune_tir(matmul(24), TARGET, tmp_path, 4, seed=1)
    assert len(num_records(database)) == 2
    with pytest.raises(WorkdirError, match="holds schedules for spm/edge-256, not for spm/eyeriss-168"):
        spm_ms.tune_tir(matmul(), "spm/eyeriss-168", tmp_path, 4)


def test_wrong_arguments_are_named(tmp_path: Path):
    with pytest.raises(ArchError, match="target 'llvm' is not an accelerator of ours"):
        spm_ms.tune_tir(matmul(), tvm.target.Target("llvm"), tmp_path, 4)
    with pytest.raises(ArchError, match="these parts are for quad-edge, the target is spm/edge-256"):
        spm_ms.tune_tir(matmul(), TARGET, tmp_path, 4, using=spm_ms.parts("quad-edge"))
    with pytest.raises(ModelError, match=r"no TIR function to tune: lower it first"):
        spm_ms.tune_relax(network(), TARGET, tmp_path, 4)
    with pytest.raises(SpmError, match="work_dir = None: must be the path of a directory"):
        spm_ms.tune_tir(matmul(), TARGET, None, 4)  # type: ignore[arg-type]
    with pytest.raises(SpmError, match="max_trials_global = 0: must be >= 1"):
        spm_ms.tune_tir(matmul(), TARGET, tmp_path, 0)
    with pytest.raises(SpmError, match="mod = 'resnet18': must be a Relax module"):
        spm_ms.tune_relax("resnet18", TARGET, tmp_path, 4)  # type: ignore[arg-type]
    with pytest.raises(SpmError, match="measurer = 3: has no method 'measure'"):
        spm_ms.parts(TARGET, measurer=3)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
