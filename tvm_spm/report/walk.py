"""All cores through time: slots of a pass and its transfers, requests to the DRAM channels, and who waits for what."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Protocol

from tvm_spm.report.nest import Nest, Pass, PassShape, Share, neighbour
from tvm_spm.report.steps import PassAccount, account_pass
from tvm_spm.report.transfers import Transfer, load_transfers, store_transfers
from tvm_spm.workload import DIM_NAMES, Operand

Process = Generator[tuple[int, Transfer], int, None]
"""A core: yields when it asks for a channel and what for, and is sent the time of the grant."""


class Watcher(Protocol):
    """Told what happens, in the order of each core's time."""

    def on_pass(self, core: int, one: Pass, following: Pass | None, start: int, end: int) -> None:
        """A pass starts, when it will end, and the pass after it."""
        ...

    def on_transfer(self, core: int, channel: int, transfer: Transfer, request: int, grant: int) -> None:
        """A transfer was asked for at ``request`` and started at ``grant``."""
        ...


@dataclass(slots=True, kw_only=True)
class CoreAccount:
    """Where one core's cycles go; ``reasons`` by (reason, operand) add up to ``cycles``."""

    core: int
    cycles: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    busy: Counter[str] = field(default_factory=Counter)
    channel_cycles: int = 0
    waiting_cycles: int = 0
    macs: int = 0


@dataclass(slots=True)
class _Slot:
    """A pass, the transfers beside it and after it, and why the array waits for them."""

    pass_cycles: int
    beside: list[Transfer]
    after: list[Transfer]
    after_reason: str

    def run(self, account: CoreAccount, repeats: int) -> Process:
        """Run from ``account.cycles`` on; ``repeats`` equal slots are charged at once (without contention only)."""
        start = dma = account.cycles
        pass_end = start + self.pass_cycles
        for transfer in self.beside:
            grant = yield dma, transfer
            self._charge(account, "DMA", transfer, dma, grant, pass_end, repeats)
            dma = grant + transfer.engine_cycles
        end = max(pass_end, dma)
        for transfer in self.after:
            grant = yield end, transfer
            self._charge(account, self.after_reason, transfer, end, grant, end, repeats)
            end = grant + transfer.engine_cycles
        account.cycles = start + repeats * (end - start)

    @staticmethod
    def _charge(
        account: CoreAccount, reason: str, transfer: Transfer, request: int, grant: int, since: int, repeats: int
    ) -> None:
        """Charge what of a transfer falls after ``since``."""
        moved, end = grant + transfer.channel_cycles, grant + transfer.engine_cycles
        name = {"load": transfer.operand.name, "read back": "O in"}.get(transfer.kind, "O out")
        for key, begin, finish in (
            (("DRAM arbitration", ""), request, grant),
            ((reason, name), grant, moved),
            (("vector unit", ""), moved, end),
        ):
            if finish > max(begin, since):
                account.reasons[key] += repeats * (finish - max(begin, since))
        account.waiting_cycles += repeats * (grant - request)
        account.channel_cycles += repeats * transfer.channel_cycles
        account.busy["DMA"] += repeats * transfer.engine_cycles
        account.busy["vector unit"] += repeats * transfer.vector_cycles


