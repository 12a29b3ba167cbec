"""What a case may end in: a right answer or an ``SpmError``; everything else is a finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

RIGHT, REFUSED = "right answer", "SpmError"
WRONG, TIMEOUT, CRASH = "wrong", "timeout", "crash"

Case = Callable[[Random], str]
"""Makes a case from a generator and checks what happens; returns ``RIGHT`` or ``REFUSED``, and raises on a finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A case that ended in anything else."""

    kind: str
    index: int
    outcome: str
    text: str

    def __str__(self) -> str:
        again = f"python -m tests.fuzz {self.kind} --case {self.index}"
        return f"{self.kind} {self.index}: {self.outcome}: {self.text}\n  again: {again}"


@dataclass(slots=True, kw_only=True)
class Tally:
    """How the cases of one kind ended."""

    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        ends = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(self.counts.items()))
        return f"{self.kind}: {sum(self.counts.values()):,} cases in {self.seconds:.1f} s: {ends}"
