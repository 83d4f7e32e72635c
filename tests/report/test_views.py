"""Every view of the report is a link, and it can be read on any screen, on paper, and by everybody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_headswap.report.write import write_reports
from pytest_headswap.results import JournalHeader, Result
from tests.journals import ANATOMY, CHECKS, result, whole_timm, write_journal
from tests.report.test_browser import _count, _names, _shown, until

Open = Callable[..., Any]
KINDS = {"a_crash": "crashed", "b_slow": "timeout", "c_failed": "failed", "d_error": "error", "e_fine": "passed"}
TRACE = '  File "/zoo.py", line 3, in forward\n    return self.head(x)\nRuntimeError: no'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report with each outcome and each evidence, and return its folder."""
    results: list[Result] = []
    for number, (name, outcome) in enumerate(KINDS.items()):
        for check in CHECKS:
            evidence = {"native_parity": "abstract", "device_placement": "simulated", "metadata": "cuda:0"}
            bad = outcome != "passed" and check in ("round_trip", *CHECKS[: 5 - number])
            results.append(
                result(
                    f"{name}_with_a_long_name_of_a_model",
                    check,
                    outcome if bad else "passed",  # type: ignore[arg-type]
                    message=f"not {number} in {check}" if bad else "",
                    evidence=evidence.get(check, "numeric"),
                    traceback=TRACE if bad else "",
                    anatomy=ANATOMY if check == CHECKS[0] else None,
                    family=name,
                )
            )
    results += [result("f_none", check, "skipped", message="no head", reason="output_is_backbone") for check in CHECKS]
    results.append(result("g_expected", outcome="xfailed", expectation="known.toml:3: a cache"))
    header = JournalHeader({"torch": "2.15.0"}, {"checks": list(CHECKS)}, zoos={"timm": {"architectures": 9}})
    path = write_journal(tmp_path_factory.mktemp("views") / "report", results, header)
    write_reports(path, path)
    return path


def test_the_back_button_leads_through_the_views(page_of: Open, folder: Path) -> None:
    page = page_of(folder / "index.html")
    page.click(".tile[data-outcome=failed]")
    page.select_option("#check", "round_trip")
    page.fill("#search", "c_fai")
    page.fill("#search", "c_failed")
    page.click("#matrix thead th.name button")
    assert _count(page) == 1
    assert page.url.endswith("#q=c_failed&check=round_trip&sort=name&outcome=failed")
    page.go_back()
    assert page.url.endswith("#q=c_failed&check=round_trip&outcome=failed")
    page.go_back()
    assert page.input_value("#search") == "", "what was typed in a row is one step"
    assert page.input_value("#check") == "round_trip"
    page.go_back()
    page.go_back()
    assert _shown(page) == "7 architectures"
    page.go_forward()
    assert page.locator(".tile[data-outcome=failed]").get_attribute("aria-pressed") == "true"


def test_a_check_narrows_the_outcomes(page_of: Open, folder: Path) -> None:
    page = page_of(folder / "index.html", "#check=frozen_backbone&outcome=passed")
    assert _count(page) == 5
    page.select_option("#check", "output_shape")
    assert _names(page) == ["e_fine_with_a_long_name_of_a_model"]


def test_a_cause_is_a_link_and_can_be_removed(page_of: Open, folder: Path) -> None:
    page = page_of(folder / "index.html")
    page.locator(".cause", has_text="not 1 in").locator("a.count").click()
    page.wait_for_selector("#cause-filter button")  # the page follows its new address a moment later
    assert _names(page) == ["b_slow_with_a_long_name_of_a_model"]
    assert "#cause=" in page.url
    assert "not 1 in" in str(page.locator("#cause-filter").text_content())
    page.click("#cause-filter button")
    page.wait_for_selector("#cause-filter", state="hidden")
    assert _shown(page) == "7 architectures"


def test_a_model_is_a_link_and_the_way_back_leads_to_it(page_of: Open, timm_folder: Path) -> None:
    page = page_of(timm_folder / "index.html", "#model=vit_tiny_patch16_224")
    row = page.locator("#matrix tbody tr.here")
    assert "vit_tiny_patch16_224" in str(row.text_content())
    assert row.is_visible()
    row.locator("td.cell a").nth(2).click()
    page.wait_for_selector("#matrix-link")
    page.click("#matrix-link")
    page.wait_for_selector("#matrix tbody tr.here")
    assert "vit_tiny_patch16_224" in str(page.locator("#matrix tbody tr.here").text_content())


def test_the_next_failing_architecture_is_one_key_away(page_of: Open, folder: Path) -> None:
    page = page_of(next((folder / "architectures").glob("a_crash*")))
    names: list[str] = []
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
        page.wait_for_url(lambda url: not names or names[-1] not in url)
        names.append(str(page.locator("h1").text_content())[:6])
    assert names == ["b_slow", "c_fail", "d_erro"]
    assert page.locator(".next-failing").count() == 0
    page.click(".prev-failing >> nth=0")
    page.wait_for_url("**/c_failed*")


