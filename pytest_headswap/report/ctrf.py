"""Export a run as JSON in the Common Test Report Format, https://ctrf.io, for tools that show test results.

A result is never better there than here: what needs attention is `failed`, expected failures are `other`, and selected
results that are missing are `pending`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pytest_headswap._text import escape_unprintable
from pytest_headswap._version import __version__
from pytest_headswap.results.completeness import missing_results
from pytest_headswap.results.ids import CheckId
from pytest_headswap.results.result import Result
from pytest_headswap.results.run import Run, parse_start

SPEC_VERSION = "0.0.0"
_STATUSES = ("passed", "failed", "skipped", "pending", "other")
_EXTRA = (
    *("zoo", "model", "check", "version", "family", "evidence", "reason", "expectation"),
    *("heads", "peak_memory_mb", "repro", "taken_over"),
)


def ctrf_json(run: Run, stopped: datetime | None = None) -> str:
    """Return the run as JSON.

    Args:
        run: the run.
        stopped: when it ended; None if that is not known. The end is then the start plus the time of all tests.
    """
    started = parse_start(run.header)
    start = _milliseconds(started)
    stop = start + round(1000 * sum(result.seconds for result in run.results))
    if started is not None and stopped is not None:
        stop = _milliseconds(stopped)
    tests = [_test(result) for result in run.results]
    tests += [_pending(CheckId(*key)) for key in missing_results(run.header, run.results).keys]
    counts = Counter(test["status"] for test in tests)
    summary = {"tests": len(tests), **{status: counts[status] for status in _STATUSES}, "start": start, "stop": stop}
    data = {
        "reportFormat": "CTRF",
        "specVersion": SPEC_VERSION,
        "generatedBy": f"pytest-headswap {__version__}",
        "results": {
            "tool": {"name": "pytest-headswap", "version": run.header.versions.get("pytest-headswap", __version__)},
            "summary": summary,
            "tests": tests,
            "environment": _environment(run),
        },
    }
    return json.dumps(_printable(data)) + "\n"


def _milliseconds(time: datetime | None) -> int:
    """Return a time in milliseconds since 1970; 0 if it is not known."""
    return round(time.timestamp() * 1000) if time is not None else 0


def _test(result: Result) -> dict[str, Any]:
    name = f"{result.check_id} ({result.version})" if result.version else str(result.check_id)
    extra = {field: getattr(result, field) for field in _EXTRA}
    return {
        "name": name,
        "testId": name,
        "suite": [result.zoo, result.model],
        "status": _status(result),
        "rawStatus": result.outcome,
        "duration": round(1000 * result.seconds),
        **({"message": result.full_message} if result.full_message else {}),
        **({"trace": result.traceback} if result.traceback else {}),
        "extra": {field: value for field, value in extra.items() if value not in ("", None, ())},
    }


def _status(result: Result) -> str:
    if result.needs_attention:
        return "failed"
    return result.outcome if result.outcome in _STATUSES else "other"


def _pending(test: CheckId) -> dict[str, Any]:
    return {
        "name": str(test),
        "testId": str(test),
        "suite": [test.zoo, test.model],
        "status": "pending",
        "duration": 0,
        "message": "the run has no result of this check",
        "extra": test._asdict(),
    }


def _environment(run: Run) -> dict[str, Any]:
    header = run.header
    facts = {
        "python": header.python,
        "versions": dict(header.versions),
        "devices": list(header.devices),
        "incomplete": list(run.missing),
        "left_out": list(run.limits),
    }
    shard = str(header.options.get("shard", ""))
    return {
        "osVersion": header.platform,
        **({"shardId": shard} if shard else {}),
        **({"healthy": False} if run.missing else {}),
        "extra": {name: value for name, value in facts.items() if value},
    }


def _printable(data: Any) -> Any:
    """Return the data with unprintable characters escaped: not every parser accepts half of a surrogate pair."""
    if isinstance(data, str):
        return escape_unprintable(data, keep_line_breaks=True)
    if isinstance(data, Mapping):
        return {_printable(name): _printable(value) for name, value in data.items()}
    return [_printable(item) for item in data] if isinstance(data, (list, tuple)) else data
