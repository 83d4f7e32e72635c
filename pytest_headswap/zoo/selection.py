"""Select zoos and their models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_headswap._text import split_commas
from pytest_headswap.zoo.registry import load_zoo, select_models
from pytest_headswap.zoo.spec import Zoo, ZooError

Selection = tuple[tuple[Zoo, tuple[str, ...]], ...]
"""Each zoo with the names of its selected models."""


def load_zoos(names: Iterable[str], option_name: str) -> list[Zoo]:
    """Return the zoos with these names.

    Raises:
        ZooError: a zoo cannot be used. The message names the user's option as `option_name`.
    """
    try:
        return [load_zoo(name) for name in names]
    except ZooError as error:
        raise ZooError(f"{option_name}: {error}") from error


def select_from_zoos(zoos: Sequence[Zoo], patterns: str, option_name: str) -> Selection:
    """Return the selected models of each zoo. With several zoos, a pattern must match in at least one of them.

    Raises:
        ZooError: a pattern matches nowhere, or no model is left.
    """
    parts = split_commas(patterns)
    if not parts:
        return tuple((zoo, zoo.names) for zoo in zoos)
    if len(zoos) == 1:
        try:
            return ((zoos[0], select_models(zoos[0], patterns)),)
        except ZooError as error:
            raise ZooError(f"{option_name}: {error}") from error
    matches = [_match_each(zoo, parts) for zoo in zoos]
    for part in parts:
        failures = [errors[part] for _, errors in matches if part in errors]
        if len(failures) == len(zoos):
            raise ZooError(f"{option_name}: {failures[0]}")
    if not any(names for names, _ in matches):
        raise ZooError(f"{option_name}={patterns} excludes every model: remove some of the ! patterns")
    return tuple((zoo, names) for zoo, (names, _) in zip(zoos, matches, strict=True))


def select_leniently(zoos: Sequence[Zoo], patterns: str) -> Selection:
    """Return the matching models of each zoo. Unlike in `select_from_zoos`, a pattern may match nowhere."""
    return tuple((zoo, _match_each(zoo, split_commas(patterns))[0]) for zoo in zoos)


def _match_each(zoo: Zoo, parts: Sequence[str]) -> tuple[tuple[str, ...], dict[str, ZooError]]:
    """Return the matching models, and the error of each pattern that matches none."""
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
