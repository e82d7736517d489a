"""A plugin of pytest, for the guest: writes the outcome of every test as a line of JSON to the agent's descriptor."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

_outcomes: dict[str, dict[str, Any]] = {}


def _tell(**report: Any) -> None:
    os.write(int(os.environ["CORTEN_REPORT_FD"]), json.dumps(report).encode() + b"\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    found = _outcomes.setdefault(report.nodeid, {"outcome": "passed", "text": "", "seconds": 0.0})
    found["seconds"] += report.duration
    if report.skipped and found["outcome"] == "passed":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        found.update(outcome="skipped", text=reason.removeprefix("Skipped: "))
    elif report.failed:
        captured = "".join(f"\n---- {name}\n{text}" for name, text in report.sections)
        found.update(outcome="failed", text=f"{found['text']}{report.when}: {report.longreprtext}{captured}\n")
    if report.when == "teardown":
        _tell(node=report.nodeid, **_outcomes.pop(report.nodeid))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _tell(collecting=report.nodeid, text=report.longreprtext)
