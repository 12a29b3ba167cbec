"""Groups of a plan, measured by a user's measurer; what is known of them is not measured again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cost_model.fused import group_key
from tvm_spm.trial import GroupTrial
from tvm_spm.tuning.measurer import Measurer
from tvm_spm.tuning.measuring import Answer, measure_in_order
from tvm_spm.tuning.requests import GroupRequest
from tvm_spm.tuning.run import Run


def key_of_group(request: GroupRequest) -> str:
    """Equal for groups that cost the same with the same mapping on any accelerator, in all processes."""
    what, content = "attention", repr(request.attention)
    if request.attention is None:
        what, content = "group", repr(group_key(request.group))
    return f"{what} {hashlib.sha256(content.encode()).hexdigest()[:24]}"


class GroupTrials:
    """The measurements of groups in one run.

    Args:
        run: Who measures, and what earlier runs left; no measurement begins once it is to stop.
        measurer: That of the run.
    """

    def __init__(self, run: Run, measurer: Measurer) -> None:
        self._run, self._measurer, self._memory = run, measurer, run.group_memory()

    def measure(self, requests: Sequence[GroupRequest]) -> list[Answer | None]:
        """Costs, or why there is none; None for what there was no time for.

        Raises:
            WorkersError: The measurer cannot be sent to workers.
        """
        places = [(key_of_group(request), str(request.mapping)) for request in requests]
        found: list[Answer | None] = [self._memory.recall(*place) for place in places]
        # Equal ones once.
        first = {place: at for at, place in reversed(list(enumerate(places)))}
        missing = [at for at, place in enumerate(places) if found[at] is None and first[place] == at]
        if missing:
            self._run.progress.phase("measure groups of layers", total=len(missing), unit="groups")
        asked = [requests[at] for at in missing]
        if missing and not self._run.should_stop():
            for answers in measure_in_order(asked, self._measurer, self._run.workers, self._run.should_stop):
                for position, answer in answers:
                    self._take(asked[position], answer)
                    found[missing[position]] = answer
                    self._run.progress.step("measure groups of layers")
        return [found[first[place]] if answer is None else answer for place, answer in zip(places, found, strict=True)]

    def _take(self, request: GroupRequest, answer: Answer) -> None:
        """Keep an answer before anything follows from it."""
        self._memory.record(
            GroupTrial(
                group=key_of_group(request), names=request.names, mapping=str(request.mapping),
                measurer=self._memory.measurer, cost=None if isinstance(answer, str) else answer,
                failure=answer if isinstance(answer, str) else "",
            )
        )  # fmt: skip
