"""A network of twelve squeeze-excite blocks and hard swishes, in the forms that exporters write: what each costs.

Source: blocks, kernels and channels are those of MobileNet-V3 large (Howard et al. 2019, table 1) where they have
squeeze-excite, with one in each of twelve blocks. For each form: what is left on the host, operations of the vector
unit behind the most costly sums, cycles and energy of the tuned network alone and with fusion. Expected time: one
to two minutes a form on two cores; ``--count`` tunes nothing and counts the work of the vector unit, in seconds.

    PYTHONPATH=. python benchmarks/squeeze_excite.py [FORM ...] [--count] [--arch NAME] [--size ROWS] [--trials N]
"""

from __future__ import annotations

import argparse
import math

import pandas as pd

import tvm_spm
from tests.squeeze_excite import Block, network
from tvm_spm.arch import load_arch
from tvm_spm.frontend import extract, load_model
from tvm_spm.workload import Workload

LARGE = tuple(
    Block(kernel=kernel, wide=wide, out=out, stride=stride, is_hard=is_hard)
    for kernel, wide, out, stride, is_hard in (
        (3, 16, 16, 1, False), (3, 64, 24, 2, False), (3, 72, 24, 1, False), (5, 72, 40, 2, False),
        (5, 120, 40, 1, False), (5, 120, 40, 1, False), (3, 240, 80, 2, True), (3, 200, 80, 1, True),
        (3, 480, 112, 1, True), (3, 672, 112, 1, True), (5, 672, 160, 2, True), (5, 960, 160, 1, True),
    )
)  # fmt: skip

FORMS = {
    "operators": {},
    "clips": {"swish": "clip, divided last", "gate": "clip, divided", "pool": "mean"},
    "two clips": {"swish": "two clips", "gate": "clip, multiplied", "pool": "flat"},
    "least and largest": {"swish": "least and largest", "gate": "sigmoid", "pool": "mean from behind"},
}


def tune(form: str, arch: str, size: int, trials: int) -> dict[str, object]:
    """One row."""
    result = tvm_spm.tune(network(LARGE, size, **FORMS[form]), f"spm/{arch}", trials=trials, baselines=False)
    layers = [each.task.work for each in result.tasks if isinstance(each.task.work, Workload)]
    cost, alone = result.cost, result.unfused_cost
    return {
        "form": form,
        "on host": sum("a view" not in call.reason for call in result.host_calls),
        "operations": max(work.epilogue.num_ops_per_elem for work in layers),
        "vector tasks": sum(each.task.count for each in result.tasks if each.mapping is None),
        "kcycles alone": alone.cycles / 1e3,
        "kcycles": cost.cycles / 1e3,
        "mJ alone": alone.energy_pj / 1e9,
        "mJ": cost.energy_pj / 1e9,
        "EDP gain": alone.edp_pj_cycles / cost.edp_pj_cycles,
        "verified": result.verified,
    }


def counted(form: str, arch: str, size: int) -> dict[str, object]:
    """What the vector unit does, before anything is tuned."""
    graph = extract(load_model(network(LARGE, size, **FORMS[form]))).graph
    own = [(task.count, task.work) for task in graph.tasks if not isinstance(task.work, Workload)]
    ops = sum(count * work.num_ops for count, work in own)
    for task in graph.tasks:
        if isinstance(task.work, Workload):
            num_elems = math.prod(axis.extent for axis in task.work.O.axes)
            ops += task.count * num_elems * task.work.epilogue.num_ops_per_elem
    return {
        "form": form,
        "on host": sum("a view" not in call.reason for call in graph.host_calls),
        "vector tasks": sum(count for count, _ in own),
        "MB of these": sum(count * (work.read_bytes + work.write_bytes) for count, work in own) / 1e6,
        "Mops": ops / 1e6,
        "vector kcycles": ops / load_arch(arch).vector.ops_per_cycle / 1e3,
    }


def main() -> None:
    """Tune and print, form by form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("forms", nargs="*", help=f"any of: {', '.join(FORMS)}")
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--arch", default="edge-256")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--trials", type=int, default=4)
    options = parser.parse_args()
    for form in options.forms or FORMS:
        arch, size = options.arch, options.size
        row = counted(form, arch, size) if options.count else tune(form, arch, size, options.trials)
        print(pd.DataFrame([row]).to_string(index=False, float_format=lambda value: f"{value:.2f}"), flush=True)


if __name__ == "__main__":
    main()
