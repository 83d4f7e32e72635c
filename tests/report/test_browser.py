"""Use the report in a real Chromium: with all of timm, with the keyboard only, and with hostile names."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_headswap.report.write import write_reports
from pytest_headswap.results import JournalHeader, Result, read_journal
from pytest_headswap.results.matrix import build_matrix
from tests.journals import HARM, harmful, result, write_journal

Open = Callable[..., Any]


@pytest.fixture
def matrix(page_of: Open, timm_folder: Path) -> Any:
    """Return the page with the matrix of all of timm."""
    return page_of(timm_folder / "index.html")


def _shown(page: Any) -> str:
    return str(page.locator("#shown").text_content())


def _count(page: Any) -> int:
    return int(_shown(page).split()[0].replace(",", ""))


def _names(page: Any, most: int = 5) -> list[str]:
    names = page.eval_on_selector_all(
        "#matrix tbody th.name .text", "links => links.slice(0, 200).map(a => a.textContent)"
    )
    return list(names[:most])


# A frame is drawn before the clock stops, so this is what somebody waits for.
_TIMED = """async ([selector, value]) => {
  const start = performance.now();
  const field = document.querySelector(selector);
  if (value === null) field.click();
  else { field.value = value; field.dispatchEvent(new Event(field.type === 'search' ? 'input' : 'change')); }
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}"""


def test_the_matrix_of_all_of_timm_is_usable_at_once(matrix: Any) -> None:
    assert _count(matrix) == 1371
    assert int(matrix.evaluate("document.documentElement.dataset.ready")) < 1000
    for selector, value in [
        ("#search", "vit"),
        ("#search", ""),
        (".tile[data-outcome=failed]", None),
        ("#evidence", "simulated"),
        ("#reset", None),
        ("#matrix thead th.time button", None),
        ("#matrix thead th.name button", None),
    ]:
        assert matrix.evaluate(_TIMED, [selector, value]) < 1000, selector


def test_the_counts_match_the_journal(matrix: Any, timm_folder: Path) -> None:
    outcomes = build_matrix(*read_journal(timm_folder)).outcomes
    tiles = matrix.eval_on_selector_all(
        ".tile", "tiles => tiles.map(t => [t.dataset.outcome, t.querySelector('b').textContent])"
    )
    assert {name: int(count.replace(",", "")) for name, count in tiles} == outcomes
    assert f"{outcomes['failed']} failed" in str(matrix.locator("#share").get_attribute("aria-label"))


def test_the_search_finds_names_families_and_messages(matrix: Any) -> None:
    matrix.fill("#search", "RESNET 50")
    assert 0 < _count(matrix) < 200
    assert all("resnet" in name and "50" in name for name in _names(matrix, 50))
    matrix.fill("#search", "missing: head.weight")
    assert 0 < _count(matrix) < 100
    matrix.fill("#search", "no such thing")
    assert _count(matrix) == 0
    assert matrix.locator("#none").is_visible()
    matrix.click("#reset-too")
    assert _count(matrix) == 1371
    assert not matrix.locator("#none").is_visible()


def test_outcome_filters_combine(matrix: Any) -> None:
    def rows_with(*outcomes: str) -> int:
        return int(
            matrix.evaluate(
                """(wanted) => {
                  const data = JSON.parse(document.getElementById('data').textContent);
                  const has = data.patterns.map((cells) => cells.some(
                    (c) => c && wanted.includes(data.outcomes[data.cells[c][0]])));
                  return data.pattern.filter((pattern) => has[pattern]).length;
                }""",
                list(outcomes),
            )
        )

    matrix.click(".tile[data-outcome=failed]")
    assert _count(matrix) == rows_with("failed") > 0
    assert matrix.locator(".tile[data-outcome=failed]").get_attribute("aria-pressed") == "true"
    matrix.click(".tile[data-outcome=error]")
    assert _count(matrix) == rows_with("failed", "error") > rows_with("failed")
    assert matrix.locator("td.dim").count() > 0, "cells that do not match step back"
    matrix.click(".tile[data-outcome=failed]")
    assert _count(matrix) == rows_with("error")


def test_family_and_evidence_filters_combine_with_outcomes(matrix: Any) -> None:
    matrix.select_option("#family", "vit")
    vits = _count(matrix)
    assert 100 < vits < 400
    assert all(name.startswith("vit") for name in _names(matrix, 50))
    matrix.select_option("#evidence", "simulated")
    assert 0 < _count(matrix) < vits
    matrix.click(".tile[data-outcome=failed]")
    assert _count(matrix) < vits / 10
    matrix.click("#reset")
    assert _count(matrix) == 1371


def test_a_click_in_the_family_chart_filters_by_family(matrix: Any) -> None:
    assert matrix.locator("#families tbody tr").count() == 8
    matrix.click("#all-families")
    rows = matrix.locator("#families tbody tr")
    assert rows.count() > 100
    worst = rows.first
    assert "passed" in str(worst.locator(".bar").get_attribute("aria-label"))
    worst.locator("button").click()
    assert _count(matrix) < 400
    assert matrix.input_value("#family") == worst.locator("button").text_content()


def test_each_column_sorts_both_ways(matrix: Any) -> None:
    heading = matrix.locator("#matrix thead th.name")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert _names(matrix) == sorted(_names(matrix, 100))[:5]
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert _names(matrix)[0].startswith("xcit")
    matrix.click("#matrix thead th.time button")
    times = matrix.eval_on_selector_all("#matrix tbody td.time", "cells => cells.map(cell => cell.textContent)")
    assert matrix.locator("#matrix thead th.time").get_attribute("aria-sort") == "descending", "the longest first"
    assert all(time.endswith(("s", "min")) for time in times)
    check = matrix.locator("#matrix thead th.cell").nth(4)
    check.locator("button").click()
    first = matrix.locator("#matrix tbody tr").first.locator("td.cell").nth(4)
    assert "o-crashed" in str(first.locator(".chip").get_attribute("class"))


def test_the_address_keeps_the_filters(page_of: Open, timm_folder: Path, matrix: Any) -> None:
    matrix.fill("#search", "resnet")
    matrix.click(".tile[data-outcome=failed]")
    matrix.click("#matrix thead th.memory button")
    fragment = "#" + str(matrix.evaluate("location.hash")).lstrip("#")
    again = page_of(timm_folder / "index.html", fragment)
    assert _shown(again) == _shown(matrix)
    assert _names(again) == _names(matrix)
    assert again.input_value("#search") == "resnet"
    assert again.locator(".tile[data-outcome=failed]").get_attribute("aria-pressed") == "true"


def test_an_invalid_address_is_ignored(page_of: Open, timm_folder: Path) -> None:
    page = page_of(timm_folder / "index.html", "#outcome=nope,%3Cb%3E&sort=check:none&family=%00")
    assert _count(page) == 0
    page.click("#reset")
    assert _count(page) == 1371


def test_the_matrix_can_be_used_with_the_keyboard_only(matrix: Any, timm_folder: Path) -> None:
    focused = "document.activeElement.querySelector('.text').textContent"
    labelled = "document.activeElement.ariaLabel"
    matrix.keyboard.press("/")
    assert matrix.evaluate("document.activeElement.id") == "search"
    matrix.keyboard.type("resnet18")
    matrix.keyboard.press("ArrowDown")
    first = matrix.evaluate(focused)
    assert "resnet18" in first
    matrix.keyboard.press("ArrowRight")
    assert matrix.evaluate(labelled).startswith("output_shape: ")
    matrix.keyboard.press("End")
    assert matrix.evaluate(labelled).startswith("device_placement: ")
    matrix.keyboard.press("ArrowDown")
    assert matrix.evaluate("document.activeElement.closest('tr').rowIndex") == 2
    outline = matrix.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "one sees where one is"
    matrix.keyboard.press("Home")
    matrix.keyboard.press("ArrowUp")
    assert matrix.evaluate(focused) == first
    assert matrix.locator("#matrix tbody [tabindex='0']").count() == 1, "one stop on the way of the tab key"
    matrix.keyboard.press("Enter")
    matrix.wait_for_selector("#matrix-link")
    assert matrix.locator("h1").text_content() == first
    matrix.keyboard.press("Escape")
    matrix.wait_for_selector("#shown:not(:empty)")
    assert matrix.input_value("#search") == "resnet18", "back to what was chosen"


def test_the_keyboard_reaches_the_last_row_and_the_first_again(matrix: Any) -> None:
    row = "document.activeElement.closest('tr').ariaRowIndex"
    matrix.locator("#matrix tbody th.name a").first.focus()
    for _ in range(12):
        matrix.keyboard.press("PageDown")
    assert matrix.evaluate(row) == "122", "the row is drawn although it was far below"
    matrix.keyboard.press("Control+End")
    assert matrix.evaluate(row) == "1372"
    assert matrix.evaluate("document.activeElement.ariaLabel").startswith("device_placement: ")
    assert matrix.locator("#matrix tbody tr").count() < 200, "only rows in view are in the document"
    matrix.keyboard.press("Control+Home")
    assert matrix.evaluate(row) == "2"


def until(is_so: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition. Playwright would evaluate text in the page, which the policy of the page forbids."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_rows_appear_on_scrolling_and_the_others_leave(matrix: Any) -> None:
    indices = "rows => [rows[0].ariaRowIndex, rows[rows.length - 1].ariaRowIndex, rows.length]"
    first, _, number = matrix.eval_on_selector_all("#matrix tbody tr", indices)
    assert (first, number < 200) == ("2", True)
    matrix.evaluate("document.getElementById('scroll').scrollTop = 1e6")
    until(lambda: matrix.eval_on_selector_all("#matrix tbody tr", indices)[1] == "1372")
    box, view = matrix.locator("#matrix tbody tr").last.bounding_box(), matrix.locator("#scroll").bounding_box()
    assert abs(box["y"] + box["height"] - view["y"] - view["height"]) < 2, "the last row ends where the box ends"
    matrix.evaluate("document.getElementById('scroll').scrollTop = 20000")
    until(lambda: int(matrix.eval_on_selector_all("#matrix tbody tr", indices)[0]) < 700)
    head = matrix.locator("#matrix thead th").first.bounding_box()
    tops = matrix.eval_on_selector_all("#matrix tbody tr", "rows => rows.map(row => row.getBoundingClientRect().top)")
    assert abs(head["y"] - view["y"]) < 2, "the heading stays"
    assert min(tops) < head["y"] < view["y"] + view["height"] < max(tops), "rows fill the box"


@pytest.mark.parametrize(("scheme", "bright"), [("light", True), ("dark", False)])
def test_the_theme_follows_the_system_until_the_user_chooses_one(
    page_of: Open, timm_folder: Path, scheme: str, bright: bool
) -> None:
    def is_bright(page: Any) -> bool:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, colour.removeprefix("rgb(").rstrip(")").split(","))) > 3 * 127

    page = page_of(timm_folder / "index.html", color_scheme=scheme)
    assert is_bright(page) is bright
    page.click("#theme")
    assert is_bright(page) is not bright
    page.reload()
    assert is_bright(page) is not bright, "and is remembered"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(page_of: Open, timm_folder: Path, scheme: str) -> None:
    page = page_of(timm_folder / "index.html", color_scheme=scheme)
    ratios = page.evaluate(
        """() => {
          const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
          const over = (colours) => {
            canvas.clearRect(0, 0, 1, 1);
            for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
          };
          const light = (rgb) => {
            const [r, g, b] = rgb.map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b;
          };
          const found = {};
          const read = '.chip, .lead, h2, .tile span, .tile b, .matrix th a, .matrix td';
          for (const node of document.querySelectorAll(read)) {
            const behind = [];
            for (let n = node; n; n = n.parentElement) behind.unshift(getComputedStyle(n).backgroundColor);
            const text = light(over([...behind, getComputedStyle(node).color])), ground = light(over(behind));
            const ratio = (Math.max(text, ground) + .05) / (Math.min(text, ground) + .05);
            found[node.className || node.tagName] = Math.min(ratio, found[node.className || node.tagName] ?? 99);
          }
          return found;
        }"""
    )
    assert len(ratios) > 8
    assert {name: round(ratio, 2) for name, ratio in ratios.items() if ratio < 4.5} == {}, "WCAG AA"


def test_each_outcome_has_a_letter_in_addition_to_its_colour(matrix: Any) -> None:
    letters = matrix.eval_on_selector_all(".tile .chip", "chips => chips.map(chip => chip.textContent)")
    assert len(set(letters)) == len(letters) >= 6
    labels = matrix.eval_on_selector_all("#matrix tbody td.cell a", "cells => cells.map(cell => cell.ariaLabel)")
    assert all(": " in label for label in labels)


@pytest.mark.parametrize("width", [360, 768])
def test_on_narrow_screens_the_table_scrolls_and_the_page_does_not(
    page_of: Open, timm_folder: Path, width: int
) -> None:
    architecture = next((timm_folder / "architectures").glob("levit_128-*"))
    for path in (timm_folder / "index.html", architecture):
        page = page_of(path, viewport={"width": width, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    page = page_of(timm_folder / "index.html", viewport={"width": width, "height": 740})
    page.evaluate("document.getElementById('scroll').scrollLeft = 400")
    box = page.locator("#matrix tbody th.name").first.bounding_box()
    assert 0 <= box["x"] < 40, "the name stays in view"


def test_a_cell_links_to_its_check_on_the_page_of_the_architecture(matrix: Any) -> None:
    matrix.fill("#search", "levit_128s")
    matrix.locator("#matrix tbody td.cell a").nth(5).click()
    matrix.wait_for_selector("#matrix-link")
    assert matrix.locator("tr:target .name").text_content() == "frozen_backbone"
    assert matrix.url.endswith("#frozen_backbone")
    assert matrix.locator("svg.diagram").is_visible()
    start = matrix.locator("h1").text_content()
    matrix.keyboard.press("ArrowRight")
    until(lambda: matrix.locator("h1").text_content() != start)


def test_the_command_can_be_copied(page_of: Open, timm_folder: Path) -> None:
    path = next((timm_folder / "architectures").glob("resnet18-*"))
    page = page_of(path, permissions=["clipboard-read", "clipboard-write"])
    page.locator(".copy").first.click()
    until(lambda: page.locator(".copy").first.text_content() != "Copy")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator(".repro code").first.text_content()


def test_no_script_runs_from_a_name_or_a_message(page_of: Open, tmp_path: Path) -> None:
    header = JournalHeader({"torch": HARM[0]}, {"checks": [], "models": HARM[1]})
    results = [
        *harmful(),
        *(replace(item, version=version) for item in harmful()[:4] for version in ("torch <b>1</b>", HARM[0])),
    ]
    folder = write_journal(tmp_path / "report", results, header)
    write_reports(folder, folder)
    page = page_of(folder / "index.html")
    for path in [folder / "index.html", *sorted((folder / "architectures").iterdir())]:
        page.goto(path.as_uri())
        assert page.evaluate("window.harmed") is None, path
        assert page.locator("img, iframe, object, embed, base").count() == 0
    page.goto((folder / "index.html").as_uri())
    for text in HARM[:5]:
        page.fill("#search", text)
        assert _count(page) > 0, text
    assert page.evaluate("window.harmed") is None


def test_the_policy_blocks_scripts_even_in_unescaped_markup(browser: Any, small: Path) -> None:
    path = small / "index.html"
    image = HARM[1].removeprefix('">')
    text = path.read_text(encoding="utf-8").replace("<main>", f"<main>{HARM[0]}{image}", 1)
    path.write_text(text, encoding="utf-8")
    bare = small / "bare.html"
    bare.write_text(text.replace('http-equiv="Content-Security-Policy"', ""), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.evaluate("window.harmed") is None
    assert page.evaluate("document.documentElement.dataset.ready") is not None, "our own scripts do run"
    page.goto(bare.as_uri())
    assert page.evaluate("window.harmed") == 1
    page.close()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return the folder of a report with one model."""
    folder = write_journal(tmp_path / "small", [result("a")])
    write_reports(folder, folder)
    return folder


