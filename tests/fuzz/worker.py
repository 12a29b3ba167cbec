"""A process that runs cases of one kind: reads their numbers, answers with one JSON line each."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import traceback
from random import Random

from tests.fuzz.outcome import WRONG, Case
from tvm_spm.errors import SpmError

MEMORY_BYTES = 8 * 2**30
"""A case that asks for more gets a MemoryError instead of the machine's memory."""


def main(kind: str) -> None:
    """Serve cases until the input ends."""
    _, hardest = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_BYTES if hardest == resource.RLIM_INFINITY else min(MEMORY_BYTES, hardest)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hardest))
    # The case may print; answers go where only we write.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    os.dup2(null, 0)
    os.dup2(null, 1)
    module = importlib.import_module(f"tests.fuzz.{kind}")
    run: Case = module.run
    if hasattr(module, "warm_up"):
        module.warm_up()
    print(json.dumps("ready"), file=answers, flush=True)
    for line in requests:
        print(json.dumps(one(run, kind, int(line))), file=answers, flush=True)


def one(run: Case, kind: str, index: int) -> list[str]:
    """The outcome of a case, and what is wrong."""
    try:
        return [run(Random(f"{kind} {index}")), ""]
    except SpmError as error:
        return [WRONG, f"an SpmError outside of what was tried: {error}"]
    except BaseException:  # noqa: BLE001 (whatever it is, it is a finding)
        return [WRONG, "".join(traceback.format_exc()[-3000:])]


if __name__ == "__main__":
    main(sys.argv[1])
