"""Format the run's section in the terminal: the counts of outcomes, skip reasons, and problems of the journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from pytest_headswap._links import page
from pytest_headswap._text import pluralize
from pytest_headswap.expectations.matcher import NOT_RUN_DESCRIPTION
from pytest_headswap.results import OUTCOMES
from pytest_headswap.results.result import NOT_RUN


def count_lines(counts: Mapping[str, Counter[str]], skips: Counter[str]) -> Iterator[str]:
    """Yield the number of results by zoo and outcome, and the reasons for skips."""
    for zoo, of_zoo in counts.items():
        shown = ", ".join(f"{of_zoo[outcome]} {outcome}" for outcome in OUTCOMES if of_zoo[outcome])
        yield f"{zoo}: {of_zoo.total()} results: {shown}"
    for reason, count in skips.most_common():
        yield f"  skipped {count}: {_skip_text(reason)}"
    if skips:
        yield f"  the codes are explained at {page('errors')}"


def problem_lines(problems: Iterable[str], unwritten: int, cause: str, missing: Iterable[str]) -> Iterator[str]:
    """Yield the problems of the report folder: results that are missing, and the reasons."""
    if unwritten:
        verb = "is" if unwritten == 1 else "are"
        yield f"WARNING: {pluralize(unwritten, 'result')} {verb} not in the journal: {cause}"
    yield from (f"WARNING: {problem}" for problem in problems)
    for sentence in missing:
        yield f"INCOMPLETE: {sentence}. To run the missing checks, repeat the command with --headswap-resume"


def _skip_text(reason: str) -> str:
    from pytest_headswap.case.finding import SKIP_REASONS
    from pytest_headswap.engine import REASONS

    if not reason:
        return "without a reason code"
    texts = {**SKIP_REASONS, **REASONS, NOT_RUN: NOT_RUN_DESCRIPTION}
    return f"[{reason}] {texts.get(reason, '')}".rstrip()  # a user's check has its own codes
