"""A badge says how many architectures conform, and a run of a part never looks complete."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pytest_headswap.cli.main import main
from pytest_headswap.report.badge import badge_json, badge_svg
from pytest_headswap.results import OUTCOMES, JournalHeader, Outcome, Result
from pytest_headswap.results.completeness import encode_selection
from pytest_headswap.results.conformance import count_conforming
from pytest_headswap.results.result import FAILURES, NOT_RUN
from pytest_headswap.results.run import Run
from tests.journals import CHECKS, HARM, harmful, result, write_journal

SVG = "{http://www.w3.org/2000/svg}"
WHOLE = {"zoo": ["timm"], "checks": list(CHECKS), "models": ""}


def _run(*results: Result, **header: object) -> Run:
    return Run(Path("run"), JournalHeader(**{"options": WHOLE, **header}), list(results))  # type: ignore[arg-type]


def _badge(*results: Result, **header: object) -> tuple[str, str]:
    data = json.loads(badge_json(count_conforming(_run(*results, **header))))
    assert data["schemaVersion"] == 1
    return data["message"], data["color"]


@pytest.mark.parametrize(
    ("results", "badge"),
    [
        ([result("a"), result("b")], ("2 / 2 conform", "brightgreen")),
        ([result("a"), result("b", outcome="failed")], ("1 / 2 conform", "red")),
        ([result("a"), result("b", outcome="xfailed")], ("1 / 2 conform", "yellow")),
        ([result("a"), result("b", outcome="xpassed")], ("2 / 2 conform", "brightgreen")),
        ([result("a"), result("b", outcome="xpassed", expectation="strict")], ("1 / 2 conform", "red")),
        ([result("a"), result("b", outcome="skipped")], ("1 / 2 conform, 1 skipped", "brightgreen")),
        ([result("a"), result("b", outcome="skipped", reason=NOT_RUN)], ("1 / 2 conform", "yellow")),
        ([result("a", outcome="skipped")], ("0 / 1 conform, 1 skipped", "grey")),
        ([result("a"), result("a", "metadata", "skipped")], ("1 / 1 conform", "brightgreen")),
        ([result("a"), result("a", "metadata", "crashed")], ("0 / 1 conform", "red")),
        ([result(f"m{n}") for n in range(1371)], ("1,371 / 1,371 conform", "brightgreen")),
    ],
)
def test_the_badge_counts_architectures_by_their_worst_result(results: list[Result], badge: tuple[str, str]) -> None:
    assert _badge(*results) == badge


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_only_a_run_without_failures_is_green(outcome: Outcome) -> None:
    _, colour = _badge(result("a"), result("a", "metadata", outcome))
    assert (colour == "red") == (outcome in FAILURES)
    assert (colour == "brightgreen") == (outcome in ("passed", "xpassed", "skipped"))


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ({"options": {**WHOLE, "sample": "5%"}}, "sample"),
        ({"options": {**WHOLE, "models": "resnet*"}}, "part"),
        ({"options": {**WHOLE, "shard": "1/8"}}, "part"),
        ({"options": {**WHOLE, "checks": ["output_shape"]}}, "part"),
        ({"merged": {"missing": ["shard 2/2 is missing"]}}, "incomplete"),
        ({"merged": {"versions": [{"version": "torch 2.4", "options": {**WHOLE, "sample": "family"}}]}}, "sample"),
    ],
)
def test_a_part_is_never_green_and_says_so(header: dict[str, object], word: str) -> None:
    assert _badge(result("a"), **header) == (f"1 / 1 conform ({word})", "yellow")
    assert _badge(result("a", outcome="failed"), **header) == (f"0 / 1 conform ({word})", "red")


def test_an_architecture_that_lacks_results_does_not_conform() -> None:
    selected = encode_selection([("timm", model, check) for model in "abc" for check in ("output_shape", "metadata")])
    results = [result("a"), result("a", "metadata"), result("b")]
    assert _badge(*results, selected=selected) == ("1 / 3 conform (incomplete)", "yellow")


def test_the_svg_has_an_accessible_title_with_all_counts() -> None:
    run = _run(result("a"), result("b", outcome="failed"), result("c", outcome="skipped"), merged={"missing": ["x"]})
    root = ET.fromstring(badge_svg(count_conforming(run)))
    title = root.find(f"{SVG}title")
    assert title is not None
    assert title.text == (
        "headswap: 1 of 3 architectures conform; need attention: 1; skipped, since no check applies: 1; incomplete: x"
    )
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == title.text
    assert [text.text for text in root.iter(f"{SVG}text")] == ["headswap", "1 / 3 conform, 1 skipped (incomplete)"]


def _contrast(colour: str) -> float:
    """Return the contrast of white text on a colour, by the formula of WCAG."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


@pytest.mark.parametrize("outcome", ["passed", "xfailed", "failed", "skipped"])
def test_white_text_is_readable_on_every_colour(outcome: Outcome) -> None:
    root = ET.fromstring(badge_svg(count_conforming(_run(result("a", outcome=outcome)))))
    colours = [str(rect.get("fill")) for rect in root.iter(f"{SVG}rect") if rect.get("fill")]
    assert all(_contrast(colour.replace("#555", "#555555")) >= 4.5 for colour in colours)


@pytest.mark.parametrize("text", HARM)
def test_a_label_cannot_add_markup(text: str) -> None:
    root = ET.fromstring(badge_svg(count_conforming(_run(*harmful())), text))
    assert {node.tag.removeprefix(SVG) for node in root.iter()} == {"svg", "title", "clipPath", "rect", "g", "text"}
    assert len(list(root.iter(f"{SVG}text"))) == 2


def test_a_badge_is_printed_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write_journal(tmp_path / "run", [result("a")]))
    assert main(["badge", folder]) == 0
    printed = capsys.readouterr().out
    assert main(["badge", folder, "--output", str(tmp_path / "deep" / "badge.svg")]) == 0
    assert (tmp_path / "deep" / "badge.svg").read_text(encoding="utf-8") == printed
    assert main(["badge", folder, "--format=json", "--label=models"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "models"


@pytest.mark.parametrize("command", ["badge", "table"])
def test_bad_input_is_one_error_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    empty = write_journal(tmp_path / "empty", [])
    for arguments, message in [
        ([str(tmp_path / "nowhere")], "cannot read the journal"),
        ([str(empty)], f"{empty} has no results"),
        ([str(write_journal(tmp_path / "run", [result("a")])), "--output", str(tmp_path)], f"cannot write {tmp_path}"),
    ]:
        assert main([command, *arguments]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"headswap: {message}")
        assert captured.err.count("\n") == 1
