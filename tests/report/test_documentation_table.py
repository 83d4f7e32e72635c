"""A table for documentation shows every name and reason unchanged, in Markdown and in reStructuredText."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import docutils.core
import docutils.nodes
import pytest
from markdown_it import MarkdownIt

from pytest_headswap._text import single_line, truncate
from pytest_headswap.cli.main import main
from pytest_headswap.report.documentation_table import Markup, format_table, rst_escaped
from pytest_headswap.results import JournalHeader, Result
from pytest_headswap.results.completeness import encode_selection
from pytest_headswap.results.run import Run
from tests.journals import CHECKS, HARM, harmful, result, whole_timm, write_journal

MARKUPS: tuple[Markup, ...] = ("md", "rst")
RST = (
    *("name_", "name__", "a_b_c", "_x", "`code`", "*it*", "**b**", "|sub|", "[1]_", "`a <b>`__", ":role:`x`"),
    *("- item", "* item", "1. item", "a) item", "(1) item", "#. item", ".. raw:: html", ">>> 1 + 1", "| line"),
    *(
        "====",
        "paragraph::",
        "http://example.org",
        "a@example.org",
        "mailto:x",
        ":field: x",
        "--option",
        "/V",
        "\\",
        "\\n",
    ),
    *("• item", "+---+", "__ anonymous", "12:30", "a:b", "a: b", "\\", "\\n", "\\" * 6, "x\\", "模_型_", "tel:12"),
)


def _run(results: list[Result], **header: object) -> Run:
    options = {"checks": list(CHECKS), "models": ""}
    return Run(Path("run"), JournalHeader(**{"options": options, **header}), results)  # type: ignore[arg-type]


def _cells(text: str, markup: Markup) -> list[list[str]]:
    """Return the texts of the cells, as a reader sees them."""
    if markup == "rst":
        document = docutils.core.publish_doctree(
            text, settings_overrides={"halt_level": 2, "report_level": 2, "raw_enabled": False}
        )
        rows = document.findall(docutils.nodes.row)
        return [[entry.astext() for entry in row.findall(docutils.nodes.entry)] for row in rows]
    found: list[list[str]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "tr_open":
            found.append([])
        elif token.type == "inline" and found:
            kinds = {child.type for child in token.children or ()}
            assert kinds <= {"text", "text_special", "strong_open", "strong_close", "link_open", "link_close"}
            found[-1].append("".join(child.content for child in token.children or ()))
    return found


def _shown(text: str, length: int = 300) -> str:
    return truncate(single_line(text), length)


@pytest.mark.parametrize("markup", MARKUPS)
def test_rows_are_architectures_with_outcomes_and_reasons(markup: Markup) -> None:
    results = [
        result("b"),
        result("b", "metadata", "failed", message="stale\nlabels"),
        result("a", outcome="skipped", reason="output_is_backbone"),
        result("a", "metadata", "skipped", reason="output_is_backbone"),
        result("c", outcome="xfailed", expectation="expected: known bug 12"),
    ]
    assert _cells(format_table(_run(results), markup), markup) == [
        ["architecture", "output_shape", "metadata", "notes"],
        ["a", "skipped", "skipped", "output_is_backbone"],
        ["b", "passed", "failed", "metadata: stale labels"],
        ["c", "xfailed", "not run", "expected: known bug 12"],
    ]


@pytest.mark.parametrize("markup", MARKUPS)
def test_the_order_of_the_journal_does_not_matter(markup: Markup) -> None:
    run = _run(whole_timm()[:400])
    text = format_table(run, markup)
    assert text == format_table(replace(run, results=run.results[::-1]), markup)
    names = [row[0] for row in _cells(text, markup)[1:]]
    assert names == sorted(names)


@pytest.mark.parametrize("markup", MARKUPS)
def test_families_are_counted(markup: Markup) -> None:
    results = [result("a"), result("b", outcome="failed"), result("c", family="vit"), result("d", zoo="other")]
    assert _cells(format_table(_run(results), markup, by="family"), markup) == [
        ["zoo", "family", "architectures", "output_shape"],
        ["other", "resnet", "1", "1 passed"],
        ["timm", "resnet", "2", "1 failed, 1 passed"],
        ["timm", "vit", "1", "1 passed"],
    ]


@pytest.mark.parametrize("markup", MARKUPS)
def test_names_link_to_the_pages_of_the_report(markup: Markup) -> None:
    text = format_table(_run([result("a_b_")]), markup, links="https://example.org/my report/")
    assert "https://example.org/my%20report/architectures/a_b_-" in text
    assert _cells(text, markup)[1][0] == "a_b_"


@pytest.mark.parametrize("markup", MARKUPS)
def test_what_the_run_does_not_cover_is_stated(markup: Markup) -> None:
    selected = encode_selection([("timm", "a", "output_shape"), ("timm", "b", "output_shape")])
    text = format_table(_run([result("a")], selected=selected, options={"sample": "5%"}), markup).replace("\\", "")
    assert "**Incomplete**: 1 of 2 selected results is missing: timm::b::output_shape." in text
    assert "**Not the whole zoo**: a sample of 5%; without native_parity, " in text


@pytest.mark.parametrize("text", [*RST, *HARM])
@pytest.mark.parametrize("markup", MARKUPS)
def test_every_name_and_reason_is_shown_unchanged(markup: Markup, text: str) -> None:
    found = result(text, text, "failed", message=text, zoo=text, family=text)
    rows = _cells(format_table(_run([found, result("a", text)]), markup, links="https://example.org"), markup)
    assert rows[0][2] == _shown(text)
    shown = {row[1]: row for row in rows[1:]}
    assert shown[_shown(text)][0] == _shown(text)
    assert shown[_shown(text)][3] == _shown(text, 120)
    assert _cells(format_table(_run([found]), markup, by="family"), markup)[1][0] == _shown(text)


def test_names_stay_readable_in_restructuredtext() -> None:
    assert rst_escaped("vit_base_patch16_224.augreg_in21k", 100) == "vit_base_patch16_224.augreg_in21k"
    assert rst_escaped("2026-11-28T17:43:37", 100) == "2026-11-28T17:43:37"


@pytest.mark.parametrize("markup", MARKUPS)
def test_a_table_of_hostile_results_has_a_row_for_each_architecture(markup: Markup) -> None:
    results = harmful()
    rows = _cells(format_table(_run(results), markup), markup)
    assert len(rows) == 1 + len({(item.zoo, item.model) for item in results})
    assert {len(row) for row in rows} == {len(rows[0])}


def test_links_without_pages_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write_journal(tmp_path / "run", [result("a")]))
    assert main(["table", folder, "--by=family", "--links=https://example.org"]) == 2
    assert capsys.readouterr().err.startswith("headswap: --links has no effect with --by=family")
    assert main(["table", folder, "--format=rst", "--output", str(tmp_path / "table.rst")]) == 0
    assert (tmp_path / "table.rst").read_text(encoding="utf-8").startswith("1 architecture of timm, with torch 2.14.1")
