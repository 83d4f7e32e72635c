"""Report a test with the result of an earlier run, without running it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_headswap.plugin.collection.phase_reports import REPLAY_ATTRIBUTE

if TYPE_CHECKING:
    from pytest_headswap.plugin.collection.nodes import CheckItem


class Replay(NamedTuple):
    """What a worker needs to report a test: `passed`, `skipped` or `xfailed`, and why."""

    outcome: str
    why: str


TAKEN_OVER = pytest.StashKey[dict[str, Replay]]()
"""The tests whose results are taken over, by id."""


def report_taken_over(item: CheckItem, replay: Replay) -> None:
    """Send the reports of a test to pytest's plugins. The recorder adds the result itself, which it has."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    skipped = replay.outcome == "skipped"
    for when in ("setup" if skipped else "call", "teardown"):
        decides = when != "teardown"
        outcome: Any = "skipped" if decides and replay.outcome != "passed" else "passed"
        longrepr: Any = (item.parent.parent.name, 0, f"Skipped: {replay.why}") if decides and skipped else None
        report = pytest.TestReport(
            item.nodeid, item.location, dict.fromkeys(item.keywords, 1), outcome, longrepr, when=when,
            sections=(), duration=0, start=(now := time.time()), stop=now,
        )  # fmt: skip
        if decides and replay.outcome == "xfailed":
            report.wasxfail = replay.why
        setattr(report, REPLAY_ATTRIBUTE, True)
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
