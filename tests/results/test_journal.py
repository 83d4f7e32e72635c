"""A journal keeps every result, names its faults when it is read, and never appends to an old run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_headswap.results import JOURNAL_NAME, JournalError, JournalHeader, JournalWriter, Result, read_journal

HEADER = JournalHeader({"torch": "2.4.1"}, {"zoo": ["builtin"], "num_classes": 7})
PASSED = Result("builtin", "linear", "output_shape", "passed", evidence="abstract", heads=("fc",))
SKIPPED = Result("builtin", "no\u2028head\nat all \ud800", "output_shape", "skipped", reason="output_is_backbone")


def test_results_and_header_are_read_back_as_written(tmp_path: Path) -> None:
    with JournalWriter(tmp_path, HEADER) as journal:
        journal.write(PASSED)
        journal.write(SKIPPED)
    header, results = read_journal(journal.path)
    assert header == HEADER
    assert results == [PASSED, SKIPPED]


def test_a_journal_can_be_read_by_its_folder(tmp_path: Path) -> None:
    JournalWriter(tmp_path, HEADER).close()
    assert read_journal(tmp_path) == read_journal(str(tmp_path)) == (HEADER, [])


def test_missing_folders_are_created(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    JournalWriter(folder, HEADER).close()
    assert (folder / JOURNAL_NAME).is_file()


def test_the_header_says_what_the_results_depend_on(tmp_path: Path) -> None:
    JournalWriter(tmp_path, HEADER).close()
    header = json.loads((tmp_path / JOURNAL_NAME).read_text(encoding="utf-8"))
    assert header["versions"] == {"torch": "2.4.1"}
    assert header["options"] == {"zoo": ["builtin"], "num_classes": 7}
    assert header["python"].startswith("3.")
    assert header["platform"]
    assert header["started"].endswith("+00:00")


def test_a_result_is_in_the_file_before_the_journal_is_closed(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path, HEADER)
    journal.write(PASSED)
    assert read_journal(tmp_path)[1] == [PASSED]
    journal.close()


def test_a_new_run_replaces_the_previous_journal(tmp_path: Path) -> None:
    for _ in range(2):
        with JournalWriter(tmp_path, HEADER) as journal:
            journal.write(PASSED)
    assert read_journal(tmp_path)[1] == [PASSED]


def test_a_file_in_place_of_the_folder_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(JournalError, match=r"cannot write the report to .*taken: .*Choose a folder"):
        JournalWriter(tmp_path / "taken", HEADER)


def test_a_folder_below_a_file_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(JournalError, match="Choose a folder that can be written"):
        JournalWriter(tmp_path / "taken" / "below", HEADER)


def test_a_truncated_last_line_is_ignored(tmp_path: Path) -> None:
    with JournalWriter(tmp_path, HEADER) as journal:
        journal.write(PASSED)
        journal.write(SKIPPED)
    text = journal.path.read_text(encoding="utf-8")
    journal.path.write_text(text[:-20], encoding="utf-8")
    assert read_journal(tmp_path)[1] == [PASSED]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no complete line"),
        ("{}\n", "line 1: not the header"),
        ("no json\n", "line 1: not the header"),
        ("[1]\n", "line 1: not the header .*Expected `object`, got `array`"),
        ('{"headswap_journal": "1"}\n', "line 1: not the header .*headswap_journal"),
        ('{"headswap_journal": 1, "versions": {"torch": 2}}\n', "line 1: not the header .*versions"),
        ('{"headswap_journal": 1, "options": {"checks": "x"}}\n', "line 1: not the header .*options.checks"),
        ('{"headswap_journal": 1, "merged": {"versions": [{}]}}\n', "line 1: not the header .*merged.versions"),
        ('{"headswap_journal": 1, "selected": {"a": [{"models": []}]}}\n', "line 1: not the header .*selected"),
        ('{"headswap_journal": 1, "options": {"timeout": 1e999}}\n', "line 1: .*1e999 is not a finite number"),
        ('{"headswap_journal": 99}\n', "has format 99, and this version reads format 1"),
        ('{"headswap_journal": 1}\n{"zoo": "a"}\n', "line 2: not a result .*`model`"),
        ('{"headswap_journal": 1}\nnope\n', "line 2: not a result"),
        ('{"headswap_journal": 1}\n{"seconds": NaN}\n', "line 2: .*NaN is not a finite number"),
        ('{"headswap_journal": 1}\n{"anatomy": -Infinity}\n', "line 2: .*-Infinity is not a finite number"),
        ('{"headswap_journal": 1}\n{"anatomy": ' + "[" * 100_000 + "\n", "line 2: not a result .*recursion"),
        ("[" * 100_000 + "\n", "line 1: not the header .*recursion"),
        ('{"headswap_journal": 1}\n{"zoo": "\udcff"}\n', "line 2: not a result .*can't decode"),
    ],
)
def test_a_malformed_journal_is_refused_with_its_path_and_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / JOURNAL_NAME
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(JournalError, match=f"results.jsonl.*{message}"):
        read_journal(path)


def test_a_missing_journal_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"cannot read the journal .*nowhere\.jsonl"):
        read_journal(tmp_path / "nowhere.jsonl")
