"""The heuristic in DLFusion's manner: cores from operations and channels, and a threshold that closes a block.

Its constants are ours (``calibration``); the paper's are not public.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_spm.reproduce.dlfusion.prices import AskedPrices
from tvm_spm.reproduce.dlfusion.strategies import POWERS_OF_TWO, Chosen, PricedGroup, Strategy, grown_groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Constants of the heuristic.

    Attributes:
        macs_weight: What doubling the multiply-accumulates adds to the score, which is the binary logarithm of cores.
        channels_weight: What doubling the output channels adds.
        offset: The score of one multiply-accumulate on one channel.
        block_score: A block is closed when its own score is at least this: the binary logarithm of its
            multiply-accumulates per core,
        block_channels_weight: and what doubling its output channels adds. Fully connected layers have few
            multiply-accumulates for their channels, and every core of a block loads all of their weights.
    """

    macs_weight: float
    channels_weight: float
    offset: float
    block_score: float
    block_channels_weight: float

    def cores(self, macs: float, channels: int, counts: Sequence[int]) -> int:
        """The one of ``counts`` whose binary logarithm is nearest to the score, of two the smaller."""
        score = self.macs_weight * math.log2(macs) + self.channels_weight * math.log2(channels) + self.offset
        return min(counts, key=lambda count: (abs(math.log2(count) - score), count))

    def closes(self, macs: int, channels: int, cores: int) -> bool:
        """Whether a block has enough to do."""
        return math.log2(macs / cores) + self.block_channels_weight * math.log2(channels) >= self.block_score


def make_heuristic(rule: Rule) -> Strategy:
    """One pass over the layers; a block that does not fit is cut where it no longer does."""

    def choose(prices: AskedPrices) -> Chosen:
        counts = [count for count in POWERS_OF_TWO if count in prices.core_counts]
        blocks: list[PricedGroup] = []
        first = 0
        while first < prices.num_layers:
            stop, cores = heuristic_block(prices, first, rule, counts)
            blocks += grown_groups(prices, first, stop, cores)
            first = stop
        return blocks, ""

    return choose


def heuristic_block(prices: AskedPrices, first: int, rule: Rule, counts: Sequence[int]) -> tuple[int, int]:
    """Where the block that begins at ``first`` ends, and its cores: those of its mean layer."""
    macs, num_layers, channels, cores, stop = 0, 0, 0, min(counts), first
    for stop in range(first + 1, prices.num_layers + 1):
        workload = prices.graph.layers[stop - 1].workload
        if workload is not None:
            macs, num_layers = macs + workload.macs, num_layers + 1
            channels = max(channels, workload.dims.K * workload.dims.G)
            cores = rule.cores(macs / num_layers, channels, counts)
            if rule.closes(macs, channels, cores):
                break
    return stop, cores
