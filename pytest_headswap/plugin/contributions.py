"""Collect the zoos and checks that plugins and conftest files add through hooks. Their names must be unique."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap._check_names import CHECK_NAMES, OPT_IN_CHECK_NAMES

if TYPE_CHECKING:
    from pytest_headswap.checks import Check

_CHECKS = pytest.StashKey["Mapping[str, Check]"]()
_contributed_zoos: set[str] = set()  # names that hooks added in this process: a later run may add them again


def register_contributed_zoos(config: pytest.Config) -> None:
    """Register the zoos that hooks return. They are loaded only on request; a run without such a hook does nothing.

    Raises:
        pytest.UsageError: a name is invalid or taken; the message names the plugin.
    """
    owners: dict[str, str] = {}
    for plugin, name, value in _hook_entries(config, "pytest_headswap_zoos"):
        from pytest_headswap.zoo import register, zoo_names
        from pytest_headswap.zoo.custom import make_zoo

        if not isinstance(name, str) or not name.strip():
            raise pytest.UsageError(
                f"{plugin}: pytest_headswap_zoos returns a zoo named {name!r}: names must be non-empty text"
            )
        if name in owners or (name in zoo_names() and name not in _contributed_zoos):
            raise pytest.UsageError(
                f"{plugin}: pytest_headswap_zoos returns zoo {name!r}, which already exists"
                f"{f' (from {owners[name]})' if name in owners else ''}: choose another name"
            )
        owners[name] = plugin
        _contributed_zoos.add(name)
        register(name, partial(make_zoo, name, value))


def available_checks(config: pytest.Config) -> Mapping[str, Check]:
    """Return all checks by name, in running order: the built-in checks, then those of hooks.

    Raises:
        pytest.UsageError: a check of a hook is invalid; the message names the plugin.
    """
    if _CHECKS not in config.stash:
        config.stash[_CHECKS] = _read_checks(config)
    return config.stash[_CHECKS]


def check_names(config: pytest.Config) -> tuple[str, ...]:
    """Return the names of all checks, in running order, without torch unless a hook imports it."""
    return (
        *CHECK_NAMES,
        *OPT_IN_CHECK_NAMES,
        *(str(name) for _, name, _ in _hook_entries(config, "pytest_headswap_checks")),
    )


def _read_checks(config: pytest.Config) -> Mapping[str, Check]:
    from pytest_headswap.checks.registry import BUILTIN_CHECKS, Check

    owners: dict[str, str] = {}
    known = dict(BUILTIN_CHECKS)
    for plugin, name, value in _hook_entries(config, "pytest_headswap_checks"):
        where = f"{plugin}: pytest_headswap_checks"
        if not isinstance(name, str) or not name.isidentifier():
            raise pytest.UsageError(
                f"{where} returns a check named {name!r}: names are part of ids and must be identifiers, like my_check"
            )
        if name in known:
            raise pytest.UsageError(
                f"{where} returns check {name!r}, which already exists"
                f"{f' (from {owners[name]})' if name in owners else ''}: choose another name"
            )
        if isinstance(value, Check):
            if value.name != name:
                raise pytest.UsageError(
                    f"{where} returns check {value.name!r} under the name {name!r}: use the same name"
                )
        elif not callable(value):
            raise pytest.UsageError(
                f"{where} returns {value!r} as {name!r}: it must be a function of a case or a Check"
            )
        owners[name] = plugin
        known[name] = value if isinstance(value, Check) else Check(name, value)
    return known


def _hook_entries(config: pytest.Config, hook: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield each entry that plugins return: the plugin, the name and the value."""
    manager = config.pluginmanager
    for implementation in getattr(config.hook, hook).get_hookimpls():
        others = [plugin for plugin in manager.get_plugins() if plugin is not implementation.plugin]
        for returned in manager.subset_hook_caller(hook, others)(config=config):
            if not isinstance(returned, Mapping):
                raise pytest.UsageError(
                    f"{implementation.plugin_name}: {hook} returns {type(returned).__name__}: "
                    "it must return a mapping of names"
                )
            for name, value in returned.items():
                yield implementation.plugin_name, name, value
