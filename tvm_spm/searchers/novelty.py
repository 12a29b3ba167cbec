"""Keeps proposals legal and new."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from tvm_spm.space.legality_batch import count_reasons
from tvm_spm.space.mapping_batch import MappingBatch, concat, encode
from tvm_spm.space.mapspace import MapSpace, fingerprints

NUM_ROUNDS = 8
"""Proposals are drawn so many times before a space counts as nearly exhausted."""

MAX_ENUMERATED = 50_000
"""A nearly exhausted space up to this many points is finished one by one."""

_CHUNK = 256


class Novelty:
    """Which mappings were asked already, and what was refused."""

    def __init__(self, space: MapSpace) -> None:
        self._space = space
        self._asked: set[int] = set()
        self._num_considered = 0
        self._num_legal = 0
        self._is_small: bool | None = None
        self._rejected: dict[str, int] = {}

    @property
    def legal_share(self) -> float:
        """Share of the considered mappings that were legal."""
        return self._num_legal / self._num_considered if self._num_considered else 1.0

    @property
    def rejected(self) -> dict[str, int]:
        """How many considered mappings each reason removed."""
        return dict(self._rejected)

    def nothing(self) -> MappingBatch:
        """A batch without rows."""
        return encode([])

    def collect(self, propose: Callable[[int], MappingBatch], num_mappings: int) -> MappingBatch:
        """Call ``propose`` with how many are missing, up to ``NUM_ROUNDS`` times; the legal and new ones, in order."""
        found = self.nothing()
        for _ in range(NUM_ROUNDS):
            missing = num_mappings - found.num_mappings
            if missing <= 0:
                break
            found = concat([found, self.admit(propose(missing), missing)])
        return found

    def finish(self, found: MappingBatch, num_mappings: int) -> MappingBatch:
        """Fill up from the enumerated space, if it is small enough for that."""
        if found.num_mappings >= num_mappings or not self._may_enumerate():
            return found
        remaining = self._space.enumerate()
        while found.num_mappings < num_mappings:
            chunk = list(itertools.islice(remaining, _CHUNK))
            if not chunk:
                break
            found = concat([found, self.admit(encode(chunk), num_mappings - found.num_mappings)])
        return found

    def admit(self, batch: MappingBatch, limit: int) -> MappingBatch:
        """The first ``limit`` rows that are legal and new; they count as asked from now on."""
        codes = self._space.check(batch)
        self._num_considered += batch.num_mappings
        self._num_legal += int(np.count_nonzero(codes == 0))
        for reason, count in count_reasons(codes).items():
            self._rejected[reason] = self._rejected.get(reason, 0) + count
        chosen: list[int] = []
        for row, key in enumerate(fingerprints(batch).tolist()):
            if len(chosen) == limit:
                break
            if codes[row] == 0 and key not in self._asked:
                self._asked.add(key)
                chosen.append(row)
        return batch.take(np.array(chosen, dtype=np.int64))

    def _may_enumerate(self) -> bool:
        if self._is_small is None:
            self._is_small = self._space.num_mappings <= MAX_ENUMERATED
        return self._is_small
