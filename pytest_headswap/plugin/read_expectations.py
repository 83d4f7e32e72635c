"""Read the expectations files at the start of a run. xdist workers get the texts from the controller."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.expectations.condition import ConditionError, Environment, evaluate
from pytest_headswap.expectations.expectations import OPTION, UPDATE, Expectations
from pytest_headswap.expectations.files import SUFFIX, ExpectationFiles, require_known_zoo
from pytest_headswap.expectations.matcher import ConflictError, ExpectationMatcher
from pytest_headswap.expectations.toml_document import DocumentError
from pytest_headswap.expectations.update import RunScope
from pytest_headswap.harness.options import OptionError
from pytest_headswap.plugin.controller_data import controller_data

if TYPE_CHECKING:
    from pytest_headswap.case.options import CaseOptions
    from pytest_headswap.expectations.entry import Entry
    from pytest_headswap.expectations.toml_document import Document
    from pytest_headswap.zoo.selection import Selection


def read_expectations(
    config: pytest.Config,
    selected: Selection,
    checks: Collection[str],
    options: CaseOptions,
    given_path: str,
    path: Path,
) -> Expectations:
    """Read the expectations files.

    Args:
        config: the configuration of the controller or a worker.
        selected: the zoos and their selected models, on all machines.
        checks: the names of all known checks.
        options: the device and the evidence, for conditions.
        given_path: the path as typed; empty if there is none.
        path: the same path, absolute.

    Raises:
        OptionError: a file or an option is invalid; the message says what to write instead.
    """
    from pytest_headswap.engine import ZOO_REFUSED
    from pytest_headswap.engine.pytorch import accelerators

    zoos = {zoo.name: zoo for zoo, _ in selected}

    def skip_reason(zoo: str, model: str) -> str:
        return zoos[zoo][model].skip_reason

    versions = {name: version for zoo in zoos.values() for name, version in zoo.versions.items()}
    scope = RunScope(
        {name: zoo.names for name, zoo in zoos.items()},
        checks,
        Environment(options.device, options.evidence, versions, accelerators.current_type),
    )
    run_skipped = bool(config.getoption("headswap_run_skipped"))
    update = bool(config.getoption("headswap_update_expectations"))
    if not given_path:
        return Expectations(None, {}, scope, ExpectationMatcher(()), skip_reason, ZOO_REFUSED, run_skipped)
    store = ExpectationFiles(path, given_path, tuple(zoos))
    try:
        texts = _texts(config, store)
        documents = [store.parse(text, Path(path)) for path, text in texts.items()]
        _validate(documents, store, scope)
        matcher = scope.matcher(documents)
    except (DocumentError, ConditionError, ConflictError) as error:
        raise OptionError(f"{OPTION}: {error}", page="expectations") from error
    return Expectations(store, texts, scope, matcher, skip_reason, ZOO_REFUSED, run_skipped, update)


def validate_path(config: pytest.Config, given_path: str, path: Path) -> None:
    """Validate the path of the expectations, before anything is imported for them.

    Raises:
        OptionError: it is missing although it is to be updated, or it does not exist and is not to be updated.
    """
    update = bool(config.getoption("headswap_update_expectations"))
    if update and not given_path:
        raise OptionError(f"{UPDATE} requires {OPTION}=FILE_OR_FOLDER", page="expectations")
    if given_path and not update and not path.exists() and controller_data(config) is None:
        raise OptionError(
            f"{OPTION}: {path} does not exist. "
            f"{UPDATE} creates a file if its name ends in {SUFFIX}, otherwise a folder",
            page="expectations",
        )


def _texts(config: pytest.Config, store: ExpectationFiles) -> dict[str, str]:
    payload: Any = (controller_data(config) or {}).get("headswap_expectations")
    if payload is not None:
        texts: dict[str, str] = payload["texts"]
        return texts
    return store.read()


def _validate(documents: list[Document], store: ExpectationFiles, scope: RunScope) -> None:
    """Validate what requires the zoos and the checks.

    Raises:
        DocumentError: an entry is invalid.
    """
    from pytest_headswap.zoo import zoo_names

    if not store.is_folder:
        require_known_zoo(documents, dict.fromkeys([*scope.models, *zoo_names()]))
    for document in documents:
        for entry in document.entries:
            try:
                applies = evaluate(entry.when, scope.environment)
            except ConditionError as error:
                raise DocumentError(f"{entry.where}: {error}") from error
            if applies and entry.zoo in scope.models:
                _require_known_checks(entry, scope.checks)


def _require_known_checks(entry: Entry, known: Collection[str]) -> None:
    from pytest_headswap._globs import matches_glob
    from pytest_headswap._text import did_you_mean

    for pattern in entry.checks:
        name = pattern.removeprefix("!")
        if not any(matches_glob(name, check) for check in known):
            raise DocumentError(
                f"{entry.where}: unknown check {name!r}{did_you_mean(name, known)} The checks are {', '.join(known)}"
            )
