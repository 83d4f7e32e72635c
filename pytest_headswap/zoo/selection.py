"""Which zoos and which of their models are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_headswap._text import listed
from pytest_headswap.zoo.registry import load_zoo, select_models
from pytest_headswap.zoo.spec import Zoo, ZooError

Selected = tuple[tuple[Zoo, tuple[str, ...]], ...]
"""Each zoo with the names of those of its models that are asked for."""


def load_zoos(names: Iterable[str], where: str) -> list[Zoo]:
    """The zoos of these names.

    Raises:
        ZooError: one cannot be used; `where` is how the user calls the place that names it.
    """
    try:
        return [load_zoo(name) for name in names]
    except ZooError as error:
        raise ZooError(f"{where}: {error}") from error


def select(zoos: Sequence[Zoo], patterns: str, where: str) -> Selected:
    """The models of each zoo. With several zoos, a pattern has to fit in one of them, not in each.

    Raises:
        ZooError: a pattern fits nowhere, or nothing is left.
    """
    parts = listed(patterns)
    if not parts:
        return tuple((zoo, zoo.names) for zoo in zoos)
    if len(zoos) == 1:
        try:
            return ((zoos[0], select_models(zoos[0], patterns)),)
        except ZooError as error:
            raise ZooError(f"{where}: {error}") from error
    fitting = [_fitting(zoo, parts) for zoo in zoos]
    for part in parts:
        failures = [errors[part] for _, errors in fitting if part in errors]
        if len(failures) == len(zoos):
            raise ZooError(f"{where}: {failures[0]}")
    if not any(names for names, _ in fitting):
        raise ZooError(f"{where}={patterns} leaves no model to test: leave out less")
    return tuple((zoo, names) for zoo, (names, _) in zip(zoos, fitting, strict=True))


def narrowed(zoos: Sequence[Zoo], patterns: str) -> Selected:
    """The models that fit, of zoos that the patterns were not written for: they may fit nowhere."""
    return tuple((zoo, _fitting(zoo, listed(patterns))[0]) for zoo in zoos)


def _fitting(zoo: Zoo, parts: Sequence[str]) -> tuple[tuple[str, ...], dict[str, ZooError]]:
    """The models that fit, and what is wrong with each pattern that fits none."""
    included: set[str] = set(zoo.names) if all(part.startswith("!") for part in parts) else set()
    excluded: set[str] = set()
    errors = {}
    for part in parts:
        try:
            if part.startswith("!"):
                excluded.update(select_models(zoo, part[1:].strip()))
            else:
                included.update(select_models(zoo, part))
        except ZooError as error:
            errors[part] = error
    return tuple(name for name in zoo.names if name in included - excluded), errors