def test_versions_are_columns_and_differences_stand_out(page_of: Open, tmp_path: Path) -> None:
    results: list[Result] = []
    for version in ("torch 2.4.1", "torch 2.9.1"):
        old = version == "torch 2.4.1"
        results += [result("same", check, version=version) for check in ("output_shape", "metadata")]
        results += [result("other", version=version)]
        results += [result("other", "metadata", "failed" if old else "passed", message="stale", version=version)]
    header = JournalHeader({}, {"checks": ["output_shape", "metadata"]})
    folder = write_journal(tmp_path / "report", results, header)
    write_reports(folder, folder)
    page = page_of(folder / "index.html")
    assert page.eval_on_selector_all("#matrix thead th.cell", "cells => cells.map(c => c.textContent)") == [
        "torch 2.4.1",
        "torch 2.9.1",
    ]
    assert _names(page) == ["other", "same"], "what differs comes first, since it is bad somewhere"
    assert page.locator("#matrix tbody tr").first.locator(".differs").is_visible()
    cells = page.locator("#matrix tbody tr").first.locator("td.cell")
    assert "1 of 2 bad" in str(cells.first.locator("a").get_attribute("aria-label"))
    page.check("#differs")
    assert _names(page) == ["other"]
    cells.nth(1).locator("a").click()
    page.wait_for_selector("#matrix-link")
    assert page.locator("tr:has(:target) .version, tr:target .version").text_content() == "torch 2.9.1"
    assert page.locator(".differs").count() == 2
