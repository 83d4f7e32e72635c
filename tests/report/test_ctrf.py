"""A CTRF file is valid by the schema of CTRF, and nothing in it looks better than it is.

`ctrf-schema.json` is `ctrf-schema-0.0.json` of the npm package `ctrf` 0.3.0, which is under the MIT License,
Copyright (c) 2024 Matthew Poulton-White.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_headswap.cli.main import main
from pytest_headswap.report.ctrf import ctrf_json
from pytest_headswap.results import OUTCOMES, JournalHeader, Outcome, Result
from pytest_headswap.results.completeness import encode_selection
from pytest_headswap.results.result import FAILURES
from pytest_headswap.results.run import Run
from tests.journals import HARM, harmful, result, whole_timm, write_journal

SCHEMA = json.loads(Path(__file__).with_name("ctrf-schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
START = JournalHeader({"pytest-headswap": "0.1.0"}, {}, started="2026-01-01T00:00:00+00:00")


def _exported(results: list[Result], header: JournalHeader = START, stopped: datetime | None = None) -> dict[str, Any]:
    data = json.loads(ctrf_json(Run(Path("run"), header, results), stopped))
    VALIDATOR.validate(data)
    exported: dict[str, Any] = data["results"]
    counts = Counter(test["status"] for test in exported["tests"])
    summary = exported["summary"]
    assert {name: summary[name] for name in counts} == counts
    assert sum(summary[name] for name in ("passed", "failed", "skipped", "pending", "other")) == summary["tests"]
    return exported


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_status_is_never_better_than_the_outcome(outcome: Outcome) -> None:
    (test,) = _exported([result("m", outcome=outcome)])["tests"]
    assert test["rawStatus"] == outcome
    assert (test["status"] == "failed") == (outcome in FAILURES)
    assert (test["status"] == "passed") == (outcome == "passed")
    (strict,) = _exported([result("m", outcome="xpassed", expectation="listed as failed")])["tests"]
    assert strict["status"] == "failed"
    assert strict["message"] == "listed as failed"


def test_missing_results_are_pending_and_the_run_is_not_healthy() -> None:
    selected = encode_selection([("timm", "a", "output_shape"), ("timm", "b", "output_shape")])
    exported = _exported([result("a")], JournalHeader({}, {"shard": "1/2", "sample": "5%"}, selected=selected))
    assert [(test["name"], test["status"]) for test in exported["tests"]] == [
        ("timm::a::output_shape", "passed"),
        ("timm::b::output_shape", "pending"),
    ]
    environment = exported["environment"]
    assert environment["healthy"] is False
    assert environment["shardId"] == "1/2"
    assert environment["extra"]["incomplete"] == ["1 of 2 selected results is missing: timm::b::output_shape"]
    assert environment["extra"]["left_out"][0] == "a sample of 5%"
    assert "healthy" not in _exported([result("a")])["environment"]


def test_the_end_is_the_time_given_or_the_start_plus_all_tests() -> None:
    start = 1767225600000
    summary = _exported([result("a"), result("b")])["summary"]
    assert (summary["start"], summary["stop"]) == (start, start + 500)
    ended = _exported([result("a")], stopped=datetime(2026, 1, 1, 1, tzinfo=timezone.utc))["summary"]
    assert (ended["start"], ended["stop"]) == (start, start + 3_600_000)
    unknown = _exported([result("a")], JournalHeader({}, {}, started="long ago"), datetime.now(timezone.utc))["summary"]
    assert (unknown["start"], unknown["stop"]) == (0, 250)


def test_a_test_has_what_the_journal_has() -> None:
    (test,) = _exported(
        [result("m", outcome="error", message="no", reason="x", traceback="File", version="torch 2.4")]
    )["tests"]
    assert test["name"] == "timm::m::output_shape (torch 2.4)"
    assert test["suite"] == ["timm", "m"]
    assert test["duration"] == 250
    assert (test["message"], test["trace"]) == ("no", "File")
    assert test["extra"]["reason"] == "x"
    assert test["extra"]["repro"].startswith("pytest --headswap-zoo=timm")


def test_a_large_run_is_exported() -> None:
    results = whole_timm()[::10]
    assert _exported(results)["summary"]["tests"] == len(results)


def test_hostile_results_are_exported_without_unprintable_characters() -> None:
    exported = _exported([*harmful(), *(result(text, zoo=text, check=text) for text in HARM)])
    names = "".join(test["name"] + test.get("message", "") + test["suite"][0] for test in exported["tests"])
    assert names.replace("\n", "").isprintable()


def test_an_existing_journal_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_journal(tmp_path / "run", [result("a")])
    out = tmp_path / "deep" / "ctrf.json"
    assert main(["report", str(folder), "--ctrf", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"{out}\n")
    VALIDATOR.validate(json.loads(out.read_text(encoding="utf-8")))
    assert main(["report", str(folder), "--ctrf", str(folder / "results.jsonl")]) == 1
    assert "is part of a report: choose another file" in capsys.readouterr().err
