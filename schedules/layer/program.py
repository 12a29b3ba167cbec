"""Reads back from scheduled code what it makes the accelerator do, to compare it with what the simulator times."""

from __future__ import annotations

from tvm import tirx

from cost_model.simulator.program import Program, assemble, finish_of, program_of
from schedules.layer.code import Code
from schedules.layer.executed import Executed
from schedules.layer.turns import check_turns
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.tir.nest import TirNest
from tvm_spm.lowering.blocks import placed_blocks
from tvm_spm.lowering.double import staged_buffer
from tvm_spm.lowering.partial import DOUBLE
from tvm_spm.lowering.tiles import exact_tiles
from tvm_spm.mapping import Mapping


def check_timed_is_executed(func: tirx.PrimFunc, nest: TirNest, mapping: Mapping) -> str | None:
    """Whether scheduled code does what the simulator times for a mapping.

    Args:
        func: Scheduled, not lowered yet.
        nest: Of the function it was made from.
        mapping: That was simulated.

    Returns:
        ``None`` if both are the same program, else the first difference.
    """
    try:
        executed = program_from_tir(exact_tiles(func), nest)
    except ScheduleError as error:
        return str(error)
    timed = program_of(nest.workload, mapping.canonical(nest.workload))
    if executed == timed:
        return None
    lines = zip(str(executed).splitlines(), str(timed).splitlines(), strict=False)
    for got, want in lines:
        if got != want:
            return f"the code runs {got.strip()!r}, the simulator times {want.strip()!r}"
    return "the code and the simulated program differ in length"


def program_from_tir(func: tirx.PrimFunc, nest: TirNest) -> Program:
    """The program that scheduled code executes, read from its loops, guards, copies and buffers.

    Args:
        func: After ``exact_tiles``.
        nest: Of the function it was made from.

    Raises:
        ScheduleError: The code does something no program describes, for example a copy that does not move exactly
            what is left of its tile; names the block.
    """
    placed = list(placed_blocks(func.body))
    mac = next(block for block in placed if block.block.name_hint in (nest.block, f"{nest.block}_update"))
    marked = [block for block in placed if DOUBLE in block.block.annotations and block.copied_operand]
    code = Code.of(mac, nest, frozenset(staged_buffer(block) for block in marked))
    executed = Executed(code)
    executed.check_macs(mac)
    check_turns(code, placed)
    copies, buffers, streams = [], [], {}
    at_mac, at_store = placed.index(mac), (0, "always")
    for number, block in enumerate(placed):
        executed.check_memory(block)
        if block.copied_operand.startswith("E"):
            depth, (extra, when, elems) = executed.stream(block)
            streams[extra] = (depth, when, elems)
            continue
        if not block.copied_operand:
            executed.check_other(block, mac)
            continue
        depth, copy = executed.copy(block, before=number < at_mac)
        copies.append((depth, copy))
        if copy.path == "DMA" and copy.when in ("always", "finished"):
            buffers.append(executed.buffer(block, copy))
        if copy.path == "DMA" and copy.direction == "out" and copy.when != "unfinished":
            executed.check_epilogue(block)
            at_store = (depth, copy.when)
            streams |= {extra: (depth, when, elems) for extra, when, elems in executed.reads_of_one_tensor(block)}
    for extra in range(len(nest.workload.epilogue.extras)):
        if streams.get(extra, ())[:2] != at_store:
            raise ScheduleError(f"extra {extra} of the epilogue is not read once for every tile that leaves")
    boxes = tuple(streams[extra][2] for extra in range(len(streams)))
    finish = finish_of(nest.workload, at_store[1], boxes)
    return assemble(nest.workload.dims, buffers, code.outer, copies, code.compute, finish)
