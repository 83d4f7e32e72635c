"""Format the results of a run as a table for the documentation of a library, as Markdown or reStructuredText."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal
from urllib.parse import quote

from pytest_headswap._text import join_first, pluralize, single_line, truncate
from pytest_headswap.report.html import PAGES
from pytest_headswap.report.markdown import escaped, table
from pytest_headswap.results.matrix import Matrix, Row, build_matrix
from pytest_headswap.results.result import BY_SEVERITY, Result
from pytest_headswap.results.run import Run

Markup = Literal["md", "rst"]

_NAME, _NOTE = 300, 120
# characters that start markup in reStructuredText; `_` only if it is not inside a name, `:` not in a time
_RST_MARKUP = re.compile(r"[\\`*|<>@]|(?<![^\W_])_|_(?![^\W_])|:(?!\s|(?<=\d:)\d)")
_RST_ENUMERATOR = re.compile(r"\A(\w+)([.)])(?=\s|\Z)")


def format_table(
    run: Run, markup: Markup = "md", by: Literal["architecture", "family"] = "architecture", links: str = ""
) -> str:
    """Return the table of a run, with a sentence about what it covers.

    Args:
        run: a run with results.
        markup: `md` for Markdown, `rst` for reStructuredText.
        by: `architecture` for a line for each, with the reasons of what did not pass; `family` for counts.
        links: address of the HTML report. Names of architectures then link to their pages.
    """
    matrix = build_matrix(run.header, run.results)
    titles, rows = _by_family(matrix, markup) if by == "family" else _by_architecture(matrix, markup, links.rstrip("/"))
    paragraphs = [f"{_text(_about(matrix), markup, 1000)}."]
    for title, sentences in (("Incomplete", run.missing), ("Not the whole zoo", run.limits)):
        if sentences:
            paragraphs.append(f"**{title}**: {_text('; '.join(sentences), markup, 1000)}.")
    titles = [_text(title, markup, _NAME) for title in titles]
    listed = table(titles, rows) if markup == "md" else _list_table([titles, *rows])
    return "\n\n".join([*paragraphs, listed])


def _about(matrix: Matrix) -> str:
    zoos = dict.fromkeys(row.zoo for row in matrix.rows)
    versions = ", ".join(f"{name} {version}" for name, version in matrix.header.versions.items())
    started = f"; run started {matrix.header.started}" if matrix.header.started else ""
    of = f"{pluralize(len(matrix.rows), 'architecture')} of {join_first(list(zoos))}"
    return of + (f", with {versions}" if versions else "") + started


def _by_architecture(matrix: Matrix, markup: Markup, links: str) -> tuple[list[str], list[list[str]]]:
    zoo_title, zoo_cell = _zoo_column(matrix, markup)
    rows = []
    for row in matrix.rows:
        name = _text(row.model, markup, _NAME) or "none"
        name = _link(name, f"{links}/{PAGES}/{row.file_name}", markup) if links else name
        notes = _text("; ".join(_notes(row)), markup, 4 * _NOTE)
        rows.append([*zoo_cell(row.zoo), name, *map(_outcome, matrix.cells(row)), notes])
    return [*zoo_title, "architecture", *matrix.columns, "notes"], rows


def _by_family(matrix: Matrix, markup: Markup) -> tuple[list[str], list[list[str]]]:
    zoo_title, zoo_cell = _zoo_column(matrix, markup)
    families: dict[tuple[str, str], list[Row]] = {}
    for row in matrix.rows:
        families.setdefault((row.zoo, row.family), []).append(row)
    rows = []
    for (zoo, family), members in sorted(families.items()):
        columns = zip(*map(matrix.cells, members), strict=True)
        counts = (_counts(result for results in column for result in results) for column in columns)
        rows.append([*zoo_cell(zoo), _text(family, markup, _NAME) or "none", f"{len(members):,}", *counts])
    return [*zoo_title, "family", "architectures", *matrix.columns], rows


def _zoo_column(matrix: Matrix, markup: Markup) -> tuple[list[str], Callable[[str], list[str]]]:
    """Return the title of the column for the zoo, and a function that returns its cell; no column for a single zoo."""
    if len({row.zoo for row in matrix.rows}) < 2:
        return [], lambda _: []
    return ["zoo"], lambda zoo: [_text(zoo, markup, _NAME)]


def _outcome(results: Sequence[Result]) -> str:
    """Return the worst outcome, in bold if it needs attention."""
    if not results:
        return "not run"
    bad = any(result.needs_attention for result in results)
    return f"**{results[0].outcome}**" if bad else results[0].outcome


def _counts(results: Iterable[Result]) -> str:
    outcomes = Counter(result.outcome for result in results)
    return ", ".join(f"{outcomes[outcome]:,} {outcome}" for outcome in BY_SEVERITY if outcomes[outcome]) or "not run"


def _notes(row: Row) -> Iterator[str]:
    """Yield the reasons of results that did not pass, each with its checks unless it holds for all."""
    checks: dict[str, dict[str, None]] = {}
    for result in row.results:
        if result.outcome != "passed":
            text = result.reason if result.outcome == "skipped" and result.reason else result.full_message
            checks.setdefault(truncate(single_line(text), _NOTE), {})[result.check] = None
    every = {result.check for result in row.results}
    for text, names in checks.items():
        if text:
            yield text if len(names) == len(every) else f"{', '.join(names)}: {text}"


def _text(text: str, markup: Markup, max_chars: int) -> str:
    return escaped(text, max_chars) if markup == "md" else rst_escaped(text, max_chars)


def rst_escaped(text: str, max_chars: int) -> str:
    """Return the text as one line that reStructuredText shows unchanged, wherever a paragraph may stand."""
    text = truncate(single_line(text), max_chars)
    marked = _RST_MARKUP.sub(lambda found: f"\\{found[0]}", text)
    if text and not text.strip("\\"):  # a line of one character would be a title or a transition
        return f"\\ {marked}"
    if marked[:1].isalnum() or marked.startswith("\\"):
        return _RST_ENUMERATOR.sub(r"\1\\\2", marked, count=1)
    return f"\\{marked}" if marked else ""


def _link(text: str, address: str, markup: Markup) -> str:
    address = quote(address, safe=":/?&=#%~+,;@-._")
    return f"[{text}]({address})" if markup == "md" else f"`{text} <{address}>`__"


def _list_table(rows: Iterable[Sequence[str]]) -> str:
    """Return the rows as a `list-table`, whose source needs no alignment."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        lines += [f"   {'* -' if number == 0 else '  -'} {cell}".rstrip() for number, cell in enumerate(row)]
    return "\n".join([*lines, ""])
