"""The first instruction of the command ``tvm-spm``: signals are taken over before anything heavy is imported."""

from __future__ import annotations

from tvm_spm import garbage, interrupt


def main() -> None:
    """Run the command line; see ``tvm_spm.cli.main``."""
    interrupt.own_process()
    garbage.collect_seldom()
    from tvm_spm.cli import main as run

    run()


if __name__ == "__main__":
    main()