class Accelerator:
    """All cores of one nest."""

    def __init__(self, nest: Nest) -> None:
        """Prepare to run ``nest``."""
        self._nest = nest
        self._pass_accounts: dict[PassShape, PassAccount] = {}

    def account(self) -> list[CoreAccount]:
        """Run all cores; without contention, equal slots are counted instead of walked."""
        shares = self._nest.shares()
        if len(shares) <= self._nest.arch.levels.DRAM.channels:
            return [self._run_undisturbed(share) for share in shares]
        return self.run(None)

    def run(
        self, watcher: Watcher | None, *, should_stop: Callable[[int], bool] = lambda time: False
    ) -> list[CoreAccount]:
        """Run every pass of every core.

        Args:
            watcher: Told what happens.
            should_stop: Asked with the time of each request; once true, the run ends unfinished.
        """
        shares = self._nest.shares()
        accounts = [self._open(share) for share in shares]
        processes = [self._process(share, account, watcher) for share, account in zip(shares, accounts, strict=True)]
        waiting: list[tuple[int, int]] = []
        wanted: dict[int, Transfer] = {}

        def advance(core: int, grant: int | None) -> None:
            try:
                time, wanted[core] = next(processes[core]) if grant is None else processes[core].send(grant)
            except StopIteration:
                return
            heapq.heappush(waiting, (time, core))

        free = [0] * self._nest.arch.levels.DRAM.channels
        for core in range(len(shares)):
            advance(core, None)
        while waiting:
            time, core = heapq.heappop(waiting)
            if should_stop(time):
                break
            channel = free.index(min(free))
            grant = max(time, free[channel])
            free[channel] = grant + wanted[core].channel_cycles
            if watcher is not None:
                watcher.on_transfer(core, channel, wanted[core], time, grant)
            advance(core, grant)
        return accounts

    def _open(self, share: Share) -> CoreAccount:
        launch = self._nest.arch.cores.launch_cycles
        account = CoreAccount(core=share.core, cycles=launch)
        if launch:
            account.reasons["launch", ""] = launch
        return account

    def _process(self, share: Share, account: CoreAccount, watcher: Watcher | None) -> Process:
        nest = self._nest
        doubled = [operand for operand in Operand if nest.is_double("SPM", operand)]
        passes = itertools.chain(nest.passes(share), [None])
        one = next(passes)
        assert one is not None
        yield from _Slot(0, [], load_transfers(nest, one), "first load").run(account, 1)
        pending: list[Transfer] = []
        for following in passes:
            start, work = account.cycles, self._work(one, account, 1)
            if watcher is not None:
                watcher.on_pass(share.core, one, following, start, start + work.cycles)
            loads = [] if following is None else load_transfers(nest, following)
            stores = store_transfers(nest, one)
            beside = pending + [load for load in loads if load.operand in doubled]
            after = [load for load in loads if load.operand not in doubled]
            is_pending = Operand.O in doubled
            if not is_pending:
                after = stores + after
            pending = stores if is_pending else []
            yield from _Slot(work.cycles, beside, [], "").run(account, 1)
            reason = "SPM buffer" if following is not None else "last store"
            yield from _Slot(0, [], after, reason).run(account, 1)
            if following is not None:
                one = following
        yield from _Slot(0, [], pending, "last store").run(account, 1)

    def _work(self, one: Pass, account: CoreAccount, repeats: int) -> PassAccount:
        """Charge the array's work on a pass."""
        if one.shape not in self._pass_accounts:
            self._pass_accounts[one.shape] = account_pass(self._nest, one.shape)
        work = self._pass_accounts[one.shape]
        for key, cycles in work.reasons.items():
            account.reasons[key] += repeats * cycles
        for resource, cycles in work.busy.items():
            account.busy[resource] += repeats * cycles
        account.macs += repeats * work.macs
        return work

    def _run_undisturbed(self, share: Share) -> CoreAccount:
        """One core that never waits for a channel: slots that are alike, as are their neighbours, are counted."""
        nest, account = self._nest, self._open(share)
        doubled = [operand for operand in Operand if nest.is_double("SPM", operand)]
        segments = [self._segments(share, loop) for loop in range(len(share.counts))]
        first = nest.look_at(share, (0,) * len(share.counts))
        _finish(_Slot(0, [], load_transfers(nest, first), "first load").run(account, 1))
        for chosen in itertools.product(*segments):
            index, repeats = tuple(at for at, _ in chosen), math.prod(times for _, times in chosen)
            before, after = neighbour(index, share.counts, -1), neighbour(index, share.counts, 1)
            one = nest.look_at(share, index)
            work = self._work(one, account, repeats)
            stores = store_transfers(nest, one)
            loads = [] if after is None else load_transfers(nest, nest.look_at(share, after))
            beside = [load for load in loads if load.operand in doubled]
            serial = [load for load in loads if load.operand not in doubled]
            if Operand.O not in doubled:
                serial = stores + serial
            elif before is not None:
                beside = store_transfers(nest, nest.look_at(share, before)) + beside
            reason = "SPM buffer" if after is not None else "last store"
            _finish(_Slot(work.cycles, beside, serial, reason).run(account, repeats))
        if Operand.O in doubled:
            _finish(_Slot(0, [], stores, "last store").run(account, 1))
        return account

    def _segments(self, share: Share, loop: int) -> list[tuple[int, int]]:
        """Iterations of a DRAM loop as (index, repeats): full tiles without padding, between such tiles, are alike."""
        nest, count, name = self._nest, share.counts[loop], self._nest.dram_loops[loop]
        spm, at = nest.mapping.spm[name], DIM_NAMES.index(name)
        starts = dict(zip(DIM_NAMES, share.first, strict=True))
        inside_first, inside_end = 0, share.extent[name] // spm
        projections = [nest.workload.projection(operand) for operand in Operand] + list(nest.workload.epilogue.extras)
        for axis in (axis for projection in projections for axis in projection.axes):
            coefficient = dict(axis.terms).get(name, 0)
            if coefficient == 0:
                continue
            others = [(d, c) for d, c in axis.terms if d != name]
            low = axis.offset + sum(c * starts[d] for d, c in others)
            high = axis.offset + sum(c * (starts[d] + share.extent[d] - 1) for d, c in others)
            first = share.first[at]
            while inside_first < inside_end and low + coefficient * (first + inside_first * spm) < 0:
                inside_first += 1
            while inside_end > inside_first and high + coefficient * (first + inside_end * spm - 1) >= axis.extent:
                inside_end -= 1
        begin, end = inside_first + 1, min(inside_end, count) - 2
        if end <= begin:
            return [(index, 1) for index in range(count)]
        alike = [(begin, end - begin + 1)]
        return [(i, 1) for i in range(begin)] + alike + [(i, 1) for i in range(end + 1, count)]


def _finish(process: Process) -> None:
    """Run a core that gets each channel at once."""
    try:
        time, _ = next(process)
        while True:
            time, _ = process.send(time)
    except StopIteration:
        return
