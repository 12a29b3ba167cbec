"""Prints how the cases ended, below the results of the tests."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    tallies = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "fuzz" and report.when == "call"
    ]
    if tallies:
        terminalreporter.section("fuzzing")
        for tally in tallies:
            terminalreporter.write_line(tally)
