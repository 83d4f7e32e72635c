"""The HTML report contains all results in one folder, and no markup from names or messages."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pytest_headswap._links import DOCS
from pytest_headswap.report.html import write_html
from pytest_headswap.report.matrix_data import matrix_data, script_safe
from pytest_headswap.report.write import write_reports
from pytest_headswap.results import JournalHeader, Result, read_journal
from pytest_headswap.results.causes import find_causes
from pytest_headswap.results.matrix import build_matrix
from pytest_headswap.results.result import OUTCOMES
from tests.journals import ANATOMY, CHECKS, HARM, harmful, result, whole_timm
from tests.report.decode import data_of, rows_of

Write = Callable[..., Path]
MIB = 2**20


class _Page(HTMLParser):
    """Collects the elements of a page, its visible text, and its scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._in = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def _pages(folder: Path) -> list[Path]:
    return sorted((folder / "architectures").iterdir())


@pytest.fixture
def small(write: Write) -> Path:
    """Return the folder of a report with two models."""
    folder = write(
        [
            result("resnet18", anatomy=ANATOMY, message="a note"),
            result("resnet18", "metadata", "failed", message="num_classes is 1000\nand not 7", reason="stale"),
            result("none", outcome="skipped", reason="output_is_backbone", message="[output_is_backbone] no head"),
        ]
    )
    write_reports(folder, folder)
    return folder


def test_the_folder_has_the_matrix_a_page_per_architecture_and_the_summary(small: Path) -> None:
    names = {path.relative_to(small).as_posix() for path in small.rglob("*") if path.is_file()}
    pages = {name for name in names if name.startswith("architectures/")}
    assert names - pages == {"results.jsonl", "index.html", "report.css", "summary.md"}
    assert len(pages) == 2


def test_the_page_of_an_architecture_shows_everything_in_the_journal(small: Path) -> None:
    (path,) = (path for path in _pages(small) if path.name.startswith("resnet18-"))
    page = _Page(path)
    for text in (
        *("resnet18", "family resnet", "zoo timm", "peak memory 1,234 MB"),
        *("fc", "linear", "512 features", "1000 classes, now 7", "main", "softmax", "classifier", "fc.weight, fc.bias"),
        *("output, class dimension 1", "dimension 1 of output is set by fc.weight", "something to know"),
        *("output_shape", "passed", "numeric", "a note", "metadata", "failed (stale)"),
        *("num_classes is 1000\nand not 7", "0.2 s"),
        "pytest --headswap-zoo=timm --headswap-models=resnet18 --headswap-checks=metadata",
        "pytest --headswap-zoo=timm --headswap-models=resnet18 --headswap-checks=output_shape,metadata",
    ):
        assert text in page.text, text


def test_a_reason_code_links_to_the_page_that_explains_it(small: Path) -> None:
    (path,) = (path for path in _pages(small) if path.name.startswith("none-"))
    links = [found["href"] for tag, found in _Page(path).tags if tag == "a"]
    assert f"{DOCS}errors/#output_is_backbone" in links
    assert f"{DOCS}reports/" in links


def test_the_diagram_shows_the_path_from_backbone_to_output(small: Path) -> None:
    (path,) = (path for path in _pages(small) if path.name.startswith("resnet18-"))
    page = _Page(path)
    (picture,) = (attributes for tag, attributes in page.tags if tag == "svg")
    assert picture["aria-label"] == "backbone to add to layer4.1.act2 to global_pool.pool to fc to softmax to output"
    kinds = [attributes["class"] for tag, attributes in page.tags if tag == "g"]
    assert kinds == ["k-backbone", "k-operation", "k-layer", "k-layer", "k-head", "k-activation", "k-output"]
    boxes = [attributes for tag, attributes in page.tags if tag == "rect"]
    tops = [int(str(box["y"])) for box in boxes]
    ends = [int(str(box["y"])) + int(str(box["height"])) for box in boxes]
    assert all(end < top for end, top in zip(ends, tops[1:], strict=False)), "one below the other"
    assert ends[-1] < int(str(picture["height"]))
    assert "2 \u00d7 512 \u00d7 7 \u00d7 7" in page.text


