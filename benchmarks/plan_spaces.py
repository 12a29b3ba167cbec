"""What plans gain by tensors that leave groups from within, and by groups that are no intervals of one order.

Source: ours; nothing published is compared. Four small networks of 16 bits, each layer alone in the best mapping that
30 steps of the exact search find; the same planner with the same budget over three spaces: intervals of one order out
of which one tensor comes, intervals out of which several may come, and all convex sets of layers. Code is not made.
Expected time: a minute; ``--quick`` plans one network on one machine in a few seconds.

    python benchmarks/plan_spaces.py [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from unittest import mock

import tvm
from tvm import relax
from tvm.relax import op

from cost_model.simulator import SimulatorModel
from tvm_spm.arch import Arch, load_arch
from tvm_spm.exact import exact_search
from tvm_spm.frontend.extract import extract
from tvm_spm.frontend.layers.graph import layer_graph
from tvm_spm.fusion import convex_groups
from tvm_spm.fusion.network import Alone, NetworkPlan, plan_network
from tvm_spm.group import Group, refuse_group
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.workload import VectorWork, Workload

Emit = Callable[[relax.Expr], relax.Var]
Body = Callable[..., relax.Expr]
LAYER_STEPS = 30


def conv(emit: Emit, x: relax.Var, weight: relax.Var) -> relax.Var:
    """Padded so that rows and columns stay, with a ReLU."""
    padding = int(weight.ty.shape.values[-1]) // 2
    return emit(op.nn.relu(emit(op.nn.conv2d(x, weight, padding=padding))))


def residual(emit: Emit, x: relax.Var, *weights: relax.Var) -> relax.Expr:
    """Blocks of two layers with a shortcut."""
    for first, second in zip(weights[::2], weights[1::2], strict=True):
        x = emit(op.nn.relu(emit(op.add(emit(op.nn.conv2d(conv(emit, x, first), second, padding=1)), x))))
    return x


def skip(emit: Emit, x: relax.Var, *weights: relax.Var) -> relax.Expr:
    """Two levels of a U-Net."""
    wide = conv(emit, conv(emit, x, weights[0]), weights[1])
    low = conv(emit, conv(emit, emit(op.nn.max_pool2d(wide, (2, 2), (2, 2))), weights[2]), weights[3])
    up = emit(op.nn.conv2d_transpose(low, weights[4], strides=(2, 2)))
    return conv(emit, emit(op.concat([wide, up], axis=1)), weights[5])


def dense(emit: Emit, x: relax.Var, *weights: relax.Var) -> relax.Expr:
    """Each layer reads the results of all before it."""
    made = [x]
    for weight in weights:
        made.append(conv(emit, made[0] if len(made) == 1 else emit(op.concat(made, axis=1)), weight))
    return emit(op.concat(made, axis=1))


def inception(emit: Emit, x: relax.Var, *weights: relax.Var) -> relax.Expr:
    """Block 3a of GoogLeNet, at 14x14."""
    one, reduce3, three, reduce5, five, project = weights
    pooled = emit(op.nn.max_pool2d(x, (3, 3), (1, 1), 1))
    branches = [conv(emit, x, one), conv(emit, conv(emit, x, reduce3), three)]
    branches += [conv(emit, conv(emit, x, reduce5), five), conv(emit, pooled, project)]
    return emit(op.concat(branches, axis=1))


NETWORKS: dict[str, tuple[Body, list[tuple[int, ...]]]] = {
    "residual, 4 blocks": (residual, [(1, 16, 56, 56), *[(16, 16, 3, 3)] * 8]),
    "skip, 2 levels": (
        skip,
        [(1, 3, 64, 64), (16, 3, 3, 3), (16, 16, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (32, 16, 2, 2), (16, 32, 3, 3)],
    ),
    "dense, 4 layers": (dense, [(1, 24, 32, 32), *[(12, channels, 3, 3) for channels in (24, 36, 48, 60)]]),
    "inception": (
        inception,
        [(1, 192, 14, 14), (64, 192, 1, 1), (96, 192, 1, 1), (128, 96, 3, 3), (16, 192, 1, 1), (32, 16, 5, 5),
         (32, 192, 1, 1)],
    ),
}  # fmt: skip


def is_interval(group: Group) -> bool:
    """Whether no layer of the network stands between layers of a group."""
    return group.sink - group.layers[0] + 1 == len(group.layers)


SPACES: dict[str, Callable[[Group], bool]] = {
    "intervals, one tensor": lambda group: is_interval(group) and len(group.leaving) == 1,
    "intervals": is_interval,
    "convex sets": lambda group: True,
}


def network(name: str) -> tvm.IRModule:
    """A network by its name."""
    body, shapes = NETWORKS[name]
    builder = relax.BlockBuilder()
    params = [relax.Var(f"p{i}", relax.TensorType(shape, "float16")) for i, shape in enumerate(shapes)]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(body(builder.emit, *params))
        builder.emit_func_output(result)
    return builder.get()


def plans(name: str, arch: Arch) -> dict[str, NetworkPlan]:
    """The best plan found in each space, for least energy times delay."""
    extraction = extract(network(name))
    layers = layer_graph(extraction)
    known: dict[Workload, Alone] = {}
    alone = []
    for node in layers.node_of_layer:
        task = extraction.graph.nodes[node].task
        work = extraction.graph.tasks[task].work
        if isinstance(work, VectorWork):
            cost = SimulatorModel().vector_cost(work, arch)
            alone.append(Alone(task=task, cost=cost, num_cores=arch.cores.count))
            continue
        if work not in known:
            found = exact_search(Case(workload=work, arch=arch, objective=Objective.EDP), most_steps=LAYER_STEPS)
            cost = SimulatorModel().cost(work, arch, found.mapping)
            known[work] = Alone(task=task, cost=cost, num_cores=found.mapping.cores.product())
        alone.append(known[work])
    found_plans = {}
    for space, may_be in SPACES.items():

        def refuse(group: Group, may_be: Callable[[Group], bool] = may_be) -> str | None:
            return refuse_group(group) if may_be(group) else "outside of the space"

        with mock.patch.object(convex_groups, "refuse_group", refuse):
            found_plans[space] = plan_network(
                layers.graph, arch, "edp", alone, why_not=lambda ways: [None] * len(ways)
            )  # fmt: skip
    return found_plans


def dram_bytes(plan: NetworkPlan) -> int:
    """Of all groups and layers."""
    apart = [plan.alone[layers[0]].cost for layers in plan.units if len(layers) == 1]
    costs = [*(way.cost for way in plan.groups), *(cost for cost in apart if cost is not None)]
    return sum(sum(cost.dram_bytes) for cost in costs)


def main() -> None:
    """Print one row per network, machine and space."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one network on one machine")
    is_quick = parser.parse_args().quick
    for name in ["inception"] if is_quick else NETWORKS:
        for arch in ["edge-256"] if is_quick else ["edge-256", "quad-edge"]:
            for space, plan in plans(name, load_arch(arch)).items():
                groups = " ".join("-".join(map(str, layers)) for layers in plan.units if len(layers) > 1)
                sys.stdout.write(
                    f"{name} on {arch}, {space}: EDP {plan.value:.5g}, within {100 * plan.gap:.2g} %, "
                    f"{dram_bytes(plan):,} B of DRAM, {plan.num_priced} groups; {groups or 'no group'}\n"
                )


if __name__ == "__main__":
    main()
