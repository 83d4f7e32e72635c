"""Read the expectations files at the start of a run. xdist workers get the texts from the controller."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.expectations.condition import ConditionError, Here, holds
from pytest_headswap.expectations.expectations import OPTION, UPDATE, Expectations
from pytest_headswap.expectations.files import SUFFIX, Store, default_zoo_is_known
from pytest_headswap.expectations.judge import ConflictError, Judge
from pytest_headswap.expectations.toml_document import DocumentError
from pytest_headswap.expectations.update import Scope
from pytest_headswap.harness.options import AskedError, gpu_count

if TYPE_CHECKING:
    from pytest_headswap.expectations.entry import Entry
    from pytest_headswap.expectations.toml_document import Document
    from pytest_headswap.harness.options import CaseOptions
    from pytest_headswap.zoo.selection import Selected


def read_expectations(
    config: pytest.Config, whole: Selected, checks: Collection[str], options: CaseOptions, typed: str, path: Path
) -> Expectations:
    """Read the expectations files.

    Args:
        config: of the controller or a worker.
        whole: the zoos and their selected models, on all machines.
        checks: the names of all known checks.
        options: the values that conditions can test.
        typed: the path as typed; empty if there is none.
        path: the same path, absolute.

    Raises:
        AskedError: a file or an option is invalid; the message says what to write instead.
    """
    from pytest_headswap.engine.errors import ZOO_REFUSED

    zoos = {zoo.name: zoo for zoo, _ in whole}

    def skip_reason(zoo: str, model: str) -> str:
        return zoos[zoo][model].refusal

    versions = {name: version for zoo in zoos.values() for name, version in zoo.versions.items()}
    scope = Scope(
        {name: zoo.names for name, zoo in zoos.items()},
        checks,
        Here(options.device, options.evidence, versions, gpu_count),
    )
    audit, update = bool(config.getoption("headswap_audit")), bool(config.getoption("headswap_update_expectations"))
    if not typed:
        if update:
            raise AskedError(f"{UPDATE} has to know which file: give {OPTION}=FILE_OR_FOLDER", page="expectations")
        return Expectations(None, {}, scope, Judge(()), skip_reason, ZOO_REFUSED, audit)
    store = Store(path, typed, tuple(zoos))
    try:
        texts = _texts(config, store, update)
        documents = [store.parse(text, Path(path)) for path, text in texts.items()]
        _validate(documents, store, scope)
        judge = scope.judge(documents)
    except (DocumentError, ConditionError, ConflictError) as error:
        raise AskedError(f"{OPTION}: {error}", page="expectations") from error
    return Expectations(store, texts, scope, judge, skip_reason, ZOO_REFUSED, audit, update)


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
    """Validate what requires the zoos and the checks.

    Raises:
        DocumentError: an entry is invalid.
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
    from pytest_headswap._text import did_you_mean

    for pattern in entry.checks:
        name = pattern.removeprefix("!")
        if not any(fits(name, check) for check in known):
            raise DocumentError(
                f"{entry.where}: there is no check {name!r}{did_you_mean(name, known)} "
                f"The checks are {', '.join(known)}"
            )
