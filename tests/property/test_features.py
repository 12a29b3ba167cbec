"""Compiled features against a reading of them, name by name."""

from __future__ import annotations

import numpy as np
import pytest

from cost_model.learned import Estimate, feature_names, features
from tests.oracle.features import features_of
from tvm_spm.arch import load_arch
from tvm_spm.space.mapping_batch import decode, encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

LAYERS = {
    "a convolution": Workload.conv2d(K=24, C=6, OY=11, OX=7, FY=3, FX=3, stride=2, padding=1),
    "depthwise": Workload.conv2d(groups=12, K=12, C=12, OY=9, OX=9, FY=3, FX=3, padding=1),
    "a product": Workload.matmul(m=12, k=20, n=9, batch=3),
}


@pytest.mark.parametrize("arch", ["edge-256", "quad-edge", "vta-1x16x16"])
@pytest.mark.parametrize("layer", LAYERS)
def test_features_are_what_their_names_say(layer, arch):
    workload, machine = LAYERS[layer], load_arch(arch)
    space, rng = MapSpace(workload=workload, arch=machine), np.random.default_rng(1)
    batch = space.sample(rng, 200)
    batch = batch.take(np.flatnonzero(space.check(batch) == 0)[:40])
    cycles, energy = rng.uniform(1e3, 1e6, (2, batch.num_mappings))
    found = features(workload, machine, batch, Estimate(cycles, energy))
    names = feature_names()
    assert batch.num_mappings > 5
    for row in range(batch.num_mappings):
        mapping = decode(batch, row)
        wanted = features_of(workload, machine, mapping, cycles[row], energy[row])
        assert set(wanted) == set(names)
        np.testing.assert_allclose(found[row], [wanted[name] for name in names], rtol=1e-5, atol=1e-5)


def test_threads_change_nothing():
    workload, machine = LAYERS["a convolution"], load_arch("edge-256")
    one = MapSpace(workload=workload, arch=machine).require_default()
    batch = encode([one]).take(np.zeros(20_000, dtype=np.int64))
    found = [features(workload, machine, batch, num_threads=threads) for threads in (1, 2)]
    np.testing.assert_array_equal(*found)
    assert len(np.unique(found[0], axis=0)) == 1
