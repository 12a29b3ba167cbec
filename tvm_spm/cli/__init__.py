"""The command ``tvm-spm``: argument parsing and printing only."""

from tvm_spm.cli.app import main

__all__ = ["main"]
