"""Update an expectations file with the results of a run.

Unexplained failures are appended, and entries that nothing needs are deleted. Nothing else changes. If only a part of
an entry is still needed, the entry stays, and the update lists the checks that no longer need it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pytest_headswap._globs import escape_glob, select_names
from pytest_headswap.expectations.condition import Environment, evaluate
from pytest_headswap.expectations.entry import TODO, Entry
from pytest_headswap.expectations.matcher import ExpectationMatcher, make_matcher
from pytest_headswap.expectations.toml_document import Document
from pytest_headswap.results import Result
from pytest_headswap.results.ids import CheckId
from pytest_headswap.results.result import FAILURES

_MAX_CHARS = 100  # characters of a message that go into an entry
_VARIABLE_PART = re.compile(r"(0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
_ASK = f"{TODO}: say why, in words that a maintainer would accept"


@dataclass(frozen=True)
class RunScope:
    """What a run covers.

    Attributes:
        models: the names of all models of each of its zoos, including those not selected.
        checks: the names of all checks.
        environment: the machine and run for which conditions are evaluated.
        complete: zoos that ran completely.
    """

    models: Mapping[str, Collection[str]]
    checks: Collection[str]
    environment: Environment
    complete: Collection[str] = ()

    def matcher(self, documents: Sequence[Document]) -> ExpectationMatcher:
        """Return the matcher for the entries of the run's zoos whose conditions hold."""
        entries: list[Entry] = []
        ended: list[Entry] = []
        for entry in (entry for document in documents for entry in document.entries):
            if entry.zoo in self.models and evaluate(entry.when, self.environment):
                has_ended = entry.until is not None and entry.until.has_ended(self.environment)
                (ended if has_ended else entries).append(entry)
        strict = [zoo for document in documents if document.strict_skips for zoo in _zoos_of(document, self.models)]
        return make_matcher(entries, self.models, self.checks, strict, ended)


def _zoos_of(document: Document, zoos: Collection[str]) -> list[str]:
    """Return the zoos that a file covers: the one it is named after, or else all."""
    return [document.zoo] if document.zoo in zoos else list(zoos)


@dataclass(frozen=True)
class Update:
    """An updated file.

    Attributes:
        document: the new file.
        to_narrow: entries of the new file that must be narrowed by hand, with the checks that no longer need them.
    """

    document: Document
    to_narrow: Mapping[Entry, Sequence[CheckId]]


@dataclass(frozen=True, order=True)
class _EntryKey:
    """The properties that new entries must share to be combined."""

    zoo: str
    outcome: str
    code: str
    match: str
    reason: str


def update_document(document: Document, scope: RunScope, results: Sequence[Result]) -> Update:
    """Return a file that expects the results, as far as its entries need not be narrowed for that."""
    matcher = scope.matcher([document])
    verdicts = [(item, matcher.verdict(item)) for item in results]
    needed = {entry for _, verdict in verdicts if verdict.kind == "expected" for entry in verdict.entries}
    outdated: dict[Entry, list[CheckId]] = {}
    for item, verdict in verdicts:
        if verdict.kind in ("unexpected_pass", "mismatch"):
            for entry in verdict.entries:
                outdated.setdefault(entry, []).append(item.check_id)
    ran = {item.check_id for item in results}
    deleted = set()
    for scoped in matcher.entries:
        entry, tests = scoped.entry, set(scoped.tests())
        if not tests:
            unused = entry.zoo in scope.complete and not entry.may_pass
        elif _names_unknown_models(entry, scope):
            unused = False  # another version of the zoo has them
        else:
            unused = tests <= set(outdated.get(entry, ())) if entry.may_pass else tests <= ran
        if unused and entry not in needed:
            deleted.add(entry)
    new: dict[_EntryKey, dict[str, set[str]]] = {}
    for item, verdict in verdicts:
        strict_skip = item.outcome == "skipped" and item.zoo in matcher.strict_skips
        listed = verdict.kind == "expected" or not (item.outcome in FAILURES or strict_skip)
        # a test must not be covered by entries with different outcomes: the old one has to be narrowed first
        covering = [] if verdict.kind == "ended" else verdict.entries
        if not listed and all(entry in deleted or entry.outcome == item.outcome for entry in covering):
            key = _entry_key(item, verdict.entries)
            new.setdefault(key, {}).setdefault(item.model, set()).add(item.check)
    added = [values for key in sorted(new) for values in _new_entries(document, scope, key, new[key])]
    updated = document.edit(deleted, added)
    kept = [entry for entry in document.entries if entry not in deleted]
    moved = dict(zip(kept, updated.entries, strict=False))
    return Update(updated, {moved[entry]: outdated[entry] for entry in kept if entry in outdated})


def _names_unknown_models(entry: Entry, scope: RunScope) -> bool:
    known = scope.models[entry.zoo]
    return any(not select_names([pattern], known) for pattern in entry.models if not pattern.startswith("!"))


def _entry_key(item: Result, entries: Sequence[Entry]) -> _EntryKey:
    old = "; ".join(dict.fromkeys(" ".join(entry.reason.split()) for entry in entries if not entry.is_todo))
    message_is_stable = item.outcome in ("failed", "error")  # a crash or timeout never happens at quite the same place
    return _EntryKey(
        item.zoo,
        item.outcome,
        item.reason if item.outcome in ("skipped", "error") else "",
        message_pattern(item.message, item.model) if message_is_stable else "",
        f"{_ASK}. The reason for another result was: {old}" if old else _ASK,
    )


def _new_entries(
    document: Document, scope: RunScope, key: _EntryKey, checks_of: Mapping[str, set[str]]
) -> list[dict[str, str | list[str]]]:
    """Return the keys and values of new entries, one for all models with the same checks."""
    models_of: dict[frozenset[str], list[str]] = {}
    for model in sorted(checks_of):
        models_of.setdefault(frozenset(checks_of[model]), []).append(model)
    entries = []
    for checks in sorted(models_of, key=sorted):
        values: dict[str, str | list[str]] = {
            "zoo": "" if key.zoo == document.zoo else key.zoo,
            "models": [escape_glob(model) for model in models_of[checks]],
            "checks": [] if checks == frozenset(scope.checks) else [escape_glob(check) for check in sorted(checks)],
            "outcome": key.outcome,
            "code": key.code,
            "match": key.match,
            "reason": key.reason,
        }
        entries.append({name: value for name, value in values.items() if value})
    return entries


def message_pattern(message: str, model: str) -> str:
    """Return a regular expression for the start of a message, in which numbers and the model's name may vary."""
    start = message.split("\n", 1)[0][:_MAX_CHARS].rstrip()
    parts = start.split(model) if len(model) > 2 else [start]
    return ".+".join(_with_any_number(part) for part in parts)


def _with_any_number(text: str) -> str:
    pieces = _VARIABLE_PART.split(text)
    return "".join(_any_number(piece) if place % 2 else _escape(piece) for place, piece in enumerate(pieces))


def _any_number(number: str) -> str:
    if number.startswith("0x"):
        return r"0x\w+"
    return r"[\d.e+-]+" if "." in number or "e" in number else r"\d+"


def _escape(text: str) -> str:
    """Return a readable regular expression for a text; a character that cannot be encoded becomes a dot."""
    escaped = re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\1", text)
    return re.sub(r"[\ud800-\udfff]", ".", escaped)
