"""Parse the README and the pages of the documentation."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = (README, *sorted(DOCS.rglob("*.md")))

_PARSER = MarkdownIt("commonmark").enable("table")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as for publication, and return its folder."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@dataclass(frozen=True)
class Block:
    """A code block: its language, the file name in its title, its text, and its line on the page."""

    language: str
    title: str
    text: str
    line: int


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page in order. Indented blocks have no language."""
    for token in _tokens(page):
        if token.type in ("fence", "code_block"):
            language, _, more = token.info.strip().partition(" ")
            title = more.removeprefix('title="').removesuffix('"') if more.startswith('title="') else more
            yield Block(language, title, token.content, token.map[0] + 1 if token.map else 0)


def tables_of(page: Path, *, under: str = "") -> list[list[tuple[str, ...]]]:
    """Return the tables of a page as rows of cell sources, without the header row.

    With `under`, return only those whose first column has this title.
    """
    tables: list[list[tuple[str, ...]]] = []
    row: list[str] = []
    for token in _tokens(page):
        if token.type == "thead_open":
            tables.append([])
        elif token.type == "tr_open":
            row = []
        elif token.type == "inline" and tables:
            row.append(token.content)
        elif token.type == "tr_close":
            tables[-1].append(tuple(row))
    return [rows for title, *rows in tables if under in ("", title[0])]


def headings_of(page: Path, level: int) -> list[str]:
    """Return the source of each heading of one level."""
    tokens = _tokens(page)
    begins = [place for place, token in enumerate(tokens) if token.tag == f"h{level}" and token.nesting == 1]
    return [tokens[place + 1].content for place in begins]


def named(cell: str) -> str:
    """Return the name in a cell, without backticks and link."""
    return cell.partition("`")[2].partition("`")[0]


def _tokens(page: Path) -> list[Token]:
    return _PARSER.parse(page.read_text(encoding="utf-8"))
