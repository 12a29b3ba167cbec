"""Constrained map spaces: everything they hold complies, and they hold everything that complies."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mapspace_cases import any_mapping, machines, satisfies, small_arch, workloads
from tvm_spm.arch import Arch
from tvm_spm.errors import SpmError
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import REASONS
from tvm_spm.space.constraints import FACTOR_LEVELS, Constraints
from tvm_spm.space.constraints_batch import allows_rows, rules_of
from tvm_spm.space.mapping_batch import MappingBatch, decode, encode
from tvm_spm.space.mapspace import MapSpace, fingerprints
from tvm_spm.workload import DIM_NAMES, Operand, Workload

SEEDS = st.integers(0, 2**32 - 1)
CONSTRAINT = 1 + REASONS.index("constraint")


def mappings_of(batch: MappingBatch) -> list[Mapping]:
    return [decode(batch, row) for row in range(batch.num_mappings)]


def any_clause(rng: np.random.Generator, workload: Workload) -> str:
    """One clause, of any kind; nobody promises that a mapping complies."""
    names = [str(name) for name in rng.permutation(DIM_NAMES)]
    dim, few = names[0], names[: int(rng.integers(1, 4))]
    level = str(rng.choice(["DRAM", "SPM"]))
    value = int(rng.integers(1, workload.dims[dim] + 1))
    operands = "".join(o.name for o in Operand if rng.random() < 0.5) or "none"
    return str(
        rng.choice(
            [
                f"{rng.choice(['rows', 'cols'])}{rng.choice(['=', '!='])}{','.join(few)}",
                f"{rng.choice(FACTOR_LEVELS)}.{dim}{rng.choice(['=', '<=', '>='])}{value}",
                f"{level}.{rng.choice(['order', 'outer', 'inner'])}={'>'.join(few)}",
                f"{rng.choice(['SPM', 'RF'])}.double={operands}",
                f"{rng.choice(['strict', 'replicated'])}:{names[0]}|{names[1]}",
            ]
        )
    )


def clauses_of(rng: np.random.Generator, mapping: Mapping, workload: Workload) -> Constraints:
    """A few clauses that a mapping satisfies."""
    held = [
        f"SPM.double={''.join(o.name for o in mapping.spm_double) or 'none'}",
        f"RF.double={''.join(o.name for o in mapping.rf_double) or 'none'}",
        f"rows={','.join(n for n in DIM_NAMES if mapping.rows[n] > 1) or 'none'}",
        f"cols!={','.join(n for n in DIM_NAMES if mapping.cols[n] == 1) or 'none'}",
    ]
    for level, order in (("DRAM", mapping.dram_order), ("SPM", mapping.spm_order)):
        if order:
            held.append(f"{level}.order={'>'.join(order)}")
        if len(order) > 1:
            # one loop cannot be asked to be both outside and inside all others
            held += [f"{level}.outer={order[0]}", f"{level}.inner={order[-1]}"]
    dram = mapping.dram_factors(workload.dims)
    for level, dims in (("cores", mapping.cores), ("DRAM", dram), ("SPM", mapping.spm), ("rows", mapping.rows),
                        ("cols", mapping.cols), ("RF", mapping.rf)):  # fmt: skip
        held += [f"{level}.{name}{rng.choice(['=', '<=', '>='])}{dims[name]}" for name in DIM_NAMES]
    chosen = rng.choice(held, size=int(rng.integers(1, 6)), replace=False)
    return Constraints.parse([str(text) for text in chosen])


@given(workload=workloads(), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_text_round_trips_and_both_verdicts_agree(workload: Workload, seed: int):
    rng = np.random.default_rng(seed)
    mappings = [any_mapping(rng, workload) for _ in range(15)]
    mappings += mappings_of(MapSpace(workload=workload, arch=small_arch(cores=3)).sample(rng, 15))
    for _ in range(6):
        try:
            constraints = Constraints.parse([any_clause(rng, workload) for _ in range(int(rng.integers(1, 4)))])
        except SpmError as error:
            if "cannot both hold" not in str(error) and "cannot all hold" not in str(error):
                raise
            continue
        assert Constraints.parse(str(constraints)) == constraints
        expected = [satisfies(constraints, mapping, workload) for mapping in mappings]
        assert allows_rows(rules_of(constraints, workload), encode(mappings)).tolist() == expected


@given(workload=workloads(), machine=machines(), seed=SEEDS, perfect=st.booleans(), spill=st.booleans())
@settings(max_examples=40, deadline=None)
def test_draws_changes_and_crossings_comply(workload: Workload, machine: Arch, seed: int, perfect: bool, spill: bool):
    rng = np.random.default_rng(seed)
    free = MapSpace(workload=workload, arch=machine, perfect=perfect, allow_spill=spill)
    legal = [m for m in mappings_of(free.sample(rng, 1)) if free.contains(m)]
    for mapping in legal:
        constraints = clauses_of(rng, mapping, workload)
        space = MapSpace(workload=workload, arch=machine, perfect=perfect, allow_spill=spill, constraints=constraints)
        assert space.contains(mapping)
        drawn = space.sample(rng, 20)
        changed = space.mutate(encode([mapping] * 20), rng)
        crossed = space.cross(drawn, changed, rng)
        for batch in (drawn, changed, crossed):
            codes = space.check(batch)
            for other, code in zip(mappings_of(batch), codes.tolist(), strict=True):
                assert other == other.canonical(workload)
                assert space.contains(other) == (code == 0)
                assert code != CONSTRAINT or not satisfies(constraints, other, workload)
                # Whatever is drawn belongs to the space without constraints if only its size and constraints are wrong.
                assert code in (0, CONSTRAINT) or REASONS[code - 1] in ("spm-capacity", "rf-capacity")
        default = space.default_mapping()
        assert default is not None
        assert space.contains(default)
        assert space.conflict() == ""


@given(
    m=st.integers(1, 2), k=st.integers(1, 3), n=st.integers(1, 3), cores=st.integers(1, 2), rows=st.integers(1, 2),
    cols=st.integers(1, 2), perfect=st.booleans(), spill=st.booleans(), seed=SEEDS,
)  # fmt: skip
@settings(max_examples=8, deadline=None)
def test_enumeration_is_the_filtered_one(
    m: int, k: int, n: int, cores: int, rows: int, cols: int, perfect: bool, spill: bool, seed: int
):
    rng = np.random.default_rng(seed)
    workload, machine = Workload.matmul(m=m, k=k, n=n), small_arch(cores=cores, rows=rows, cols=cols, rf=14, spm=96)
    free = MapSpace(workload=workload, arch=machine, perfect=perfect, allow_spill=spill)
    points = list(free.enumerate(legal_only=False))
    legal = set(free.enumerate())
    for _ in range(3):
        try:
            constraints = Constraints.parse([any_clause(rng, workload) for _ in range(int(rng.integers(1, 4)))])
        except SpmError:
            continue
        space = MapSpace(workload=workload, arch=machine, perfect=perfect, allow_spill=spill, constraints=constraints)
        allowed = [point for point in points if satisfies(constraints, point, workload)]
        assert list(space.enumerate(legal_only=False)) == allowed
        assert space.num_mappings == len(allowed)
        held = legal.intersection(allowed)
        assert set(space.enumerate()) == held
        # Exactly the empty spaces have no default and a conflict.
        default = space.default_mapping()
        assert (default is None) == (not held)
        assert default is None or default in held
        assert bool(space.conflict()) == (not held and bool(legal))
        drawn = space.sample(rng, 300)
        codes = space.check(drawn)
        keys = set(fingerprints(encode(sorted(held, key=str))).tolist())
        assert set(fingerprints(drawn.take(codes == 0)).tolist()) <= keys
        assert not (held and len(held) == len(allowed)) or (codes == 0).mean() > 0.2


@given(workload=workloads(), machine=machines(), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_conflicts_are_minimal(workload: Workload, machine: Arch, seed: int):
    """Without any one of the named clauses something is left."""
    rng = np.random.default_rng(seed)
    try:
        constraints = Constraints.parse([any_clause(rng, workload) for _ in range(5)])
    except SpmError:
        return
    conflict = MapSpace(workload=workload, arch=machine, constraints=constraints).conflict()
    if not conflict:
        return
    named = conflict.split(" cannot ")[0].replace(" and ", " ").replace(", ", " ")
    core = Constraints.parse(named)
    assert set(core.clauses) <= set(constraints.clauses)
    assert MapSpace(workload=workload, arch=machine, constraints=core).default_mapping() is None
    for dropped in core.clauses:
        rest = Constraints(tuple(clause for clause in core.clauses if clause != dropped))
        assert MapSpace(workload=workload, arch=machine, constraints=rest).default_mapping() is not None


def test_every_complying_mapping_can_be_drawn():
    free = MapSpace(workload=Workload.matmul(m=2, k=4, n=2), arch=small_arch(cores=2, rows=2, cols=1, rf=64, spm=512))
    constraints = Constraints.parse("SPM.C>=2 rows.K=2 SPM.double=IW RF.double=none SPM.order=OX>C cores.OX<=2")
    space = MapSpace(workload=free.workload, arch=free.arch, constraints=constraints)
    legal = list(space.enumerate())
    drawn = space.sample(np.random.default_rng(3), 20_000)
    assert 10 < len(legal) == space.num_mappings
    assert set(fingerprints(drawn).tolist()) == set(fingerprints(encode(legal)).tolist())
