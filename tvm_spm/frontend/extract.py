"""The task graph of a network: which functions are tasks, how often they run and which results they read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import tvm
import tvm_ffi
from tvm import relax

from tvm_spm.errors import ModelError
from tvm_spm.frontend.calls import ENTRY, called_functions, callee_of
from tvm_spm.frontend.fuse import fuse
from tvm_spm.frontend.onnx.host import FUNCTION as ONNX_NODE
from tvm_spm.frontend.onnx.host import operator_of as onnx_operator_of
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.frontend.torch.host import FUNCTION as TORCH_NODE
from tvm_spm.frontend.torch.host import operator_of as torch_operator_of
from tvm_spm.frontend.vector_work import vector_work
from tvm_spm.lowering.root_block import has_root_block
from tvm_spm.workload import HostCall, Task, TaskGraph, TaskNode, VectorWork, Workload

_CALL_TIR = ("relax.call_tir", "relax.call_tir_inplace")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Extraction:
    """A network as tasks.

    Attributes:
        mod: The Relax module with one fused TIR function per layer.
        graph: Tasks, calls in execution order, those of a called function once and behind those of its caller, and
            calls left on the host.
        times: Per node of the graph, how often it runs: more than once in a function that is called more than once.
        functions: (name of a TIR function in ``mod``, index of its task), in order of first use.
        nests: Per task how its function realises the workload; ``None`` for vector work.
    """

    mod: tvm.IRModule
    graph: TaskGraph
    times: tuple[int, ...]
    functions: tuple[tuple[str, int], ...]
    nests: tuple[TirNest | None, ...]


@dataclass(slots=True, kw_only=True)
class _FoundTasks:
    """What the walk over ``main`` and the functions that it calls has found so far."""

    mod: tvm.IRModule
    followed: frozenset[str]
    """Relax functions that are walked over too."""
    times: int = 1
    """How often the function runs over which the walk goes."""
    tasks: list[Task] = field(default_factory=list)
    nests: list[TirNest | None] = field(default_factory=list)
    functions: dict[str, int | str] = field(default_factory=dict)
    """Per function its task, or the reason why it has none."""
    alike: dict[Workload | VectorWork, list[tuple[tvm.tirx.PrimFunc, int]]] = field(default_factory=dict)
    nodes: list[TaskNode] = field(default_factory=list)
    node_times: list[int] = field(default_factory=list)
    host_calls: list[HostCall] = field(default_factory=list)
    sources: dict[relax.Var, tuple[int, ...]] = field(default_factory=dict)
    """Per variable the calls it comes from, looking through everything that is no task."""


def extract(mod: tvm.IRModule) -> Extraction:
    """Fuse a module and find its tasks.

    Functions with equal work and equal TIR are one task. Whatever cannot be a task is listed with its reason.

    Args:
        mod: As ``load_model`` returns it; parameters bound or not.

    Raises:
        ModelError: The module has no function ``main``.
    """
    require_entry(mod)
    fused = fuse(mod)
    called = called_functions(fused)
    found = _FoundTasks(mod=fused, followed=frozenset(each.name for each in called))
    for each in called:
        found.times = each.times
        for block in each.func.body.blocks:
            for binding in block.bindings:
                found.sources[binding.var] = _visit(found, binding)
    counts = [0] * len(found.tasks)
    for node, times in zip(found.nodes, found.node_times, strict=True):
        counts[node.task] += times
    tasks = tuple(replace(task, count=count) for task, count in zip(found.tasks, counts, strict=True))
    return Extraction(
        mod=fused,
        graph=TaskGraph(tasks=tasks, nodes=tuple(found.nodes), host_calls=tuple(found.host_calls)),
        times=tuple(found.node_times),
        functions=tuple((name, task) for name, task in found.functions.items() if isinstance(task, int)),
        nests=tuple(found.nests),
    )


def require_entry(mod: tvm.IRModule) -> None:
    """Check that a module has the function that is tuned.

    Raises:
        ModelError: It has not; names those it has.
    """
    names = [name.name_hint for name, func in mod.functions_items() if isinstance(func, relax.Function)]
    if ENTRY not in names:
        listed = ", ".join(repr(name) for name in sorted(names)) or "none"
        raise ModelError(f"the module has no Relax function {ENTRY!r} (it has {listed}); rename the one to tune")


def _visit(found: _FoundTasks, binding: relax.Binding) -> tuple[int, ...]:
    """Record one binding; returns the calls its variable comes from."""
    value = binding.value
    if isinstance(value, relax.If):
        _leave_on_host(found, "if", "control flow: its branches stay on the host")
        return _sources(found, value.cond)
    if not isinstance(value, relax.Call):
        return _sources(found, value)
    arguments = tuple(dict.fromkeys(node for arg in value.args for node in _sources(found, arg)))
    if isinstance(value.op, tvm.ir.Op) and value.op.name in _CALL_TIR:
        return _visit_call_tir(found, value.args[0].name_hint, arguments)
    if callee_of(value) in found.followed:
        return arguments
    _leave_on_host(found, *_why_not(value))
    return arguments


def _visit_call_tir(found: _FoundTasks, name: str, arguments: tuple[int, ...]) -> tuple[int, ...]:
    if name not in found.functions:
        found.functions[name] = _classify(found, name)
    task = found.functions[name]
    if isinstance(task, str):
        _leave_on_host(found, name, task)
        return arguments
    found.nodes.append(TaskNode(name=name, task=task, inputs=tuple(sorted(arguments))))
    found.node_times.append(found.times)
    return (len(found.nodes) - 1,)


def _classify(found: _FoundTasks, name: str) -> int | str:
    """The task of a function, new or merged with an equal one, or the reason why it has none."""
    func = found.mod[name]
    understood = understand(func, name)
    if isinstance(understood, str):
        return understood
    nest = understood if isinstance(understood, TirNest) else None
    work = understood.workload if isinstance(understood, TirNest) else understood
    for other, task in found.alike.get(work, []):
        if tvm_ffi.structural_equal(other, func):
            return task
    found.tasks.append(Task(name=name, work=work))
    found.nests.append(nest)
    found.alike.setdefault(work, []).append((func, len(found.tasks) - 1))
    return len(found.tasks) - 1


def understand(func: tvm.tirx.PrimFunc, name: str) -> TirNest | VectorWork | str:
    """What the accelerator does with an unscheduled function: a nest, vector work, or nothing, for a reason."""
    nest = read_nest(func)
    if isinstance(nest, TirNest):
        if nest.prologue:
            return f"block {nest.prologue[0]} computes an operand before the nest, which no function of its own does"
        return nest
    if nest.has_macs:
        return nest.reason
    if has_root_block(func) and relax.analysis.has_reshape_pattern(func):
        return "a view: no data moves"
    return vector_work(func, name)


def _leave_on_host(found: _FoundTasks, name: str, reason: str) -> None:
    repeated = "" if found.times == 1 else f" (in each of {found.times:,} rounds)"
    found.host_calls.append(HostCall(name=name, reason=reason + repeated))


def _why_not(call: relax.Call) -> tuple[str, str]:
    """Name of a call that is no TIR function, and why it is none."""
    if isinstance(call.op, tvm.ir.Op):
        name = str(call.op.name)
        called = str(getattr(call.args[0], "global_symbol", "")) if name == "relax.call_pure_packed" else ""
        if called == ONNX_NODE:
            return (
                f"onnx.{onnx_operator_of(call.args[1].value)}",
                "TVM lacks this operator: ONNX's reference evaluates it",
            )
        if called == TORCH_NODE:
            return f"torch.{torch_operator_of(call.args[1].value)}", "TVM lacks this operator: PyTorch evaluates it"
        if name.startswith("relax.call_") and call.args and hasattr(call.args[0], "global_symbol"):
            return str(call.args[0].global_symbol), "a library function: its loops are not in the module"
        return name, "TVM has no TIR for this operator"
    if isinstance(call.op, relax.ExternFunc):
        return str(call.op.global_symbol), "a library function: its loops are not in the module"
    return str(getattr(call.op, "name_hint", call.op)), "a call of another Relax function"


def _sources(found: _FoundTasks, expr: relax.Expr) -> tuple[int, ...]:
    if isinstance(expr, relax.Var):
        return found.sources.get(expr, ())
    if isinstance(expr, relax.Tuple):
        return tuple(dict.fromkeys(node for item in expr.fields for node in _sources(found, item)))
    if isinstance(expr, relax.TupleGetItem):
        return _sources(found, expr.tuple_value)
    return ()
