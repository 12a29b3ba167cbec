"""Parts of compiled work in threads: in order, once each, in a fork too."""

from __future__ import annotations

import multiprocessing
import threading

import pytest

from tvm_spm.threads import in_threads


def test_results_are_in_order():
    assert in_threads(lambda part: part * part, range(50), 2) == [part * part for part in range(50)]


@pytest.mark.parametrize(("parts", "num_threads"), [(range(1), 2), (range(9), 1)], ids=["one part", "one thread"])
def test_one_thread_is_that_of_the_caller(parts: range, num_threads: int):
    assert set(in_threads(lambda part: threading.get_ident(), parts, num_threads)) == {threading.get_ident()}


def test_an_error_is_raised():
    def fails(part: int) -> None:
        raise ValueError(f"part {part}")

    with pytest.raises(ValueError, match="part 0"):
        in_threads(fails, range(4), 2)


def _in_fork() -> None:
    assert in_threads(abs, range(-4, 4), 2) == [4, 3, 2, 1, 0, 1, 2, 3]


def test_a_fork_has_threads_of_its_own():
    in_threads(abs, range(4), 2)
    child = multiprocessing.get_context("fork").Process(target=_in_fork)
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0
