"""The results that a run was to have and does not: it was interrupted, or something took them away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_headswap.results.journal import JournalHeader
from pytest_headswap.results.result import Result

_NAMED = 5

Key = tuple[str, str, str]
"""Zoo, model and check."""


@dataclass(frozen=True)
class Missing:
    """The results that are missing from a journal.

    Attributes:
        keys: zoo, model and check of each.
        selected: how many results the run was to have.
    """

    keys: tuple[Key, ...]
    selected: int

    def __bool__(self) -> bool:
        return bool(self.keys)

    def __str__(self) -> str:
        """The number, and the first few of what is missing."""
        names = ", ".join("::".join(key) for key in self.keys[:_NAMED])
        more = f" and {len(self.keys) - _NAMED:,} more" if len(self.keys) > _NAMED else ""
        verb = "is" if len(self.keys) == 1 else "are"
        return f"{len(self.keys):,} of {self.selected:,} selected results {verb} missing: {names}{more}"


def selection_of(tests: Iterable[Key]) -> dict[str, Any]:
    """Return the tests that were selected as the header of a journal has them: models with the same checks together."""
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


def selected_by(selection: Mapping[str, Any]) -> Iterable[Key]:
    """Yield the tests that `selection_of` was given."""
    for zoo, groups in selection.items():
        for group in groups:
            yield from ((zoo, model, check) for model in group["models"] for check in group["checks"])


def missing_of(header: JournalHeader, results: Iterable[Result]) -> Missing:
    """Return what a journal lacks of the tests that its header names."""
    there = {(result.zoo, result.model, result.check) for result in results}
    selected = dict.fromkeys(selected_by(header.selected))
    return Missing(tuple(key for key in selected if key not in there), len(selected))


def sentences_of(header: JournalHeader, results: Iterable[Result]) -> tuple[str, ...]:
    """Return all that is missing from a journal, in sentences: as its run left it, and as it was merged."""
    missing = missing_of(header, results)
    merged: tuple[str, ...] = tuple(header.merged.get("missing", ()))
    return (*merged, *([str(missing)] if missing else ()))