def test_the_page_of_a_model_without_a_head_gives_the_reason(small: Path) -> None:
    (path,) = (path for path in _pages(small) if path.name.startswith("none-"))
    page = _Page(path)
    assert "[output_is_backbone] no head" in page.text
    assert not [tag for tag, _ in page.tags if tag == "svg"]


def test_failures_are_shown_above_the_heads(small: Path) -> None:
    def titles(name: str) -> list[str | None]:
        (path,) = (path for path in _pages(small) if path.name.startswith(name))
        return [attributes["id"] for tag, attributes in _Page(path).tags if tag == "h2"]

    assert titles("resnet18-") == ["repeat-title", "checks-title", "heads-title"]
    assert titles("none-") == ["repeat-title", "heads-title", "checks-title"]


def test_an_unexpected_pass_needs_attention_and_quotes_the_expectations_file(write: Write) -> None:
    said = "known/zoo.toml:3 expects it to fail: no longer true"
    folder = write(
        [
            result("strict", "state_dict", "xpassed", expectation=said, raw_outcome="passed"),
            result("by a mark", "state_dict", "xpassed"),
            result(
                "known",
                "state_dict",
                "xfailed",
                expectation="known/zoo.toml:9: because of a cache",
                raw_outcome="failed",
            ),
        ]
    )
    write_reports(folder, folder)
    _, results = read_journal(folder)
    assert [item.model for item in results if item.needs_attention] == ["strict"]
    texts = [_Page(page).text for page in _pages(folder)]
    assert sum(said in text for text in texts) == 1
    assert sum("because of a cache" in text for text in texts) == 1


def test_the_data_of_the_matrix_contain_every_result(small: Path) -> None:
    data = data_of(small / "index.html")
    assert data["columns"] == ["output_shape", "metadata"]
    assert data["families"] == ["resnet"]
    rows = {row.name: row for row in rows_of(data)}
    cells = rows["resnet18"].cells
    assert [data["outcomes"][cell[0]] for cell in cells] == ["passed", "failed"]
    assert data["messages"][cells[1][2]] == "num_classes is 1000 and not 7"
    assert rows["none"].cells[1] == 0
    assert (small / "architectures" / rows["resnet18"].page).is_file()


def test_cells_link_to_their_checks(small: Path) -> None:
    (path,) = (path for path in _pages(small) if path.name.startswith("resnet18-"))
    ids = [attributes["id"] for tag, attributes in _Page(path).tags if tag == "tr" and "id" in attributes]
    assert ids == ["metadata", "output_shape"], "failures come first"
    assert data_of(small / "index.html")["anchors"] == ["output_shape", "metadata"]


