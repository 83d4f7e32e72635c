"""The page of a history has a chart for each zoo, and shows what its Markdown shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_headswap.cli.main import main
from pytest_headswap.report.write import write_reports
from pytest_headswap.results import JournalHeader
from tests.journals import CHECKS, harmful, result, write_journal


def _header(day: int, **options: object) -> JournalHeader:
    known = {"zoo": ["timm"], "checks": list(CHECKS), **options}
    return JournalHeader({"timm": f"1.{day}"}, known, started=f"2026-01-{day:02}T00:00:00+00:00")


def _page(tmp_path: Path, *folders: Path) -> str:
    assert main(["history", *map(str, folders), "--html", str(tmp_path / "page.html")]) == 0
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_bar_is_drawn_for_each_run_and_outlined_for_a_part(tmp_path: Path) -> None:
    one = write_journal(tmp_path / "1", [result("m"), result("n")], _header(1))
    two = write_journal(tmp_path / "2", [result("m", outcome="failed", message="no")], _header(2, sample="5%"))
    three = write_journal(tmp_path / "3", [result("r", zoo="torchvision")], _header(3))
    text = _page(tmp_path, one, two, three)
    bars = re.findall(r'<rect class="(\w+)" x="([\d.]+)" .*?<title>(.*?)</title>', text)
    assert bars == [
        ("whole", "0.5", "run 1: 0"),
        ("partial", "17.5", "run 2: 1, not of the whole zoo"),
        ("whole", "0.5", "run 1: 0.2 s"),
        ("partial", "17.5", "run 2: 0.2 s, not of the whole zoo"),
        ("whole", "34.5", "run 3: 0"),
        ("whole", "34.5", "run 3: 0.2 s"),
    ]
    assert "Not the whole zoo.</strong> a sample of 5%" in text
    assert "first bad in run 2, good in run 1" in text


def test_links_lead_to_the_report_of_the_last_run_that_has_the_check(tmp_path: Path) -> None:
    folders = [
        write_journal(tmp_path / "1", [result("m", outcome="failed")], _header(1)),
        write_journal(tmp_path / "2", [result("n")], _header(2)),
    ]
    for folder in folders:
        write_reports(folder, folder)
    links = re.findall(r'href="(\d/[^"]+)"', _page(tmp_path, *folders))
    assert links[:2] == ["2/index.html", "1/index.html"]
    assert [link.partition("/arch")[0] for link in links[2:]] == ["1"]
    assert all((tmp_path / link).is_file() for link in links)


def test_hostile_text_adds_no_markup_to_a_history(tmp_path: Path) -> None:
    text = _page(tmp_path, write_journal(tmp_path / "1", harmful(), _header(1)))
    assert text.count("<script") == 2
    assert "<img" not in text


def test_errors_of_a_history_are_one_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.partition(" journal")[0] for line in captured.err.splitlines()] == ["headswap: cannot read the"] * 2
