"""The Markdown report fits a step summary, starts with the worst results, and shows texts unchanged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_headswap._links import DOCS
from pytest_headswap.report.markdown import MAX_BYTES, code_block, escaped, render_markdown, write_markdown
from pytest_headswap.results import JournalHeader, read_journal
from pytest_headswap.results.matrix import build_matrix
from tests.journals import CHECKS, HARM, harmful, result, whole_timm

HEADER = JournalHeader({"torch": "2.14.1"}, {"checks": list(CHECKS)})


def _of(*results: object, **header: object) -> str:
    return render_markdown(build_matrix(JournalHeader({"torch": "2.14.1"}, **header), results))  # type: ignore[arg-type]


def test_the_summary_starts_with_the_counts_and_the_worst_results() -> None:
    text = _of(
        result("fine"),
        result("slow", outcome="timeout", message="300 s"),
        result("bad", outcome="failed", message="7 is\nnot 8"),
        result("bad", "metadata", "error", message="no"),
        result("none", outcome="skipped", reason="output_is_backbone"),
    )
    assert text.startswith("## Head swaps: 4 architectures, 5 results\n")
    assert "| timm | 1 | 1 | 1 | 1 | 1 |" in text
    assert text.index("| slow | timeout | output_shape | 300 s |") < text.index(
        "| bad | failed | output_shape | 7 is not"
    )
    assert "torch 2.14.1; 1.2 s of tests" in text
    assert f"| [output_is_backbone]({DOCS}errors/#output_is_backbone) | 1 |" in text
    commands = re.search(r"```bash\n(.*?)\n```", text, re.DOTALL)
    assert commands is not None
    assert (
        commands[1].splitlines()[0]
        == "pytest --headswap-zoo=timm --headswap-models='slow' --headswap-checks=output_shape"
    )


def test_the_summary_says_if_nothing_failed() -> None:
    assert "Nothing failed." in _of(result("fine"))


def test_a_model_that_fails_every_check_takes_one_line() -> None:
    text = _of(*(result("bad", check, "error", message="no") for check in CHECKS))
    assert "| bad | error | all 8 checks | no |" in text


def test_families_are_sorted_by_failures_and_then_by_time() -> None:
    text = _of(
        result("a", family="quick"), result("b", family="slow", seconds=9.0), result("c", "x", "failed", family="bad")
    )
    rows = re.findall(r"^\| (quick|slow|bad) \|", text, re.MULTILINE)
    assert rows == ["bad", "slow", "quick"]


@pytest.mark.parametrize("letter", ["x", "模", "\ud800", "|"])
def test_the_summary_stays_within_its_limit_if_everything_fails(letter: str) -> None:
    long = letter * 5000
    results = [
        result(f"{item.model}{long}", item.check, "failed", message=long, repro=long[:500], reason=long, family=long)
        for item in whole_timm()[::8]
    ]
    results += [result(str(n), zoo=f"{n}{long}", outcome="skipped", reason=f"{n}{long}") for n in range(500)]
    text = _of(*results, merged={"missing": [long]})
    size = len(text.encode("utf-8", "backslashreplace"))
    assert 5_000 < size <= MAX_BYTES
    assert "… and" in text


def test_the_summary_says_if_it_is_truncated() -> None:
    many = [result(f"m{n}", outcome="failed", message="模" * 290, repro="模" * 550) for n in range(60)]
    assert render_markdown(build_matrix(HEADER, many)).endswith("*Truncated. The HTML report has everything.*\n")


def test_the_summary_of_all_of_timm_is_short() -> None:
    text = render_markdown(build_matrix(HEADER, whole_timm()))
    assert 2_000 < len(text) < 40_000
    assert text.count("\n") < 250


@pytest.mark.parametrize("text", HARM)
def test_escaped_text_contains_no_markup_and_no_line_breaks(text: str) -> None:
    shown = escaped(text, 400)
    assert "\n" not in shown
    bare = re.sub(r"\\.", "", shown)
    assert not re.search(r"[`*<>|\[\]&]", bare), shown


def test_names_stay_readable() -> None:
    assert escaped("vit_base_patch16_224.augreg_in21k", 100) == "vit_base_patch16_224.augreg_in21k"
    assert escaped("_a_", 100) == "\\_a\\_"


def test_the_content_of_a_cell_cannot_change_the_columns() -> None:
    text = render_markdown(build_matrix(HEADER, harmful()))
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", re.sub(r"\\\\", "", line))) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_the_content_of_a_code_block_cannot_end_it() -> None:
    assert code_block(["a ``` b", "````"]).splitlines()[0] == "`````"


def test_the_summary_is_written_into_the_folder(tmp_path: Path, timm_folder: Path) -> None:
    path = write_markdown(build_matrix(*read_journal(timm_folder)), tmp_path)
    assert path == tmp_path / "summary.md"
    assert path.read_text(encoding="utf-8") == (timm_folder / "summary.md").read_text(encoding="utf-8")
