"""The journal of an interrupted run names the missing results, and so do all reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_headswap.cli.main import main
from pytest_headswap.report.markdown import render_markdown
from pytest_headswap.results import JournalError, JournalHeader, read_journal
from pytest_headswap.results.completeness import decode_selection, encode_selection, missing_results
from pytest_headswap.results.matrix import build_matrix
from tests.journals import CHECKS, Write, result

TESTS = [("timm", model, check) for model in ("a", "b", "c") for check in CHECKS[:2]]
HEADER = JournalHeader({"torch": "2.9"}, {"checks": list(CHECKS)}, selected=encode_selection(TESTS))


def test_a_selection_is_encoded_in_groups_of_models_with_the_same_checks() -> None:
    tests = [*TESTS, ("timm", "d", "metadata"), ("own", "a", "metadata")]
    selection = encode_selection(tests)
    assert selection == {
        "timm": [
            {"models": ["a", "b", "c"], "checks": ["output_shape", "native_parity"]},
            {"models": ["d"], "checks": ["metadata"]},
        ],
        "own": [{"models": ["a"], "checks": ["metadata"]}],
    }
    assert sorted(decode_selection(selection)) == sorted(tests)
    assert encode_selection([*tests, *tests]) == selection


def test_missing_results_are_counted_and_named() -> None:
    missing = missing_results(HEADER, [result("a"), result("b", "native_parity")])
    assert missing.keys == (
        ("timm", "a", "native_parity"),
        ("timm", "b", "output_shape"),
        ("timm", "c", "output_shape"),
        ("timm", "c", "native_parity"),
    )
    assert str(missing).startswith(
        "4 of 6 selected results are missing: timm::a::native_parity, timm::b::output_shape, "
    )
    assert str(missing_results(HEADER, [])).endswith(" and 1 more")
    assert not missing_results(HEADER, [result(model, check) for _, model, check in TESTS])
    assert not missing_results(JournalHeader(), []), "a journal of an earlier version does not say"


def test_the_report_of_an_incomplete_run_never_says_that_nothing_failed() -> None:
    whole = build_matrix(HEADER, [result(model, check) for _, model, check in TESTS])
    assert "Nothing failed." in render_markdown(whole)
    for results in ([result("a")], []):
        text = render_markdown(build_matrix(HEADER, results))
        assert "Nothing failed" not in text
        assert f"**Incomplete**: {6 - len(results)} of 6 selected results are missing" in text


def test_the_selection_is_read_back_from_the_journal(write: Write) -> None:
    folder = write([result("a")], header=HEADER)
    assert read_journal(folder)[0].selected == HEADER.selected


@pytest.mark.parametrize(
    "selected",
    [
        [],
        "timm",
        {"timm": {}},
        {"timm": ["a"]},
        {"timm": [{"models": "a", "checks": ["metadata"]}]},
        {"timm": [{"models": ["a"]}]},
        {"timm": [{"models": [1], "checks": ["metadata"]}]},
    ],
)
def test_a_malformed_selection_is_refused(tmp_path: Path, selected: object) -> None:
    (tmp_path / "results.jsonl").write_text(json.dumps({"headswap_journal": 1, "selected": selected}) + "\n")
    with pytest.raises(JournalError, match=r"line 1: .*`\$\.selected"):
        read_journal(tmp_path)


def test_every_command_reports_an_incomplete_run(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    old = write([result(model, check) for _, model, check in TESTS], "old", HEADER)
    new = write([result("a")], "new", replace(HEADER, versions={"torch": "3"}))
    message = "5 of 6 selected results are missing: timm::a::native_parity, "
    assert main(["report", str(new)]) == 0
    assert f"incomplete: {message}" in capsys.readouterr().out
    assert f"<strong>Incomplete.</strong> {message}" in (new / "index.html").read_text(encoding="utf-8")
    assert main(["compare", str(old), str(new)]) == 0
    assert f"**Incomplete**: {new}: {message}" in capsys.readouterr().out.replace("\\", "")
    assert main(["merge", str(new.parent / "versions"), str(old), str(new), "--by-version-of=torch"]) == 0
    assert f"torch 3: {message}" in capsys.readouterr().out


def test_a_strict_unexpected_pass_is_broken_in_a_comparison(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    strict = result("a", "output_shape", "xpassed", expectation="[XPASS(strict)] known")
    old, new = write([result("a")], "old"), write([strict], "new")
    assert main(["compare", str(old), str(new)]) == 1
    assert "1 broken" in capsys.readouterr().out
    lenient = write([result("a", "output_shape", "xpassed")], "lenient")
    assert main(["compare", str(lenient), str(new)]) == 1
    capsys.readouterr()
    assert main(["compare", str(new), str(old)]) == 0
    assert "1 fixed" in capsys.readouterr().out
