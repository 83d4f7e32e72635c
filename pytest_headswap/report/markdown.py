"""Write the Markdown report, for CI step summaries and pull requests: the counts, then the worst results.

GitHub rejects a summary of more than 1 MiB. This one stays far below that limit, whatever the journal contains.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pytest_headswap._text import (
    error_page,
    escape_unprintable,
    format_duration,
    join_first,
    pluralize,
    single_line,
    truncate,
)
from pytest_headswap.results.matrix import Matrix, Row
from pytest_headswap.results.result import BY_SEVERITY, OUTCOMES, Result

SUMMARY = "summary.md"
MAX_BYTES = 100_000
_MAX_ROWS = 50
_MAX_FAMILIES = 20
_MAX_ZOOS = 20
_NAME, _MESSAGE, _COMMAND = 120, 300, 600
# characters that start markup in text or in a table; `_` only if it is not inside a name
_MARKUP = re.compile(r"[\\`*{}\[\]<>|~#!&$@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=:)//")


def write_markdown(matrix: Matrix, folder: Path) -> Path:
    """Write the summary into a folder; return its path."""
    path = folder / SUMMARY
    path.unlink(missing_ok=True)  # it may be a symbolic link to a file elsewhere
    path.write_text(render_markdown(matrix), encoding="utf-8", errors="backslashreplace", newline="\n")
    return path


def render_markdown(matrix: Matrix) -> str:
    """Return the summary."""
    parts = [_head(matrix), _versions(matrix), _worst(matrix), _commands(matrix), _families(matrix), _skips(matrix)]
    return join_within_limit(parts, MAX_BYTES)


def join_within_limit(parts: Iterable[str], max_bytes: int) -> str:
    """Join the parts that fit into the limit, and state if some were left out."""
    text = ""
    for part in filter(None, parts):
        grown = f"{text}\n{part}" if text else part
        if len(grown.encode("utf-8", "backslashreplace")) > max_bytes - 100:
            return f"{text}\n*Truncated. The HTML report has everything.*\n"
        text = grown
    return text


def escaped(text: str, max_chars: int) -> str:
    """Return the text as one line that Markdown shows unchanged."""
    return _MARKUP.sub(lambda found: f"\\{found[0]}", truncate(single_line(text), max_chars))


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. A title that starts with `>` marks a column of numbers."""
    rule = ["---:" if title.startswith(">") else "---" for title in titles]
    lines = [[title.removeprefix(">") for title in titles], rule, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def folded_commands(commands: Sequence[str]) -> str:
    """Return a folded code block with commands that repeat tests; empty if there are none."""
    if not commands:
        return ""
    return f"<details><summary>Commands that repeat them</summary>\n\n{code_block(commands, 'bash')}\n</details>\n"


def code_block(lines: Sequence[str], language: str = "") -> str:
    """Return a code block that its content cannot end."""
    longest_run = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest_run + 1)
    return "\n".join([fence + language, *lines, fence, ""])


def list_more(number: int) -> str:
    """Return a line with the number of items that a list leaves out; empty if it is complete."""
    return f"\n… and {number:,} more.\n" if number > 0 else ""


def _head(matrix: Matrix) -> str:
    zoos: dict[str, Counter[str]] = {}
    for row in matrix.rows:
        zoos.setdefault(row.zoo, Counter()).update(result.outcome for result in row.results)
    present = [outcome for outcome in OUTCOMES if matrix.outcomes[outcome]]
    summary = f"{pluralize(len(matrix.rows), 'architecture')}, {pluralize(matrix.outcomes.total(), 'result')}"
    lines = (
        [escaped(zoo, _NAME), *(f"{counts[outcome]:,}" for outcome in present)]
        for zoo, counts in list(zoos.items())[:_MAX_ZOOS]
    )
    with_what = ", ".join(f"{name} {version}" for name, version in matrix.header.versions.items())
    with_what += f"; on {join_first(matrix.header.devices)}" if matrix.header.devices else ""
    return (
        f"## Head swaps: {summary}\n\n"
        + (
            f"**A sample**: {escaped(str(sample), _NAME)}\n\n"
            if (sample := matrix.header.options.get("sample"))
            else ""
        )
        + (f"**Incomplete**: {escaped('; '.join(matrix.missing), 600)}\n\n" if matrix.missing else "")
        + table(["zoo", *(f">{outcome}" for outcome in present)], lines)
        + f"\n{escaped(with_what, 600)}; {format_duration(matrix.seconds)} of tests\n"
        + (f"\n{pluralize(matrix.taken_over, 'result')} taken over from earlier runs\n" if matrix.taken_over else "")
    )


