"""Find the results that a run should have but lacks, because it was interrupted or they were lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_headswap._text import join_first, pluralize
from pytest_headswap.results.journal import JournalHeader
from pytest_headswap.results.result import Result

Key = tuple[str, str, str]
"""Zoo, model and check."""


@dataclass(frozen=True)
class MissingResults:
    """The results that are missing from a journal.

    Attributes:
        keys: zoo, model and check of each.
        selected: the number of results that the run should have.
    """

    keys: tuple[Key, ...]
    selected: int

    def __bool__(self) -> bool:
        return bool(self.keys)

    def __str__(self) -> str:
        """Return a sentence with the number and the first few missing results."""
        verb = "is" if len(self.keys) == 1 else "are"
        names = join_first(["::".join(key) for key in self.keys])
        return f"{len(self.keys):,} of {self.selected:,} selected results {verb} missing: {names}"


def encode_selection(tests: Iterable[Key]) -> dict[str, Any]:
    """Return the selected tests as a journal's header holds them: models with the same checks grouped."""
    checks: dict[tuple[str, str], dict[str, None]] = {}
    for zoo, model, check in tests:
        checks.setdefault((zoo, model), {})[check] = None
    groups: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for (zoo, model), names in checks.items():
        groups.setdefault(zoo, {}).setdefault(tuple(names), []).append(model)
    return {
        zoo: [{"models": models, "checks": list(names)} for names, models in of_zoo.items()]
        for zoo, of_zoo in groups.items()
    }


def decode_selection(selection: Mapping[str, Any]) -> Iterable[Key]:
    """Yield the tests that `encode_selection` encoded."""
    for zoo, groups in selection.items():
        for group in groups:
            yield from ((zoo, model, check) for model in group["models"] for check in group["checks"])


def missing_results(header: JournalHeader, results: Iterable[Result]) -> MissingResults:
    """Return the tests that a journal's header selects but that have no result."""
    present = {(result.zoo, result.model, result.check) for result in results}
    selected = dict.fromkeys(decode_selection(header.selected))
    return MissingResults(tuple(key for key in selected if key not in present), len(selected))


def missing_sentences(header: JournalHeader, results: Iterable[Result]) -> tuple[str, ...]:
    """Return sentences about what is missing from a journal: from its own run, and from the merge that wrote it."""
    count = itertools.count()  # zip asks it only for results that are there
    missing = missing_results(header, (result for result, _ in zip(results, count, strict=False)))
    merged = header.merged
    lost = sum(part.get("results", 0) for part in merged.get("machines", merged.get("versions", ()))) - next(count)
    return (
        *merged.get("missing", ()),
        *([str(missing)] if missing else ()),
        *([f"the merge was interrupted before it wrote {pluralize(lost, 'result')}"] if lost > 0 else ()),
    )
