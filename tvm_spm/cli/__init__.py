"""The command ``tvm-spm``: argument parsing and printing only.

It is given the words of a command line and calls the public functions of ``tvm_spm``, nothing below them. ``commands``
holds the commands and decides the exit code (0 for a result, 1 for none, 2 for wrong usage), ``search`` the command
of that name, ``options`` every option that commands share, once, and ``output`` what is printed and written.
"""

from tvm_spm.cli.commands import app, main

__all__ = ["app", "main"]