def test_only_pages_of_an_earlier_report_are_deleted(small: Path, write: Write) -> None:
    mine = small / "architectures" / "my-notes.html"
    mine.write_text("mine", encoding="utf-8")
    before = set(_pages(small))
    write([result("resnet50")])
    write_reports(small, small)
    after = set(_pages(small))
    assert before & after == {mine}
    assert len(after) == 2


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a report in which every text is hostile."""
    folder = tmp_path_factory.mktemp("harm") / "report"
    write_html(build_matrix(JournalHeader({HARM[0]: HARM[1]}, {HARM[0]: HARM[1]}), harmful()), folder)
    return folder


def test_no_text_of_a_journal_becomes_markup(harmed: Path, small: Path) -> None:
    ours = {tag for path in [*_pages(small), small / "index.html"] for tag, _ in _Page(path).tags}
    ours_scripts = len(_Page(_pages(small)[0]).scripts)
    for path in [*_pages(harmed), harmed / "index.html"]:
        page = _Page(path)
        assert {tag for tag, _ in page.tags} <= ours, path
        attributes = [(name, value) for _, found in page.tags for name, value in found.items()]
        assert not [name for name, _ in attributes if name.startswith("on") or name == "style"]
        links = [value or "" for name, value in attributes if name in ("href", "src")]
        own = r"#cause=[0-9a-f]{10}|(\.\./)?(report\.css|index\.html)|(architectures/)?[a-z0-9._-]+\.html(#[\w.-]+)?"
        own = rf"{own}|{re.escape(DOCS)}(reports|errors|checks)/(#\w+)?"
        assert all(re.fullmatch(own, link, re.ASCII) for link in links), links
        assert len(page.scripts) == ours_scripts + 4 * (path.name == "index.html")


def test_the_markup_test_detects_unescaped_names(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(f"<p>{HARM[1]}</p><script>1{HARM[2]}", encoding="utf-8")
    page = _Page(path)
    assert [tag for tag, _ in page.tags] == ["p", "img", "script", "script"]


def test_every_hostile_name_has_a_page_in_the_folder_and_a_row_in_the_matrix(harmed: Path) -> None:
    pages = {row.page for row in rows_of(data_of(harmed / "index.html"))}
    assert pages == {path.name for path in _pages(harmed)}
    assert len(pages) == 2 * len(HARM)
    assert {path.name for path in harmed.iterdir()} == {"architectures", "index.html", "report.css"}
    assert {path.name for path in harmed.parent.iterdir()} == {"report"}


@pytest.mark.parametrize("text", HARM)
def test_data_cannot_end_their_script_and_survive_the_round_trip(text: str) -> None:
    safe = script_safe({"name": text})
    assert not set("<>&\u2028\u2029") & set(safe)
    assert json.loads(safe) == {"name": text}


def test_the_policy_allows_only_the_shipped_scripts(small: Path) -> None:
    for path in [*_pages(small), small / "index.html"]:
        page = _Page(path)
        (policy,) = (str(found["content"]) for tag, found in page.tags if "http-equiv" in found)
        allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
        assert allowed["default-src"] == "'none'"
        assert "unsafe" not in policy
        digests = {
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in page.scripts
            if not text.startswith("{")
        }
        assert digests <= set(allowed["script-src"].split())


def test_the_report_of_all_of_timm_is_small(timm_folder: Path) -> None:
    assert (timm_folder / "index.html").stat().st_size < MIB
    assert len(_pages(timm_folder)) == 1371
    assert sum(path.stat().st_size for path in _pages(timm_folder)) < 25 * MIB


@pytest.mark.parametrize("text", ["模", "🙂<"])
def test_the_matrix_stays_below_five_megabytes_if_everything_fails_with_long_messages(text: str) -> None:
    results = [
        result(f"{item.model}-{text * 200}"[:300], item.check, "failed", message=f"{item.nodeid} {text * 5000}")
        for item in whole_timm()
    ]
    matrix = build_matrix(JournalHeader({}, {"checks": list(CHECKS)}), results)
    data = script_safe(matrix_data(matrix, find_causes(results), {row.file_name for row in matrix.rows}))
    assert 2 * 10**6 < len(data.encode()) + 30_000 < 5 * 10**6
    assert len(rows_of(json.loads(data))) == 1371


def test_messages_of_failures_are_kept_if_not_all_messages_fit() -> None:
    results = [result(f"a{number}", outcome="skipped", message=f"{number} {'x' * 230}") for number in range(7000)]
    results.append(result("z", outcome="failed", message="this one matters"))
    assert "this one matters" in matrix_data(build_matrix(JournalHeader(), results))["messages"]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_can_be_shown(write: Write, outcome: str) -> None:
    folder = write([Result("z", "m", "c", outcome)])  # type: ignore[arg-type]
    reports = write_reports(folder, folder)
    assert outcome in _Page(_pages(folder)[0]).text
    assert reports.matrix.outcomes.total() == 1


def test_a_journal_without_results_has_a_report(write: Write) -> None:
    folder = write([])
    assert "0 architectures" in _Page(write_reports(folder, folder).html).text


def test_a_journal_of_an_older_version_has_a_report(write: Write) -> None:
    folder = write([result("resnet18", heads=("fc",))])
    assert "The journal records no head." in _Page(_pages(write_reports(folder, folder).html.parent)[0]).text


def test_reports_can_be_written_to_a_new_folder(small: Path, tmp_path: Path) -> None:
    reports = write_reports(small / "results.jsonl", tmp_path / "deep" / "out")
    assert reports.html == tmp_path / "deep" / "out" / "index.html"
    assert reports.markdown.is_file()
    assert read_journal(small)[1]
