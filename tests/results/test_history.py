"""A history finds the first bad run of each check, and fills nothing in where a run has no result."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_headswap.report.history import coverage, format_markdown, when
from pytest_headswap.results import JournalError, JournalHeader, Outcome, Result
from pytest_headswap.results.completeness import encode_selection
from pytest_headswap.results.history import History, read_history
from pytest_headswap.results.merge_versions import merge_versions
from tests.journals import CHECKS, HARM, harmful, result, write_journal

LETTERS: dict[str, Outcome] = {"p": "passed", "F": "failed", "E": "error", "C": "crashed", "s": "skipped"}


def _header(day: int, **more: object) -> JournalHeader:
    options = {"zoo": ["timm"], "checks": list(CHECKS), "models": ""}
    fields = {"versions": {"timm": f"1.{day}"}, "options": options, "started": f"2026-01-{day:02}T00:00:00+00:00"}
    return JournalHeader(**{**fields, **more})  # type: ignore[arg-type]


def _runs(tmp_path: Path, outcomes: str) -> list[Path]:
    """Write a run for each letter; `.` is a run without the check."""
    folders = []
    for day, letter in enumerate(outcomes, start=1):
        found = [result("other")]
        if letter != ".":
            found.append(result("m", outcome=LETTERS[letter], message=f"message {day}"))
        folders.append(write_journal(tmp_path / f"run-{day:02}", found, _header(day)))
    return folders


@pytest.mark.parametrize(
    ("outcomes", "described"),
    [
        ("pF", "first bad in run 2, good in run 1"),
        ("F", "first bad in run 1, never good before"),
        ("ppFF", "first bad in run 3, good in run 2"),
        ("FpFF", "first bad in run 3, good in run 2"),
        ("p..FE", "first bad in run 4, good in run 1"),
        ("pF..", "first bad in run 2, good in run 1, not in the runs after run 2"),
        ("sF", "first bad in run 2, good in run 1"),
        ("pF.F", "first bad in run 2, good in run 1"),
        ("pFCp", "first bad in run 2, good in run 1, fixed in run 4"),
        ("pFpFp", "first bad in run 4, good in run 3, fixed in run 5"),
        ("F.p", "first bad in run 1, never good before, fixed in run 3"),
    ],
)
def test_the_first_bad_run_is_the_start_of_the_last_bad_stretch(tmp_path: Path, outcomes: str, described: str) -> None:
    history = read_history(_runs(tmp_path, outcomes))
    (line,) = (*history.bad, *history.fixed)
    assert when(line) == described
    assert bool(history.fixed) == ("fixed" in described)
    last_bad = max(place for place, letter in enumerate(outcomes, start=1) if letter in "FEC")
    assert line.message == f"message {last_bad}"


def test_a_check_that_was_never_bad_is_not_listed(tmp_path: Path) -> None:
    history = read_history(_runs(tmp_path, "ps.p"))
    assert not history.bad
    assert not history.fixed


def test_runs_are_ordered_by_date_or_as_given(tmp_path: Path) -> None:
    first, second, third = _runs(tmp_path, "pFF")
    assert [run.folder for run in read_history([third, first, second]).runs] == [first, second, third]
    kept = read_history([third, first, second], keep_order=True)
    assert [run.folder for run in kept.runs] == [third, first, second]
    assert not kept.is_by_date
    assert "not by date" in format_markdown(kept)


def test_runs_without_a_date_keep_the_order_and_say_so(tmp_path: Path) -> None:
    first, second = _runs(tmp_path, "pF")
    unknown = write_journal(tmp_path / "unknown", [result("m")], _header(1, started="long ago"))
    history = read_history([second, unknown, first])
    assert [run.folder for run in history.runs] == [second, unknown, first]
    assert "not by date" in format_markdown(history)


def test_dates_are_compared_across_time_zones(tmp_path: Path) -> None:
    late = write_journal(tmp_path / "a", [result("m")], _header(1, started="2026-01-01T10:00:00+00:00"))
    early = write_journal(tmp_path / "b", [result("m")], _header(1, started="2026-01-01T10:30:00+02:00"))
    assert [run.folder for run in read_history([late, early]).runs] == [early, late]


def test_each_zoo_has_only_the_runs_that_cover_it(tmp_path: Path) -> None:
    both = [result("m"), result("r", zoo="torchvision", outcome="failed")]
    one = write_journal(tmp_path / "1", [result("m")], _header(1))
    two = write_journal(tmp_path / "2", both, _header(2))
    three = write_journal(tmp_path / "3", [result("m", outcome="error")], _header(3))
    history = read_history([one, two, three])
    assert [index for index, _ in history.changes("timm")] == [0, 1, 2]
    assert [index for index, _ in history.changes("torchvision")] == [1]
    assert "- torchvision: bad ·█·" in format_markdown(history)


def test_what_changed_is_told_for_each_run_against_the_one_before(tmp_path: Path) -> None:
    options = {"zoo": ["timm"], "checks": list(CHECKS), "models": "", "evidence": "abstract"}
    one, two = _runs(tmp_path, "pp")
    three = write_journal(tmp_path / "3", [result("m")], _header(3, options=options, versions={"timm": "1.2"}))
    changes = [told for _, told in read_history([one, two, three]).changes("timm")]
    assert changes == [("timm 1.1",), ("timm was '1.1' and is '1.2'",), ("evidence was None and is 'abstract'",)]


def test_a_run_of_a_part_is_never_called_whole(tmp_path: Path) -> None:
    selected = encode_selection([("timm", "m", "output_shape"), ("timm", "n", "output_shape")])
    whole = {"zoo": ["timm"], "checks": list(CHECKS), "models": ""}
    headers = [
        _header(1),
        _header(2, selected=selected),
        _header(3, options={**whole, "sample": "5%"}),
        _header(4, options={**whole, "models": "m*"}),
        _header(5, options={**whole, "shard": "1/2"}),
        _header(6, options={**whole, "checks": ["output_shape"]}),
        _header(7, merged={"missing": ["shard 2/2 is missing"]}),
    ]
    folders = [write_journal(tmp_path / f"{n}", [result("m")], header) for n, header in enumerate(headers)]
    runs = read_history(folders).runs
    assert [run.is_whole for run in runs] == [True, *[False] * 6]
    assert [coverage(run).partition(", ")[0] for run in runs] == [
        "whole",
        "incomplete: 1 of 2 selected results is missing: timm::n::output_shape",
        "a sample of 5%",
        "only models m*",
        "only shard 1/2",
        "without native_parity",
        "incomplete: shard 2/2 is missing",
    ]


def test_a_journal_of_several_versions_is_a_run_for_each(tmp_path: Path) -> None:
    header = {"options": {"checks": ["output_shape"]}}
    new = write_journal(
        tmp_path / "new", [result("m", outcome="failed")], _header(1, versions={"timm": "2.10"}, **header)
    )
    old = write_journal(tmp_path / "old", [result("m")], _header(2, versions={"timm": "2.9"}, **header))
    merged = merge_versions([new, old], "timm").write(tmp_path / "merged")
    history = read_history([merged])
    assert [run.name for run in history.runs] == [f"{merged} (timm 2.9)", f"{merged} (timm 2.10)"]
    assert when(history.bad[0]) == "first bad in run 2, good in run 1"
    assert [told for _, told in history.changes("timm")] == [("timm 2.9",), ("timm was '2.9' and is '2.10'",)]


def test_a_run_without_results_stays_in_the_history(tmp_path: Path) -> None:
    (one,) = _runs(tmp_path, "p")
    selected = encode_selection([("timm", "m", "output_shape")])
    two = write_journal(tmp_path / "2", [], _header(2, selected=selected))
    history = read_history([one, two])
    assert [index for index, _ in history.changes("timm")] == [0, 1]
    assert "incomplete: 1 of 1 selected results is missing" in coverage(history.runs[1])


def test_journals_that_cannot_be_used_are_named_on_a_line_each(tmp_path: Path) -> None:
    (one,) = _runs(tmp_path, "p")
    with pytest.raises(JournalError) as caught:
        read_history([one, one / "results.jsonl", tmp_path / "nowhere", tmp_path / "no"])
    given_twice, *unreadable = str(caught.value).splitlines()
    assert given_twice == f"{one / 'results.jsonl'} is given 2 times"
    assert [line.partition("nal ")[0] for line in unreadable] == ["cannot read the jour"] * 2
    with pytest.raises(JournalError, match="no results in"):
        read_history([write_journal(tmp_path / "empty", [], _header(1))])


def test_the_worse_of_two_results_of_one_test_counts_in_a_history(tmp_path: Path) -> None:
    folder = write_journal(tmp_path / "1", [result("m", outcome="failed"), result("m")], _header(1))
    assert [line.states[0].bad for line in read_history([folder]).bad if line.states[0]] == [True]


def _many(tmp_path: Path, results: list[Result]) -> History:
    return read_history([write_journal(tmp_path / str(day), results, _header(day)) for day in range(1, 29)])


def test_the_markdown_is_bounded_and_names_cannot_add_markup(tmp_path: Path) -> None:
    hostile = [result(f"{text}{n}", outcome="failed", message=text * 50) for text in HARM for n in range(10)]
    text = format_markdown(_many(tmp_path, [*hostile, *harmful()]))
    assert len(text.encode("utf-8", "backslashreplace")) < 100_000
    assert "<script>" not in text.replace("\\<", "")
    assert "… and" in text


def test_one_run_is_a_history(tmp_path: Path) -> None:
    text = format_markdown(read_history(_runs(tmp_path, "F")))
    assert text.startswith("## Head swaps over 1 run\n\n1 run of timm: 1 check bad now, 0 fixed\n")