@pytest.mark.parametrize("width", [390, 800, 1400])
def test_nothing_looks_better_because_it_is_cut_off(page_of: Open, folder: Path, width: int) -> None:
    page = page_of(folder / "index.html", viewport={"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    frame = page.locator("#scroll").bounding_box()
    worst = page.eval_on_selector_all(
        "#matrix tbody tr",
        "rows => rows.map(row => [row.querySelector('th .chip').textContent, row.querySelector('th a').title,"
        " Math.max(...[...row.querySelectorAll('td.cell')].map(cell => cell.getBoundingClientRect().right))])",
    )
    assert [symbol for symbol, _, _ in worst] == ["C", "T", "F", "E", "x", "–", "✓"]  # noqa: RUF001
    assert worst[0][1].endswith(": crashed")
    assert max(right for _, _, right in worst) <= frame["x"] + frame["width"], "all checks are in view"
    page.locator("#scroll").scroll_into_view_if_needed()
    legend = str(page.locator(".legend").text_content())
    assert all(outcome in legend for outcome in ("crashed", "timeout", "failed", "error", "skipped", "abstract"))
    assert page.locator(".legend").bounding_box()["y"] - frame["y"] - frame["height"] < 2, "the legend is in sight"


def test_columns_out_of_view_are_announced(page_of: Open, tmp_path: Path) -> None:
    checks = [f"check_{number}" for number in range(20)]
    folder = write_journal(tmp_path / "report", [result("m", check) for check in checks])
    write_reports(folder, folder)
    page = page_of(folder / "index.html", viewport={"width": 390, "height": 844})
    assert page.locator("#frame.more").count() == 1
    page.evaluate("document.getElementById('scroll').scrollLeft = 1e6")
    until(lambda: page.locator("#frame.more").count() == 0)


def test_evidence_is_told_apart_without_colour(page_of: Open, folder: Path) -> None:
    page = page_of(folder / "index.html", "#model=e_fine_with_a_long_name_of_a_model")
    looks = page.eval_on_selector_all(
        ".here td.cell .chip",
        "chips => chips.map(chip => [chip.textContent, getComputedStyle(chip).borderTopStyle].join(' '))",
    )
    assert dict(zip(CHECKS, looks, strict=True)) == {
        **dict.fromkeys(CHECKS, "✓ solid"),
        "native_parity": "✓a solid",
        "metadata": "✓d solid",
        "device_placement": "✓s dashed",
    }


def test_paper_shows_every_row_in_light_colours_and_says_what_is_left_out(page_of: Open, timm_folder: Path) -> None:
    page = page_of(timm_folder / "index.html", "#q=e+n", color_scheme="dark")
    number = _count(page)
    assert 300 < number < 900
    assert page.locator("#matrix tbody tr").count() < 200
    page.emulate_media(media="print")
    until(lambda: page.locator("#matrix tbody tr").count() == number)
    assert not page.locator(".tools").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    chip = ".chip.o-passed, .chip.o-failed"
    assert page.evaluate(f"getComputedStyle(document.querySelector('{chip}')).printColorAdjust") == "exact"
    page.emulate_media(media="screen")
    until(lambda: page.locator("#matrix tbody tr").count() < 200)


def _violations(page: Any) -> list[tuple[str, str]]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'pytest-headswap[dev]'")
    kinds = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = axe.Axe().run(page, options={"runOnly": kinds, "preload": False}).response["violations"]
    return [(item["id"], item["nodes"][0]["html"]) for item in found]


def test_axe_finds_nothing_on_the_pages(page_of: Open, folder: Path) -> None:
    page = page_of(folder / "index.html", "#q=failed", viewport={"width": 390, "height": 844})
    assert _violations(page) == []
    page = page_of(next((folder / "architectures").glob("c_failed*")), color_scheme="dark")
    assert _violations(page) == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1400])
def test_axe_finds_nothing_on_any_screen_with_1500_architectures(
    page_of: Open, folder: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    results = [*whole_timm(), *(result(f"more_{number}", check) for number in range(129) for check in CHECKS)]
    run = write_journal(tmp_path / "report", results)
    write_reports(run, run)
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    page = page_of(run / "index.html", **options)
    assert _count(page) == 1500
    assert _violations(page) == []
    for path in (folder / "architectures").iterdir():
        assert _violations(page_of(path, **options)) == [], path


@pytest.mark.slow
def test_100000_architectures_are_searched_without_delay(page_of: Open, tmp_path: Path) -> None:
    results = (
        result(f"net_{number:06}", check, "failed" if number % 900 == 0 else "passed", family=f"f{number % 40}")
        for number in range(100_000)
        for check in CHECKS
    )
    run = write_journal(tmp_path / "report", results)
    reports = write_reports(run, run)
    assert reports.html.stat().st_size < 8_000_000
    page = page_of(reports.html)
    assert _count(page) == 100_000
    for text, expected in (("net_0999", 100), ("f17", 2500), ("no such", 0), ("", 100_000)):
        page.fill("#search", text)
        assert _count(page) == expected
        assert page.locator("#matrix tbody tr").count() <= 300
    page.click(".tile[data-outcome=failed]")
    assert _count(page) == 112
