"""Update an expectations file with the observations of a run, and change nothing else in it.

Checks that pass are removed from their entries, and unexplained failures are added. Entries without observations, or
whose condition does not hold here, stay unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pytest_headswap._globs import is_plain, literal, matching, without
from pytest_headswap.expectations.condition import Here, holds
from pytest_headswap.expectations.entry import TODO, Entry
from pytest_headswap.expectations.judge import BAD, Judge, Seen, make_judge
from pytest_headswap.expectations.toml_document import Document, Part

_LONGEST = 100  # characters of a message that go into an entry
_CHANGING = re.compile(r"(0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


@dataclass(frozen=True)
class Scope:
    """What a run covers.

    Attributes:
        models: the names of all models of each of its zoos, including those not selected.
        checks: the names of all checks.
        here: the machine and run for which conditions are evaluated.
        whole: zoos that ran completely.
    """

    models: Mapping[str, Collection[str]]
    checks: Collection[str]
    here: Here
    whole: Collection[str] = ()

    def judge(self, documents: Sequence[Document]) -> Judge:
        """Return the judge of the entries that apply here."""
        return make_judge(
            [part.entry for document in documents for part in self.live(document)],
            self.models,
            self.checks,
            [zoo for document in documents if document.strict_skips for zoo in _zoos_of(document, self.models)],
        )

    def live(self, document: Document) -> list[Part]:
        """Return the entries of the run's zoos whose conditions hold."""
        return [part for part in document.parts if part.entry.zoo in self.models and holds(part.entry.when, self.here)]


def _zoos_of(document: Document, zoos: Collection[str]) -> list[str]:
    """Return the zoos that a file covers: the one it is named after, or else all."""
    return [document.zoo] if document.zoo in zoos else list(zoos)


@dataclass(frozen=True, order=True)
class _Kind:
    """The properties that new entries must share to be combined."""

    zoo: str
    outcome: str
    code: str
    match: str
    reason: str


def merge(document: Document, scope: Scope, seen: Sequence[Seen]) -> None:
    """Change a file so that it expects the observations."""
    judge = scope.judge([document])
    out: dict[Entry, dict[str, set[str]]] = {}
    new: dict[_Kind, dict[str, set[str]]] = {}
    for item in seen:
        verdict = judge.verdict(item)
        if verdict.kind in ("passes", "differs"):
            for entry in verdict.entries:
                out.setdefault(entry, {}).setdefault(item.test.model, set()).add(item.test.check)
        is_new = verdict.kind in ("plain", "differs") and item.outcome in BAD
        is_new = is_new or (item.outcome == "skipped" and _states_skips(judge, item, verdict.kind))
        if is_new:
            kind = _kind_of(item, verdict.entries)
            new.setdefault(kind, {}).setdefault(item.test.model, set()).add(item.test.check)
    for part in scope.live(document):
        if part.entry in out:
            _narrow(document, part, scope, out[part.entry])
    unneeded = scope.judge([document]).unneeded(seen, scope.whole)
    for part in scope.live(document):
        if part.entry in unneeded and not part.entry.may_pass:
            document.remove(part)
    for kind in sorted(new):
        _add(document, scope, kind, new[kind])


def _states_skips(judge: Judge, item: Seen, kind: str) -> bool:
    return kind in ("unlisted", "differs") and item.test.zoo in judge.strict_skips


def _narrow(document: Document, part: Part, scope: Scope, out: Mapping[str, set[str]]) -> None:
    """Remove checks of models from an entry, and keep all others."""
    entry = part.entry
    models = matching(entry.models, scope.models[entry.zoo])
    checks = matching(entry.checks, scope.checks)
    common = set.intersection(*out.values())
    if models == out.keys() and common != checks and all(of_model == common for of_model in out.values()):
        patterns = list(entry.checks)
        for check in sorted(common):
            patterns = without(patterns, check)
        document.change(part, checks=patterns)
        return
    left: dict[frozenset[str], list[str]] = {}
    for model in sorted(out):
        if rest := checks - out[model]:
            left.setdefault(rest, []).append(literal(model))
    for rest in sorted(left, key=sorted):
        document.copy(part, models=left[rest], checks=_listed(rest, checks, entry.checks))
    if models == out.keys():  # only names from another version of the zoo can remain
        names = scope.models[entry.zoo]
        patterns = [pattern for pattern in entry.models if is_plain(pattern) and not matching([pattern], names)]
    else:
        patterns = list(entry.models)
        for model in sorted(out):
            patterns = without(patterns, model)
    if patterns:
        document.change(part, models=patterns)
    else:
        document.remove(part)


