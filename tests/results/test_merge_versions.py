"""Runs with different versions are merged into a matrix of architectures and versions that marks differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_headswap.report.markdown import render_markdown
from pytest_headswap.report.write import write_reports
from pytest_headswap.results import JournalHeader, read_journal
from pytest_headswap.results.completeness import missing_sentences
from pytest_headswap.results.matrix import build_matrix
from pytest_headswap.results.merge import shard_options
from pytest_headswap.results.merge_versions import merge_versions
from pytest_headswap.results.shard_journals import MergeError
from tests.journals import ANATOMY, result

Write = Callable[..., Path]


def _header(torch: str, **options: object) -> JournalHeader:
    return JournalHeader(
        {"torch": torch, "timm": "1.0.31"},
        {"checks": ["output_shape", "metadata"], "num_classes": 7, **options},
        python="3.11.9",
        platform="Linux",
        started=f"2026-0{len(torch)}",
    )


@pytest.fixture
def runs(write: Write) -> list[Path]:
    """Return runs with three versions of torch. One model differs, and one is missing in the oldest run."""
    found = []
    for torch in ("2.10.0", "2.4.1", "2.9.1"):
        old = torch == "2.4.1"
        results = [
            result("same", anatomy=ANATOMY),
            result("same", "metadata"),
            result("other", anatomy=ANATOMY),
            result("other", "metadata", "failed" if old else "passed", message="stale" if old else ""),
        ]
        results += [] if old else [result("new"), result("new", "metadata", "skipped")]
        found.append(write(results, torch, _header(torch)))
    return found


def test_each_result_states_its_version_and_none_is_dropped(runs: list[Path], tmp_path: Path) -> None:
    merged = merge_versions(runs, "torch")
    header, results = read_journal(merged.write(tmp_path / "out"))
    assert results == list(merged.read())
    assert [item["version"] for item in header.merged["versions"]] == ["torch 2.4.1", "torch 2.9.1", "torch 2.10.0"]
    assert [item["results"] for item in header.merged["versions"]] == [4, 6, 6]
    assert header.merged["complete"] is True
    assert missing_sentences(header, results) == ()
    assert missing_sentences(header, results[:-2]) == ("the merge was interrupted before it wrote 2 results",)
    assert header.versions == {"timm": "1.0.31"}, "what they share"
    for folder in runs:
        of_run = [replace(item, version=f"torch {folder.name}") for item in read_journal(folder)[1]]
        assert [item for item in results if item.version == f"torch {folder.name}"] == of_run


def test_the_matrix_has_a_column_per_version_and_marks_differences(runs: list[Path]) -> None:
    merged = merge_versions(runs, "torch")
    matrix = build_matrix(merged.header, merged.read())
    assert matrix.columns == ("torch 2.4.1", "torch 2.9.1", "torch 2.10.0")
    assert {row.model: set(row.checks_that_differ) for row in matrix.rows} == {
        "new": {"output_shape", "metadata"},
        "other": {"metadata"},
        "same": set(),
    }


def test_the_summary_starts_with_the_differences(runs: list[Path]) -> None:
    merged = merge_versions(runs, "torch")
    text = render_markdown(build_matrix(merged.header, merged.read()))
    assert "#### Differences between versions: 2 architectures" in text
    assert "| architecture | torch 2.4.1 | torch 2.9.1 | torch 2.10.0 |" in text
    assert "| other | **failed** metadata | passed | passed |" in text
    assert "| new | none | **skipped** metadata | **skipped** metadata |" in text
    assert "| same |" not in text.partition("### Needs attention")[0]


def test_the_summary_counts_the_results_of_each_version_by_zoo(runs: list[Path]) -> None:
    merged = merge_versions(runs, "torch")
    lines = render_markdown(build_matrix(merged.header, merged.read())).splitlines()
    title = lines.index("| zoo | torch 2.4.1 | torch 2.9.1 | torch 2.10.0 |")
    newer = "5 passed, 1 skipped"
    assert lines[title + 2] == f"| timm | 3 passed, 1 failed | {newer} | {newer} |"


def test_the_summary_says_if_nothing_differs(runs: list[Path]) -> None:
    merged = merge_versions([runs[0], runs[2]], "torch")
    assert "No results differ between torch 2.9.1, torch 2.10.0." in render_markdown(
        build_matrix(merged.header, merged.read())
    )


def test_an_architecture_page_lists_each_check_for_each_version(runs: list[Path], tmp_path: Path) -> None:
    write_reports(merge_versions(runs, "torch").write(tmp_path / "out"), tmp_path / "out")
    (page,) = (tmp_path / "out" / "architectures").glob("other-*")
    text = page.read_text(encoding="utf-8")
    assert text.count('<article class="result') == 6
    assert text.count('class="differs"') == 3
    assert 'id="c0"' in text
    assert 'id="c2"' in text


def test_the_shards_of_each_version_are_verified(write: Write) -> None:
    folders = []
    for torch in ("2.4.1", "2.9.1"):
        for number, name in enumerate("ab", start=1):
            header = _header(torch, **shard_options(f"{number}/2", {"timm": [name]}, {"timm": ["a", "b"]}))
            results = [result(name, check) for check in ("output_shape", "metadata")]
            folders.append(write(results, f"{torch}-{number}", header))
    merged = merge_versions(folders, "torch")
    assert [(item.version, item.model) for item in list(merged.read())[::2]] == [
        ("torch 2.4.1", "a"),
        ("torch 2.4.1", "b"),
        ("torch 2.9.1", "a"),
        ("torch 2.9.1", "b"),
    ]
    with pytest.raises(MergeError, match="shard 2/2 is missing"):
        merge_versions(folders[:-1], "torch")
    partial = merge_versions(folders[:-1], "torch", allow_missing=True)
    assert partial.missing == ("torch 2.9.1: shard 2/2 is missing",)


def test_runs_can_be_distinguished_by_python_version(write: Write) -> None:
    folders = [
        write([result("a")], version, replace(_header("2.9"), python=version)) for version in ("3.10.1", "3.9.2")
    ]
    versions = [item["version"] for item in merge_versions(folders, "python").header.merged["versions"]]
    assert versions == ["python 3.9.2", "python 3.10.1"]


def _problem(folders: list[Path], by: str = "torch") -> str:
    with pytest.raises(MergeError) as error_info:
        merge_versions(folders, by)
    return str(error_info.value)


def test_journals_that_cannot_be_merged_are_named(runs: list[Path], write: Write, tmp_path: Path) -> None:
    assert _problem(runs[:1]) == "all journals have torch 2.10.0: there is nothing to compare"
    assert "does not state a version of jax. It states those of python, timm, torch" in _problem(runs, "jax")
    again = write([result("a")], "again", _header("2.9.1"))
    assert f"torch 2.9.1 was given 2 times: {runs[2]} and {again}" in _problem([*runs, again])
    assert "cannot read the journal" in _problem([*runs, tmp_path / "nowhere"])
    merge_versions(runs, "torch").write(tmp_path / "out")
    assert "was merged from several versions" in _problem([tmp_path / "out", runs[0]])


def test_every_journal_that_cannot_be_read_is_named(runs: list[Path], tmp_path: Path) -> None:
    missing = [tmp_path / "missing", tmp_path / "absent"]
    with pytest.raises(MergeError) as caught:
        merge_versions([missing[0], *runs, missing[1]], "torch")
    assert all(str(folder) in str(caught.value) for folder in missing)
