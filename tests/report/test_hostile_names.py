"""A journal with arbitrary content is either refused, naming the line, or reported completely within its folder."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_headswap.report.comparison import format_markdown
from pytest_headswap.report.write import Reports, write_reports
from pytest_headswap.results import OUTCOMES, JournalError, JournalHeader, Result, read_journal
from pytest_headswap.results.compare import compare
from tests.journals import ANATOMY, HARM, harmful, result, write_journal
from tests.report.decode import data_of, rows_of

MARKUP = st.sampled_from(HARM)
TEXT = st.one_of(st.text(max_size=300), MARKUP, st.lists(MARKUP, max_size=3).map("/".join))
RESULTS = st.lists(
    st.builds(
        Result,
        zoo=TEXT,
        model=TEXT,
        check=TEXT,
        outcome=st.sampled_from(OUTCOMES),
        evidence=TEXT,
        seconds=st.floats(0, 1e9),
        message=TEXT,
        repro=TEXT,
        reason=TEXT,
        family=TEXT,
        peak_memory_mb=st.none() | st.floats(0, 1e9),
        anatomy=st.none() | st.just(ANATOMY),
        version=st.sampled_from(["", "torch 2.4", "<b>"]),
    ),
    max_size=6,
)
FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def _shown(folder: Path) -> Counter[str]:
    """Return how many results the data of the matrix count, and how many the pages show."""
    rows = rows_of(data_of(folder / "index.html"))
    pages = [folder / "architectures" / row.page for row in rows]
    shown = sum(path.read_text(encoding="utf-8").count('<tr class="result"') for path in pages)
    return Counter(matrix=sum(cell[4] for row in rows for cell in row.cells if cell), pages=shown)


def _reports(parent: Path) -> Reports:
    reports = write_reports(parent / "in" / "report", parent / "in" / "report")
    assert [path.name for path in parent.iterdir()] == ["in"], "nothing is written next to the folder"
    assert [path.name for path in (parent / "in").iterdir()] == ["report"]
    return reports


@given(RESULTS)
@example(harmful())
@FEW
def test_no_result_is_dropped_and_all_files_are_in_the_folder(results: list[Result]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = write_journal(Path(place) / "in" / "report", results)
        assert read_journal(folder)[1] == results
        _reports(Path(place))
        assert _shown(folder) == Counter(matrix=len(results), pages=len(results))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(sorted(result("m", anatomy=ANATOMY, version="v").to_json()))
HEADER = JournalHeader({"torch": "2"}, {"checks": ["x"]}, merged={"missing": ["a"], "versions": [{"version": "v"}]})
HEADER_FIELDS = st.sampled_from(["versions", "options", "python", "platform", "started", "merged"])


def _read_or_refused(lines: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "in" / "report"
        folder.mkdir(parents=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "results.jsonl").write_text(text, encoding="utf-8")
        try:
            read_journal(folder)
        except JournalError as error:
            message = str(error)
        else:
            _reports(Path(place))
            assert _shown(folder)["matrix"] == len(lines) - 1
            return
        assert "results.jsonl, line " in message


@given(st.dictionaries(FIELDS, JSON, min_size=1, max_size=2))
@FEW
def test_a_field_of_the_wrong_type_is_refused_with_its_line_or_shown(changes: dict[str, Any]) -> None:
    line = result("m", anatomy=ANATOMY, version="v").to_json()
    _read_or_refused([HEADER.to_json(), line, {**line, **changes}])


@given(st.dictionaries(HEADER_FIELDS, JSON, min_size=1, max_size=2))
@FEW
def test_a_header_of_the_wrong_type_is_refused_with_its_line_or_shown(changes: dict[str, Any]) -> None:
    _read_or_refused([{**HEADER.to_json(), **changes}, result("m").to_json()])


@given(st.dictionaries(st.sampled_from(sorted(ANATOMY.to_json()["heads"][0])), JSON, min_size=1, max_size=2))
@FEW
def test_a_head_of_the_wrong_type_is_refused_with_its_line_or_shown(changes: dict[str, Any]) -> None:
    (head,) = ANATOMY.to_json()["heads"]
    _read_or_refused([HEADER.to_json(), {**result("m").to_json(), "anatomy": {"heads": [{**head, **changes}]}}])


@given(RESULTS, RESULTS)
@FEW
def test_any_two_runs_can_be_compared(old: list[Result], new: list[Result]) -> None:
    comparison = compare(old, new)
    text = format_markdown(comparison)
    assert text.startswith("## Head swaps compared")
    assert all(char.isprintable() or char == "\n" for char in text)
    listed = len(comparison.broken) + len(comparison.fixed) + len(comparison.changed)
    keys = {(item.zoo, item.model, item.check, item.version) for item in (*old, *new)}
    assert listed + len(comparison.removed) <= len(keys)
