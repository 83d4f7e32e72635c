"""Open the pages of a comparison and of a history in a real Chromium, with hostile names, on a phone and a desktop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_headswap.cli.main import main
from pytest_headswap.report.write import write_reports
from pytest_headswap.results import JournalHeader
from tests.journals import CHECKS, harmful, result, write_journal


@pytest.mark.parametrize("command", ["compare", "history"])
def test_a_page_of_several_runs_fits_every_screen_and_links_to_the_reports(
    page_of: Callable[..., Any], tmp_path: Path, command: str
) -> None:
    for day, outcome in ((1, "passed"), (2, "failed")):
        found = [result("plain", check, outcome, message="no") for check in CHECKS]  # type: ignore[arg-type]
        header = JournalHeader({"timm": f"1.{day}"}, {"checks": list(CHECKS)}, started=f"2026-01-0{day}T00:00:00+00:00")
        folder = write_journal(tmp_path / f"run-{day}", [*found, *(harmful() if day == 2 else ())], header)
        write_reports(folder, folder)
    path = tmp_path / "page.html"
    main([command, str(tmp_path / "run-1"), str(tmp_path / "run-2"), "--html", str(path)])
    for width in (390, 800, 1400):
        page = page_of(path, viewport={"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("window.harmed") is None
        assert page.evaluate("getComputedStyle(document.querySelector('.changes li')).display") == "grid", "the style"
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.locator(".changes:not(.past) li", has_text="plain").locator(".name a").first.click()
    page.wait_for_selector("#matrix-link")
    assert page.locator("h1").text_content() == "plain"
