"""Update an expectations file with the observations of a run, and change nothing else in it.

Checks that pass are removed from their entries, and unexplained failures are added. Entries without observations, or
whose condition does not hold here, stay unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pytest_headswap._globs import escape_glob, exclude_name, is_literal, select_names
from pytest_headswap.expectations.condition import Environment, evaluate
from pytest_headswap.expectations.entry import TODO, Entry
from pytest_headswap.expectations.matcher import ExpectationMatcher, make_matcher
from pytest_headswap.expectations.toml_document import Document, EntryText
from pytest_headswap.results import Result
from pytest_headswap.results.result import FAILURES

_MAX_CHARS = 100  # characters of a message that go into an entry
_VARIABLE_PART = re.compile(r"(0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


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
        """Return the judge of the entries that apply here."""
        return make_matcher(
            [part.entry for document in documents for part in self.active_entries(document)],
            self.models,
            self.checks,
            [zoo for document in documents if document.strict_skips for zoo in _zoos_of(document, self.models)],
        )

    def active_entries(self, document: Document) -> list[EntryText]:
        """Return the entries of the run's zoos whose conditions hold."""
        return [
            part
            for part in document.parts
            if part.entry.zoo in self.models and evaluate(part.entry.when, self.environment)
        ]


def _zoos_of(document: Document, zoos: Collection[str]) -> list[str]:
    """Return the zoos that a file covers: the one it is named after, or else all."""
    return [document.zoo] if document.zoo in zoos else list(zoos)


@dataclass(frozen=True, order=True)
class _EntryKey:
    """The properties that new entries must share to be combined."""

    zoo: str
    outcome: str
    code: str
    match: str
    reason: str


def update_document(document: Document, scope: RunScope, observations: Sequence[Result]) -> None:
    """Change a file so that it expects the observations."""
    matcher = scope.matcher([document])
    no_longer: dict[Entry, dict[str, set[str]]] = {}
    new: dict[_EntryKey, dict[str, set[str]]] = {}
    for item in observations:
        verdict = matcher.verdict(item)
        if verdict.kind in ("unexpected_pass", "mismatch"):
            for entry in verdict.entries:
                no_longer.setdefault(entry, {}).setdefault(item.model, set()).add(item.check)
        is_new = verdict.kind in ("none", "mismatch") and item.outcome in FAILURES
        is_new = is_new or (item.outcome == "skipped" and _must_list_skip(matcher, item, verdict.kind))
        if is_new:
            kind = _entry_key(item, verdict.entries)
            new.setdefault(kind, {}).setdefault(item.model, set()).add(item.check)
    for part in scope.active_entries(document):
        if part.entry in no_longer:
            _narrow(document, part, scope, no_longer[part.entry])
    unused = scope.matcher([document]).unused_entries(observations, scope.complete)
    for part in scope.active_entries(document):
        if part.entry in unused and not part.entry.may_pass:
            document.remove(part)
    for kind in sorted(new):
        _add(document, scope, kind, new[kind])


def _must_list_skip(matcher: ExpectationMatcher, item: Result, kind: str) -> bool:
    return kind in ("unlisted_skip", "mismatch") and item.zoo in matcher.strict_skips


def _narrow(document: Document, part: EntryText, scope: RunScope, no_longer: Mapping[str, set[str]]) -> None:
    """Remove checks of models from an entry, and keep all others."""
    entry = part.entry
    models = select_names(entry.models, scope.models[entry.zoo])
    checks = select_names(entry.checks, scope.checks)
    common = set.intersection(*no_longer.values())
    if models == no_longer.keys() and common != checks and all(of_model == common for of_model in no_longer.values()):
        patterns = list(entry.checks)
        for check in sorted(common):
            patterns = exclude_name(patterns, check)
        document.change(part, checks=patterns)
        return
    left: dict[frozenset[str], list[str]] = {}
    for model in sorted(no_longer):
        if rest := checks - no_longer[model]:
            left.setdefault(rest, []).append(escape_glob(model))
    for rest in sorted(left, key=sorted):
        document.copy(part, models=left[rest], checks=_check_patterns(rest, checks, entry.checks))
    if models == no_longer.keys():  # only names from another version of the zoo can remain
        names = scope.models[entry.zoo]
        patterns = [pattern for pattern in entry.models if is_literal(pattern) and not select_names([pattern], names)]
    else:
        patterns = list(entry.models)
        for model in sorted(no_longer):
            patterns = exclude_name(patterns, model)
    if patterns:
        document.change(part, models=patterns)
    else:
        document.remove(part)


def _check_patterns(rest: frozenset[str], checks: frozenset[str], patterns: tuple[str, ...]) -> list[str]:
    return list(patterns) if rest == checks else [escape_glob(check) for check in sorted(rest)]


def _entry_key(item: Result, entries: Sequence[Entry]) -> _EntryKey:
    before = "; ".join(dict.fromkeys(" ".join(entry.reason.split()).removeprefix(f"{TODO}: ") for entry in entries))
    ask = "say why, in words that a maintainer would accept"
    if ask in before:
        before = ""
    reason = f"{TODO}: {ask}{f'. For what was seen before, this was: {before}' if before else ''}"
    message_is_stable = item.outcome in ("failed", "error")  # a crash or timeout never happens at quite the same place
    code = item.reason if item.outcome in ("skipped", "error") else ""
    return _EntryKey(
        item.zoo,
        item.outcome,
        code,
        message_pattern(item.message, item.model) if message_is_stable else "",
        reason,
    )


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


def _add(document: Document, scope: RunScope, kind: _EntryKey, checks_of: Mapping[str, set[str]]) -> None:
    """Write entries for new observations: one for all models with the same checks."""
    models_of: dict[frozenset[str], list[str]] = {}
    for model in sorted(checks_of):
        models_of.setdefault(frozenset(checks_of[model]), []).append(model)
    for checks in sorted(models_of, key=sorted):
        models = [escape_glob(model) for model in models_of[checks]]
        part = _existing_todo(document, scope, kind, checks)
        if part is not None:
            document.change(part, models=[*part.entry.models, *models])
            continue
        zoo = {"zoo": kind.zoo} if kind.zoo != document.zoo else {}
        every = checks == frozenset(scope.checks)
        listed_checks = {} if every else {"checks": [escape_glob(check) for check in sorted(checks)]}
        optional = {"code": kind.code, "match": kind.match}
        document.add(
            **zoo,
            models=models,
            **listed_checks,
            outcome=kind.outcome,
            **{key: value for key, value in optional.items() if value},
            reason=kind.reason,
        )


def _existing_todo(document: Document, scope: RunScope, kind: _EntryKey, checks: frozenset[str]) -> EntryText | None:
    """Return the entry that an earlier run wrote for the same observations, if its reason is still to be written."""
    for part in scope.active_entries(document):
        entry = part.entry
        same = _EntryKey(entry.zoo, entry.outcome, entry.code, entry.match, entry.reason) == kind and not entry.when
        names = all(is_literal(pattern) or pattern.startswith("[!]") for pattern in entry.models)
        if same and names and not entry.may_pass and entry.run and select_names(entry.checks, scope.checks) == checks:
            return part
    return None
