"""``python -m tests.fuzz``: run cases of all kinds or of one, and print how they ended."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.budget import CI_CASES
from tests.fuzz.supervisor import KINDS, fuzz


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--times", type=int, default=1, help="so many times the cases of CI")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, help="only this one, of one KIND")
    options = parser.parse_args()
    num_findings = total = 0
    for kind in options.kinds or KINDS:
        num = CI_CASES[kind] * options.times
        indices = range(options.first, options.first + num) if options.case is None else [options.case]
        tally = fuzz(kind, indices)
        sys.stdout.write(f"{tally}\n")
        for finding in tally.findings:
            sys.stdout.write(f"\n{finding}\n")
        num_findings += len(tally.findings)
        total += sum(tally.counts.values())
    sys.stdout.write(f"{total:,} cases, {num_findings:,} findings\n")
    return 1 if num_findings else 0


if __name__ == "__main__":
    sys.exit(main())
