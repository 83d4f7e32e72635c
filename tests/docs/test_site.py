"""Build the site without warnings, and test that it has every linked page and anchor and loads nothing external."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import pytest_headswap
from pytest_headswap import REASONS
from pytest_headswap._links import DOCS, page
from pytest_headswap.case.finding import SKIP_REASONS
from pytest_headswap.checks import CHECKS

from .conftest import README, ROOT

pytest.importorskip("material", reason="building the site needs mkdocs-material: pip install 'pytest-headswap[docs]'")
PACKAGE = Path(pytest_headswap.__file__).parent
SETTINGS: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def _sources(nav: Any) -> Iterator[str]:
    """Yield the pages of the navigation."""
    for item in nav if isinstance(nav, list) else nav.values():
        if isinstance(item, str):
            yield item
        else:
            yield from _sources(item)


def _html(site: Path, name: str) -> str:
    return (site / name / "index.html").read_text(encoding="utf-8")


def test_every_page_of_the_navigation_is_built(site: Path) -> None:
    pages = [name.removesuffix(".md").removesuffix("index") for name in _sources(SETTINGS["nav"])]
    assert len(pages) == len(list((ROOT / "docs").rglob("*.md")))
    for name in pages:
        assert "<h1" in _html(site, name)


def test_broken_links_and_anchors_fail_the_build() -> None:
    assert SETTINGS["strict"]
    links = ("not_found", "anchors", "absolute_links", "unrecognized_links")
    assert [SETTINGS["validation"]["links"][name] for name in links] == ["warn"] * 4
    assert SETTINGS["validation"]["nav"]["omitted_files"] == "warn"


def test_documentation_address_is_the_same_everywhere(site: Path) -> None:
    assert SETTINGS["site_url"] == DOCS
    assert f'Documentation = "{DOCS}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"<{DOCS}>" in README.read_text(encoding="utf-8")
    assert page("errors", "no_inputs") == f"{DOCS}errors/#no_inputs"


@pytest.mark.parametrize("code", [*REASONS, *SKIP_REASONS, "crashed", "timeout"])
def test_every_reason_code_has_an_anchor(code: str, site: Path) -> None:
    assert f'id="{code}"' in _html(site, "errors")


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_has_an_anchor(check: str, site: Path) -> None:
    assert f'id="{check}"' in _html(site, "checks")


def _named_pages() -> set[str]:
    """Return the pages that the package links to: arguments of `page(...)`, and `page=` of its errors."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                given = node.args[:1] if isinstance(node.func, ast.Name) and node.func.id == "page" else []
                given = [*given, *(item.value for item in node.keywords if item.arg == "page")]
                names |= {str(item.value) for item in given if isinstance(item, ast.Constant)}
    return names


def test_pages_linked_from_messages_exist(site: Path) -> None:
    names = _named_pages()
    assert {"errors", "checks", "reports", "expectations", "zoo"} <= names
    for name in names | {"options"}:  # the default page of OptionError
        assert "<h1" in _html(site, name)


def test_pages_linked_from_the_readme_exist(site: Path) -> None:
    links = re.findall(rf"{re.escape(DOCS)}([\w/]+)/", README.read_text(encoding="utf-8"))
    assert len(links) > 8
    for name in links:
        assert "<h1" in _html(site, name)


def test_pages_load_nothing_from_other_sites(site: Path) -> None:
    in_html = re.compile(r'<(?:script|img)[^>]* src="?(?:https?:)?//|<link[^>]* rel="?(?:style|preconnect)[^>]*//')
    in_css = re.compile(r"""(?:@import|url\()\s*["']?(?:https?:)?//""")
    for pattern, kind in ((in_html, "*.html"), (in_css, "*.css")):
        files = list(site.rglob(kind))
        assert files
        assert not [path for path in files if pattern.search(path.read_text(encoding="utf-8"))]


def test_pages_have_a_card_for_links_and_do_not_ask_github_for_stars(site: Path) -> None:
    for name in ("", "use/timm"):
        html = _html(site, name)
        assert f'property="og:image" content="{DOCS}screens/card.png"' in html.replace("=og:image", '="og:image"')
        assert 'class="md-source"' in html
        assert 'data-md-component="source"' not in html
    assert (site / "screens" / "card.png").exists()
    assert not (site / "theme").exists()


def test_signatures_of_the_reference_are_formatted(site: Path) -> None:
    html = _html(site, "api")
    signature = html[html.index('<span class="nf">swap_head</span>') :].partition("</div>")[0]
    assert signature.count("\n") > 10
