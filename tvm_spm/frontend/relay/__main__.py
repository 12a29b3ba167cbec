"""Prints the table of operators: ``python -m tvm_spm.frontend.relay``."""

import sys

from tvm_spm.frontend.relay.operators.registry import describe_operators

if __name__ == "__main__":
    sys.stdout.write(describe_operators())
