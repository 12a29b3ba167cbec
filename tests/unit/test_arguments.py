"""Wrong arguments of the public functions: each is one sentence that names the argument, before any work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

import tvm_spm
from tvm_spm.errors import SpmError
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.tuning.measurer import MeasureError, Measurement, MeasureRequest, measure

LAYER = tvm_spm.Workload.matmul(m=4, k=4, n=4)
ALONE = MapSpace(workload=LAYER, arch=tvm_spm.load_arch("edge-256")).require_default()


@dataclass
class Board:
    """A measurer with any name that answers anything."""

    name: object = "board"
    answer: object = None

    def measure(self, requests: Sequence[MeasureRequest]) -> object:
        return self.answer


TUNE = {
    "objective of another word": (
        {"objective": "speed"},
        "unknown objective 'speed': did you mean 'edp'?",
    ),
    "objective None": ({"objective": None}, "objective = None: must be text; choose one of 'edp', 'energy', 'latency'"),
    "no trials": ({"trials": 0}, "trials = 0: must be >= 1"),
    "negative trials": ({"trials": -3}, "trials = -3: must be >= 1"),
    "half a trial": ({"trials": 2.5}, "trials = 2.5: must be a whole number >= 1"),
    "true trials": ({"trials": True}, "trials = True: must be a whole number >= 1"),
    "negative seed": ({"seed": -1}, "seed = -1: must be >= 0"),
    "seed None": ({"seed": None}, "seed = None: must be a whole number >= 0"),
    "negative time": (
        {"time_limit_s": -1.0},
        "time_limit_s = -1.0: must be a number of seconds >= 0 and <= 2,147,483,647",
    ),
    "time NaN": (
        {"time_limit_s": math.nan},
        "time_limit_s = nan: must be a number of seconds >= 0 and <= 2,147,483,647",
    ),
    "endless time": (
        {"time_limit_s": math.inf},
        "time_limit_s = inf: must be a number of seconds >= 0 and <= 2,147,483,647",
    ),
    "time as text": (
        {"time_limit_s": "60"},
        "time_limit_s = '60': must be a number of seconds >= 0 and <= 2,147,483,647",
    ),
    "workdir 5": ({"workdir": 5}, "workdir = 5: must be the path of a directory, or None"),
    "workdir empty": ({"workdir": ""}, "workdir = '': must be the path of a directory, or None"),
    "executor 3": ({"executor": 3}, "executor = 3: has no method 'submit'"),
    "executor class": ({"executor": ThreadPoolExecutor}, "has no method 'submit'; pass a concurrent.futures.Executor"),
    "measurer text": ({"measurer": "board"}, "measurer = 'board': has no method 'measure'"),
    "measurer class": ({"measurer": Board}, "has no method 'measure'"),
    "measurer without name": ({"measurer": Board(name=None)}, "measurer.name = None: must be one or more of letters"),
    "measurer with a line": ({"measurer": Board(name="a\nb")}, r"measurer.name = 'a\nb': must be one or more"),
    "fusion as text": ({"fusion": "no"}, "fusion = 'no': must be True or False"),
    "progress 1": ({"progress": 1}, "progress = 1: must be True or False"),
    "shapes a tuple": ({"shapes": (1, 3)}, "shapes = (1, 3) (tuple): must map names of inputs to shapes"),
    "shape of text": ({"shapes": {"x": "1,3"}}, "shapes['x'] = '1,3': must be whole numbers >= 1"),
    "shape of floats": ({"shapes": {"x": (1.0, 3)}}, "shapes['x'] = (1.0, 3) (tuple): must be whole numbers >= 1"),
    "shape with 0": ({"shapes": {"x": [0, 3]}}, "shapes['x'] = [0, 3] (list): must be whole numbers >= 1"),
    "shape of no name": ({"shapes": {1: (1, 3)}}, "shapes: 1 is no name of an input"),
    "mod None": ({"mod": None}, "mod = None: must be a Relax module, an onnx.ModelProto"),
    "mod bytes": ({"mod": b"onnx"}, "mod = b'onnx' (bytes): must be a Relax module"),
    "mod empty": ({"mod": ""}, "mod = '': must be"),
    "target None": ({"target": None}, "target = None: must be 'spm/<accelerator>'"),
    "target 7": ({"target": 7}, "target = 7: must be 'spm/<accelerator>'"),
}


@pytest.mark.parametrize("case", list(TUNE))
def test_tune_refuses_it_in_one_sentence(case: str):
    given, text = TUNE[case]
    with pytest.raises(SpmError) as caught:
        tvm_spm.tune(**{"mod": "resnet18", "target": "spm/edge-256", **given})
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


SEARCH = {
    "workload": ({"workload": "conv2d"}, "workload = 'conv2d': must be a Workload"),
    "arch": ({"arch": None}, "arch = None: must be an accelerator, its name or the path of its file"),
    "constraints": ({"constraints": "SPM.K=3"}, "constraints = 'SPM.K=3': must be Constraints"),
    "trials": ({"trials": 0}, "trials = 0: must be >= 1"),
    "seed": ({"seed": -1}, "seed = -1: must be >= 0"),
    "time": ({"time_limit_s": math.nan}, "time_limit_s = nan: must be a number of seconds"),
    "factors": ({"factors": "prefect"}, "unknown factors 'prefect': did you mean 'perfect'?"),
    "perfect": (
        {"factors": "perfect", "searcher": "random"},
        "factors = 'perfect': only for searcher 'exact' with model 'analytical'",
    ),
    "perfect flag": (
        {"perfect": True, "model": "simulator"},
        "perfect = True: only for searcher 'exact' with model 'analytical'",
    ),
    "perfect and not": (
        {"factors": "perfect", "perfect": False},
        "factors = 'perfect' and perfect = False: they contradict each other; give only factors",
    ),
    "any and perfect": ({"factors": "any", "perfect": True}, "factors = 'any' and perfect = True: they contradict"),
    "no flag": ({"perfect": "yes"}, "perfect = 'yes': must be"),
    "cap NaN": ({"energy_cap_pj": math.nan}, "energy_cap_pj = nan: must be a number of pJ > 0"),
    "cap 0": ({"energy_cap_pj": 0}, "energy_cap_pj = 0: must be a number of pJ > 0"),
    "searcher": ({"searcher": "exat"}, "unknown searcher 'exat': did you mean 'exact'?"),
    "model": ({"model": "simulatr"}, "unknown model 'simulatr': did you mean 'simulator'?"),
}


@pytest.mark.parametrize("case", list(SEARCH))
def test_search_refuses_it_in_one_sentence(case: str):
    given, text = SEARCH[case]
    with pytest.raises(SpmError) as caught:
        tvm_spm.search(**{"workload": LAYER, "arch": "edge-256", **given})
    assert text in str(caught.value)


def test_evaluate_refuses_what_is_no_mapping():
    with pytest.raises(SpmError, match="mapping = None: must be a Mapping"):
        tvm_spm.evaluate(LAYER, "edge-256", None)
    with pytest.raises(SpmError, match="workload = None: must be a Workload"):
        tvm_spm.evaluate(None, "edge-256", ALONE)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, "board: measure returned None; must be a list with one Measurement per request"),
        (Measurement(cycles=3), "board: measure returned Measurement(cycles=3, energy_pj=None, cost=None)"),
        ([None], "board: answer 1 of 1 is None; must be a Measurement"),
        ([12], "board: answer 1 of 1 is 12; must be a Measurement"),
        ([], "board: 0 answers to 1 requests"),
    ],
)
def test_answers_of_a_measurer_that_are_none(answer: object, text: str):
    with pytest.raises(MeasureError) as caught:
        measure(LAYER, "edge-256", [ALONE], Board(answer=answer))
    assert text in str(caught.value)
