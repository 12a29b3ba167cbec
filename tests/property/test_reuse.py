"""Every count of ``reuse`` against a walk of the whole nest that moves the tiles one by one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analytical_cases import draw_case
from tests.oracle.reuse import count_reuse
from tests.oracle.traffic import Traffic


@given(seed=st.integers(0, 2**32 - 1), cores=st.sampled_from([1, 1, 3, 4]), perfect=st.booleans())
@settings(max_examples=150, deadline=None)
def test_counts_equal_a_walk_of_the_nest(seed: int, cores: int, perfect: bool) -> None:
    workload, arch, mapping = draw_case(seed, cores=cores, perfect=perfect, most=5, max_steps=250)
    walk, reuse = Traffic(workload, mapping, arch.levels.DRAM.burst_bytes).counts, count_reuse(workload, mapping)
    tensors = dict(zip(("I", "W", "O in"), reuse.dram_in, strict=True))
    tensors |= {"O spill": reuse.dram_spill, "O final": reuse.dram_final}
    for name, traffic in tensors.items():
        assert traffic.num_elems == walk[f"{name} elems"], name
        assert traffic.num_bytes(arch) == walk[f"{name} bytes"], name
        assert traffic.num_bursts == walk[f"{name} bursts"], name
        assert traffic.num_transfers == walk[f"{name} transfers"], name
    assert sum(extra.num_elems for extra in reuse.dram_extras) == walk["extras elems"]
    assert sum(extra.num_bursts for extra in reuse.dram_extras) == walk["extras bursts"]
    assert reuse.dram_bytes(arch)[3] == walk["extras bytes"]
    assert reuse.unused_bits(arch) == walk["unused bits"]
    for name, traffic in zip(("I", "W"), reuse.rf_in, strict=False):
        assert traffic.num_elems == walk[f"{name} crossed"], name
        assert traffic.num_deliveries == walk[f"{name} delivered"], name
        assert traffic.num_transfers == walk[f"{name} loads"], name
    assert reuse.rf_in[2].num_elems == walk["O read back"]
    assert reuse.rf_out.num_elems == walk["O left"]
    assert reuse.num_reduction_hops == walk["hops"]


@given(seed=st.integers(0, 2**32 - 1), cores=st.sampled_from([1, 4]))
@settings(max_examples=100, deadline=None)
def test_traffic_is_never_below_what_must_move(seed: int, cores: int) -> None:
    workload, _, mapping = draw_case(seed, cores=cores, max_steps=10**9)
    reuse = count_reuse(workload, mapping)
    # every weight and output lies inside its tensor, and each is needed
    assert reuse.dram_in[1].num_elems >= workload.W.tensor_elems()
    assert reuse.dram_final.num_elems >= workload.O.tensor_elems()
    if workload.dims.G == 1:
        # only the box around several groups with part of their channels each has holes
        assert reuse.dram_final.num_elems == workload.O.tensor_elems()
    assert reuse.dram_in[2].num_elems == reuse.dram_spill.num_elems
    assert (reuse.dram_spill.num_elems > 0) == mapping.spill
