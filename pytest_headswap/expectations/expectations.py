"""What a run expects: read when it begins, in the same words for each worker of xdist."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import pytest

from pytest_headswap.expectations.condition import ConditionError, Here, holds
from pytest_headswap.expectations.entry import Entry
from pytest_headswap.expectations.files import SUFFIX, Store, default_zoo_is_known
from pytest_headswap.expectations.judge import NOT_RUN, REFUSED, ConflictError, Judge, Seen, Verdict
from pytest_headswap.expectations.toml_document import Document, DocumentError
from pytest_headswap.expectations.update import Scope
from pytest_headswap.harness.options import AskedError, CaseOptions
from pytest_headswap.results.ids import CheckId

if TYPE_CHECKING:
    from pytest_headswap.zoo import Zoo
    from pytest_headswap.zoo.selection import Selected

OPTION = "--headswap-expectations"
UPDATE = "--headswap-update-expectations"


class Sent(TypedDict):
    """What the controller of xdist tells its workers: the files may change while they start."""

    path: str
    typed: str
    texts: dict[str, str]


@dataclass(frozen=True)
class Expectations:
    """The files and what they say here; without a file, nothing is expected.

    Attributes:
        audit: what is not run otherwise is run, and what is found is told.
    """

    store: Store | None
    texts: dict[str, str]
    scope: Scope
    judge: Judge
    zoos: dict[str, Zoo]
    audit: bool = False
    update: bool = False

    @property
    def sent(self) -> Sent | None:
        """What workers are told."""
        if self.store is None:
            return None
        return {"path": str(self.store.path), "typed": self.store.typed, "texts": self.texts}

    def verdict(self, seen: Seen) -> Verdict:
        """What is to be made of something that was found."""
        return self.judge.verdict(seen)

    def not_run(self, test: CheckId) -> Entry | None:
        """The entry that keeps a check from being made."""
        return next((entry for entry in self.judge.entries(test) if not entry.run), None)

    def keeps(self, test: CheckId) -> str:
        """The reason code with which a check is skipped unseen; empty where it is made."""
        if self.audit:
            return ""
        if self.not_run(test) is not None:
            return NOT_RUN
        return REFUSED if self.zoos[test.zoo][test.model].refusal else ""

    def audited(self, test: CheckId) -> str:
        """Why a check would not be made if this were no audit; empty where it would, or where this is none."""
        if not self.audit:
            return ""
        if refusal := self.zoos[test.zoo][test.model].refusal:
            return f"refused by the zoo: {refusal}"
        entry = self.not_run(test)
        return f"not run by {entry.where}: {entry.reason}" if entry is not None else ""


def read_expectations(
    config: pytest.Config, whole: Selected, checks: Collection[str], options: CaseOptions, typed: str, path: Path
) -> Expectations:
    """Read the files that were asked for.

    Args:
        config: of the controller or a worker.
        whole: the zoos, with what was selected of them.
        checks: the names of all checks that are known.
        options: what conditions may ask for.
        typed: the path, as it was typed; empty where there is none.
        path: the same, absolute.

    Raises:
        AskedError: something cannot be used; the message says what to write instead.
    """
    zoos = {zoo.name: zoo for zoo, _ in whole}
    versions = {name: version for zoo in zoos.values() for name, version in zoo.versions.items()}
    scope = Scope(
        {name: zoo.names for name, zoo in zoos.items()}, checks, Here(options.device, options.evidence, versions)
    )
    audit, update = bool(config.getoption("headswap_audit")), bool(config.getoption("headswap_update_expectations"))
    if not typed:
        if update:
            raise AskedError(f"{UPDATE} has to know which file: give {OPTION}=FILE_OR_FOLDER", page="expectations")
        return Expectations(None, {}, scope, Judge(()), zoos, audit)
    store = Store(path, typed, tuple(zoos))
    try:
        texts = _texts(config, store, update)
        documents = [store.parse(text, Path(path)) for path, text in texts.items()]
        _validate(documents, store, scope)
        judge = scope.judge(documents)
    except (DocumentError, ConditionError, ConflictError) as error:
        raise AskedError(f"{OPTION}: {error}", page="expectations") from error
    return Expectations(store, texts, scope, judge, zoos, audit, update)


def _texts(config: pytest.Config, store: Store, update: bool) -> dict[str, str]:
    sent: Any = getattr(config, "workerinput", {}).get("headswap_expectations")
    if sent is not None:
        texts: dict[str, str] = sent["texts"]
        return texts
    if not store.path.exists() and not update:
        raise DocumentError(
            f"there is no {store.path}. {UPDATE} makes it: a file where its name ends with {SUFFIX}, or else a folder"
        )
    return store.read()


def _validate(documents: list[Document], store: Store, scope: Scope) -> None:
    """What can only be told with the zoos and the checks at hand.

    Raises:
        DocumentError: an entry cannot be used.
    """
    from pytest_headswap.zoo import zoo_names

    if not store.is_folder:
        default_zoo_is_known(documents, dict.fromkeys([*scope.models, *zoo_names()]))
    for document in documents:
        for part in document.parts:
            entry = part.entry
            try:
                applies = holds(entry.when, scope.here)
            except ConditionError as error:
                raise DocumentError(f"{entry.where}: when: {error}") from error
            if applies and entry.zoo in scope.models:
                _known_checks(entry, scope.checks)


def _known_checks(entry: Entry, known: Collection[str]) -> None:
    from pytest_headswap._globs import fits
    from pytest_headswap.harness.options import did_you_mean

    for pattern in entry.checks:
        name = pattern.removeprefix("!")
        if not any(fits(name, check) for check in known):
            raise DocumentError(
                f"{entry.where}: there is no check {name!r}{did_you_mean(name, known)} "
                f"The checks are {', '.join(known)}"
            )
