"""The mapping of a stated space with the least objective under the analytical model, with a proof for that space.

Or under the simulator, where cores share channels of DRAM and the formula only estimates: there the formula bounds what
the simulator prices (``cost_model.analytical.cores.least_cycles``).

``exact_search`` is given a ``Case`` and gives back a ``SearchResult``: the mapping, the lower bound, and the space
the bound speaks of. ``perfect`` searches factors that divide, ``any_factors`` the rest, from the best of the former on;
both bound, and leave every price that decides to ``cost_model``.

They are two searches because one is slower. With tables of dividing cuts alone, and a first mapping found under rising
ceilings, ``any_factors`` finds the optima of ``perfect`` too: for EDP on the 11 convolutions of ResNet-18 in 1.0 s of
CPU against 1.1 s on edge-256, 1.6 against 1.9 on dmazerunner-256 and 3.1 against 7.1 on quad-edge. For latency its
bounds are too loose, since rounding up and waiting for channels decide there: three layers took 1.0 s against 0.2 on
edge-256, and 9.0 against 0.4 with 4.9 million mappings priced on quad-edge. Of mappings with equal energy it returned
slower ones. ``benchmarks/bench_exact.py`` prints the seconds of both on their own spaces, by objective. They share the
case, boxes and transfers, orders, buffers, and when to stop.
"""

from tvm_spm.exact.search import exact_search, is_estimated, shares_channels

__all__ = ["exact_search", "is_estimated", "shares_channels"]