def _versions(matrix: Matrix) -> str:
    """Return the counts of each version, and a table of the architectures whose results differ between versions."""
    if not matrix.versions:
        return ""
    listed_versions = matrix.versions[:_MAX_FAMILIES]
    columns = [escaped(version, 40) for version in listed_versions]
    counts: dict[str, dict[str, Counter[str]]] = {}
    for row in matrix.rows:
        of_zoo = counts.setdefault(row.zoo, {version: Counter() for version in matrix.versions})
        for result in row.results:
            of_zoo[result.version][result.outcome] += 1
    body = (
        [escaped(zoo, _NAME), *(_count_outcomes(by_version[version]) for version in listed_versions)]
        for zoo, by_version in list(counts.items())[:_MAX_ZOOS]
    )
    overview = f"### Versions\n\n{table(['zoo', *columns], body)}\n"
    rows = [row for row in matrix.rows if row.checks_that_differ]
    if not rows:
        return f"{overview}No results differ between {escaped(', '.join(matrix.versions), 600)}.\n"
    lines = (
        [escaped(row.model, _NAME), *map(_cell, list(matrix.cells(row))[:_MAX_FAMILIES])] for row in rows[:_MAX_ROWS]
    )
    return (
        f"{overview}#### Differences between versions: {pluralize(len(rows), 'architecture')}\n\n"
        + table(["architecture", *columns], lines)
        + list_more(len(rows) - _MAX_ROWS)
    )


def _count_outcomes(outcomes: Counter[str]) -> str:
    return ", ".join(f"{outcomes[outcome]:,} {outcome}" for outcome in OUTCOMES if outcomes[outcome]) or "none"


def _cell(results: Sequence[Result]) -> str:
    if not results:
        return "none"
    worst = [result for result in results if result.outcome == results[0].outcome]
    if results[0].outcome == "passed":
        return "passed"
    return f"**{results[0].outcome}** {escaped(', '.join(result.check for result in worst), 120)}"


def _worst(matrix: Matrix) -> str:
    rows = matrix.worst_first
    if not rows:
        if matrix.missing:
            return f"No failure among {pluralize(matrix.outcomes.total(), 'result')}; other results are missing.\n"
        return "Nothing failed.\n"
    lines = (
        [
            escaped(row.model, _NAME),
            row.worst.outcome,
            escaped(worst_checks(row), _NAME),
            escaped(row.worst.full_message, _MESSAGE),
        ]
        for row in rows[:_MAX_ROWS]
    )
    return (
        f"### Needs attention: {pluralize(len(rows), 'architecture')}, worst first\n\n"
        + table(["architecture", "outcome", "checks", "message"], lines)
        + list_more(len(rows) - _MAX_ROWS)
    )


def worst_checks(row: Row) -> str:
    """Return the names of the checks that have the worst outcome of a row."""
    names = dict.fromkeys(result.check for result in row.failures if result.outcome == row.worst.outcome)
    every = {result.check for result in row.results}
    return f"all {len(names)} checks" if len(names) == len(every) > 1 else ", ".join(names)


def _commands(matrix: Matrix) -> str:
    commands = [row.worst.repro for row in matrix.worst_first[:_MAX_ROWS] if row.worst.repro]
    commands = [command for command in commands if len(command) <= _COMMAND]
    return folded_commands([escape_unprintable(command) for command in commands])


def _families(matrix: Matrix) -> str:
    families: dict[str, list[Row]] = {}
    for row in matrix.rows:
        families.setdefault(row.family, []).append(row)
    if len(families) < 2:
        return ""
    counts = {name: Counter(item.outcome for row in rows for item in row.results) for name, rows in families.items()}
    bad = {name: sum(len(row.failures) for row in rows) for name, rows in families.items()}
    seconds = {name: sum(row.seconds for row in rows) for name, rows in families.items()}
    names = sorted(families, key=lambda name: (-bad[name], -seconds[name], name))
    present = [outcome for outcome in BY_SEVERITY if matrix.outcomes[outcome]]
    lines = (
        [
            escaped(name, _NAME) or "none",
            f"{len(families[name]):,}",
            *(f"{counts[name][outcome]:,}" if counts[name][outcome] else "" for outcome in present),
            format_duration(seconds[name]),
        ]
        for name in names[:_MAX_FAMILIES]
    )
    titles = ["family", ">architectures", *(f">{outcome}" for outcome in present), ">time"]
    return f"### Families\n\n{table(titles, lines)}{list_more(len(names) - _MAX_FAMILIES)}"


def _skips(matrix: Matrix) -> str:
    reasons = Counter(item.reason for row in matrix.rows for item in row.results if item.outcome == "skipped")
    if not reasons:
        return ""
    lines = (
        [f"[{escaped(reason, _NAME)}]({error_page(reason)})" if reason else "none given", f"{count:,}"]
        for reason, count in reasons.most_common(20)
    )
    return f"### Skipped, by reason\n\n{table(['reason', '>results'], lines)}"
