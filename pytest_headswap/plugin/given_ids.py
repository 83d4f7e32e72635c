"""Select checks by their ids: `pytest timm::resnet18::output_shape`, as pytest prints them. Parts may be globs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_headswap._text import did_you_mean
from pytest_headswap.harness.options import OptionError, default_checks
from pytest_headswap.plugin.controller_data import controller_data

if TYPE_CHECKING:
    from pytest_headswap.checks import Check
    from pytest_headswap.zoo.selection import Selection

_IDS = pytest.StashKey[tuple[str, ...]]()


class _Pattern(NamedTuple):
    """An id as typed, and its parts. A missing check means all checks that `--headswap-checks` selects."""

    text: str
    zoo: str
    model: str
    check: str = ""


@dataclass(frozen=True)
class IdSelection:
    """The models and checks that ids select.

    Attributes:
        selected: each zoo with its selected models.
        checks: the checks of all models, in running order.
        by_model: the names of the checks of each model, by zoo and model.
    """

    selected: Selection
    checks: tuple[Check, ...]
    by_model: Mapping[tuple[str, str], frozenset[str]]


def take_ids(config: pytest.Config, requested_zoos: Sequence[str]) -> None:
    """Move the ids of zoos out of pytest's arguments, since pytest would look for files of these names.

    Raises:
        pytest.UsageError: an id begins with the name of neither a file nor a zoo, and a zoo has a similar name.
    """
    workerinput = controller_data(config)
    if workerinput is not None:
        ids = tuple(workerinput.get("headswap_ids", ()))
    else:
        ids = tuple(text for text in config.args if "::" in text and _is_id(text, config, requested_zoos))
    config.stash[_IDS] = ids
    if ids:
        config.args[:] = [text for text in config.args if text not in ids]


def given_ids(config: pytest.Config) -> tuple[str, ...]:
    """Return the ids of the command line as typed."""
    return config.stash.get(_IDS, ())


def zoos_of_ids(ids: Sequence[str]) -> tuple[str, ...]:
    """Return the zoos of ids, without duplicates."""
    from pytest_headswap.results.ids import unescape

    return tuple(dict.fromkeys(unescape(text.partition("::")[0]) for text in ids))


def _is_id(argument: str, config: pytest.Config, requested_zoos: Sequence[str]) -> bool:
    first = argument.partition("::")[0]
    path = Path(config.invocation_params.dir, first)
    if path.is_file():
        return False

    from pytest_headswap.results.ids import unescape
    from pytest_headswap.zoo import zoo_names

    zoo = unescape(first)
    module, colon, attribute = zoo.rpartition(":")
    known = (*zoo_names(), *requested_zoos)
    if zoo in known or (module and colon and attribute.isidentifier()):
        return True
    hint = did_you_mean(zoo, known)
    if path.exists() or not zoo.isidentifier() or hint == ".":
        return False  # pytest reports the problem
    raise pytest.UsageError(f"there is neither a file nor a zoo {zoo!r} for {argument!r}{hint}")


def select_ids(ids: Sequence[str], checks: Sequence[Check], available: Mapping[str, Check]) -> IdSelection:
    """Return what ids select.

    Args:
        ids: ids as typed.
        checks: the checks that `--headswap-checks` selects, for ids that name none.
        available: all checks by name, in running order.

    Raises:
        OptionError: an id does not have the form of one, or its model or check does not exist.
        ZooError: a zoo cannot be loaded.
    """
    from pytest_headswap.zoo import ZooError, load_zoo
    from pytest_headswap.zoo.registry import match_models

    by_model: dict[tuple[str, str], frozenset[str]] = {}
    for pattern in map(_parse, ids):
        try:
            models = match_models(load_zoo(pattern.zoo), pattern.model)
        except ZooError as error:
            raise OptionError(f"{pattern.text}: {error}", page="zoo") from error
        names = _check_names(pattern, checks, available)
        for model in models:
            by_model[pattern.zoo, model] = by_model.get((pattern.zoo, model), frozenset()) | names
    zoos = [load_zoo(name) for name in zoos_of_ids(ids)]
    selected = tuple((zoo, tuple(name for name in zoo.names if (zoo.name, name) in by_model)) for zoo in zoos)
    used = frozenset[str]().union(*by_model.values())
    known = {**available, **{check.name: check for check in checks}}
    return IdSelection(selected, tuple(check for name, check in known.items() if name in used), by_model)


def _parse(text: str) -> _Pattern:
    from pytest_headswap.results.ids import unescape

    parts = [unescape(part) for part in text.split("::")]
    if len(parts) > 3 or not all(parts):
        raise OptionError(f"{text!r} is not ZOO::MODEL::CHECK, such as timm::resnet18::output_shape")
    return _Pattern(text, *parts)


def _check_names(pattern: _Pattern, checks: Sequence[Check], available: Mapping[str, Check]) -> frozenset[str]:
    from pytest_headswap._globs import matches_glob

    if not pattern.check:
        return frozenset(check.name for check in checks)
    usual = {*default_checks(available), *(check.name for check in checks)}  # a glob selects no other opt-in check
    names = frozenset(n for n in available if n == pattern.check or (n in usual and matches_glob(pattern.check, n)))
    if not names:
        raise OptionError(
            f"{pattern.text}: unknown check {pattern.check!r}{did_you_mean(pattern.check, available)} The checks are "
            f"{', '.join(available)}"
        )
    return names
