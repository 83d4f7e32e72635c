"""The page of a comparison shows what the Markdown shows, in one file, with links to the reports that exist."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pytest_headswap.cli.main import main
from pytest_headswap.report.comparison import change_lists, headline
from pytest_headswap.report.write import write_reports
from pytest_headswap.results import JournalHeader, Result
from pytest_headswap.results.compare import compare, compare_runs
from pytest_headswap.results.completeness import encode_selection
from pytest_headswap.results.run import read_run
from tests.journals import CHECKS, harmful, result, write_journal

Output = pytest.CaptureFixture[str]


class _Page(HTMLParser):
    """Collects the texts, links and scripts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name == "href" and value]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] not in (["style"], ["script"]) and data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def _compared(tmp_path: Path, old: list[Result], new: list[Result], header: JournalHeader | None = None) -> _Page:
    folders = [write_journal(tmp_path / "old", old), write_journal(tmp_path / "new", new, header)]
    main(["compare", *map(str, folders), "--html", str(tmp_path / "page.html")])
    return _Page(tmp_path / "page.html")


def test_the_page_has_every_list_of_the_markdown(tmp_path: Path, capsys: Output) -> None:
    old = [result("a"), result("b", outcome="failed"), result("gone"), result("slow", seconds=10)]
    new = [
        result("a", outcome="failed", message="7 is not 8"),
        result("b"),
        result("new"),
        result("slow", seconds=70, peak_memory_mb=4000.0),
    ]
    page = _compared(tmp_path, old, new)
    markdown = capsys.readouterr().out
    titles = re.findall(r"^### (.+)$", markdown, re.MULTILINE)
    assert [title.partition(":")[0] for title in titles] == [
        *("Broken", "Fixed", "Removed", "New", "Slower", "Larger"),
    ]
    assert [text for text in page.texts if text in titles] == titles
    assert headline(compare(old, new)) in page.text
    for shown in ("7 is not 8", "1 min 10 s (7.0 times)", "4,000 MB (3.2 times)", "no result"):
        assert shown in page.text


def test_checks_that_changed_alike_share_a_line(tmp_path: Path) -> None:
    new = [result("a", check, "error", message="no") for check in CHECKS]
    new[3] = result("a", CHECKS[3], "crashed", message="died")
    (broken,) = change_lists(compare([result("a", check) for check in CHECKS], new))
    assert broken.count == 8
    assert [line.count for line in broken.lines] == [1, 7], "the worst first"
    assert str(broken.lines[1]) == f"timm::a::{', '.join(check for check in CHECKS if check != CHECKS[3])}"


def test_equal_runs_say_so(tmp_path: Path) -> None:
    assert "Nothing changed." in _compared(tmp_path, [result("a")], [result("a")]).text


def test_links_lead_to_the_reports_that_exist(tmp_path: Path) -> None:
    for name, outcome in (("old #1", "passed"), ("new", "failed")):
        folder = write_journal(tmp_path / "runs" / name, [result("a", outcome=outcome), result(name)])  # type: ignore[arg-type]
        if name != "new":
            write_reports(folder, folder)
    out = tmp_path / "pages" / "compared.html"
    assert main(["compare", str(tmp_path / "runs" / "old #1"), str(tmp_path / "runs" / "new"), "--html", str(out)]) == 1
    page = _Page(out)
    local = [link for link in page.links if not link.startswith(("#", "https:"))]
    assert local[0] == "../runs/old%20%231/index.html", "the report of the second run was not written"
    assert len(local) == 3, "the report, and the pages of a and of the architecture that is gone"
    assert all((out.parent / link.replace("%20", " ").replace("%23", "#")).is_file() for link in local)


def test_the_page_states_what_is_missing_and_what_is_not_the_same(tmp_path: Path) -> None:
    selected = encode_selection([("timm", "a", "output_shape"), ("timm", "b", "output_shape")])
    header = JournalHeader({"timm": "2"}, {"sample": "family", "checks": ["output_shape"]}, selected=selected)
    page = _compared(tmp_path, [result("a")], [result("a")], header)
    assert "1 of 2 selected results is missing: timm::b::output_shape" in page.text
    assert "timm was '1.0.31' and is '2'" in page.text
    assert "a sample of family" in page.text


def test_hostile_text_adds_no_markup(tmp_path: Path) -> None:
    page = _compared(tmp_path, [result("a")], [result("a"), *harmful()])
    assert set(page.tags) == set(_compared(tmp_path / "tame", [result("a")], [result("a", outcome="failed")]).tags)
    assert page.tags.count("script") == 2
    assert all(link.startswith(("#", "https://pytest-headswap.readthedocs.io/")) for link in page.links)


@pytest.mark.parametrize("name", ["results.jsonl", "index.html", "summary.md"])
def test_the_page_replaces_no_part_of_a_report(tmp_path: Path, capsys: Output, name: str) -> None:
    folder = write_journal(tmp_path / "run", [result("a")])
    write_reports(folder, folder)
    before = (folder / name).read_bytes()
    assert main(["compare", str(folder), str(folder), "--html", str(folder / name)]) == 2
    assert f"headswap: {folder / name} is part of a report: choose another file" in capsys.readouterr().err
    assert (folder / name).read_bytes() == before


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: Output) -> None:
    folder = str(write_journal(tmp_path / "run", [result("a")]))
    assert main(["compare", folder, folder, "--html", str(tmp_path)]) == 2
    assert f"headswap: cannot write {tmp_path}: " in capsys.readouterr().err


def test_the_page_of_many_changes_is_bounded_and_counts_the_rest(tmp_path: Path) -> None:
    new = [result(f"m{number:05}", outcome="failed", message="x" * 5000) for number in range(3000)]
    page = _compared(tmp_path, [result("a")], [result("a"), *new])
    assert "… and 2,500 more." in page.text
    assert (tmp_path / "page.html").stat().st_size < 1_500_000


def test_a_comparison_of_runs_names_the_run_that_lacks_results(tmp_path: Path) -> None:
    selected = encode_selection([("timm", "a", "output_shape"), ("timm", "b", "output_shape")])
    folder = write_journal(tmp_path / "old", [result("a")], JournalHeader({}, {}, selected=selected))
    run = read_run(folder)
    assert (
        compare_runs(run, run).missing == (f"{folder}: 1 of 2 selected results is missing: timm::b::output_shape",) * 2
    )