def _listed(rest: frozenset[str], checks: frozenset[str], patterns: tuple[str, ...]) -> list[str]:
    return list(patterns) if rest == checks else [literal(check) for check in sorted(rest)]


def _kind_of(item: Seen, entries: Sequence[Entry]) -> _Kind:
    before = "; ".join(dict.fromkeys(" ".join(entry.reason.split()).removeprefix(f"{TODO}: ") for entry in entries))
    ask = "say why, in words that a maintainer would accept"
    if ask in before:
        before = ""
    reason = f"{TODO}: {ask}{f'. For what was seen before, this was: {before}' if before else ''}"
    says_how = item.outcome in ("failed", "error")  # a crash or timeout never happens at quite the same place
    code = item.code if item.outcome in ("skipped", "error") else ""
    return _Kind(
        item.test.zoo, item.outcome, code, pattern_of(item.message, item.test.model) if says_how else "", reason
    )


def pattern_of(message: str, model: str) -> str:
    """Return a regular expression for the start of a message, in which numbers and the model's name may vary."""
    start = message.split("\n", 1)[0][:_LONGEST].rstrip()
    parts = start.split(model) if len(model) > 2 else [start]
    return ".+".join(_with_any_number(part) for part in parts)


def _with_any_number(text: str) -> str:
    pieces = _CHANGING.split(text)
    return "".join(_any_number(piece) if place % 2 else _escaped(piece) for place, piece in enumerate(pieces))


def _any_number(number: str) -> str:
    if number.startswith("0x"):
        return r"0x\w+"
    return r"[\d.e+-]+" if "." in number or "e" in number else r"\d+"


def _escaped(text: str) -> str:
    """Return a readable regular expression for a text; a character that cannot be encoded becomes a dot."""
    escaped = re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\1", text)
    return re.sub(r"[\ud800-\udfff]", ".", escaped)


def _add(document: Document, scope: Scope, kind: _Kind, checks_of: Mapping[str, set[str]]) -> None:
    """Write entries for new observations: one for all models with the same checks."""
    models_of: dict[frozenset[str], list[str]] = {}
    for model in sorted(checks_of):
        models_of.setdefault(frozenset(checks_of[model]), []).append(model)
    for checks in sorted(models_of, key=sorted):
        models = [literal(model) for model in models_of[checks]]
        part = _same(document, scope, kind, checks)
        if part is not None:
            document.change(part, models=[*part.entry.models, *models])
            continue
        zoo = {"zoo": kind.zoo} if kind.zoo != document.zoo else {}
        every = checks == frozenset(scope.checks)
        listed = {} if every else {"checks": [literal(check) for check in sorted(checks)]}
        said = {"code": kind.code, "match": kind.match}
        document.add(
            **zoo,
            models=models,
            **listed,
            outcome=kind.outcome,
            **{key: value for key, value in said.items() if value},
            reason=kind.reason,
        )


def _same(document: Document, scope: Scope, kind: _Kind, checks: frozenset[str]) -> Part | None:
    """Return the entry that an earlier run wrote for the same observations, if its reason is still to be written."""
    for part in scope.live(document):
        entry = part.entry
        same = _Kind(entry.zoo, entry.outcome, entry.code, entry.match, entry.reason) == kind and not entry.when
        names = all(is_plain(pattern) or pattern.startswith("[!]") for pattern in entry.models)
        if same and names and not entry.may_pass and entry.run and matching(entry.checks, scope.checks) == checks:
            return part
    return None
