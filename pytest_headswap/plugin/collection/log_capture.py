"""Hooks for tests whose models run in another process: pytest need not listen there for records of `logging`.

To listen it attaches two handlers to each logger that keeps its records to itself, six times a test; torch has 45 of
them. That is a fifth of all that a test of ours costs beside its model.
"""

from __future__ import annotations

from typing import Any

import pytest

_PHASES = ("pytest_runtest_setup", "pytest_runtest_call", "pytest_runtest_teardown")
_ASKED = ("log_cli", "log_cli_level", "log_file", "log_file_level")


def quiet_hooks(config: pytest.Config) -> Any:
    """All hooks, without pytest's logging in the phases of a test; None where a user asked for records as they come."""
    listener = config.pluginmanager.get_plugin("logging-plugin")
    if listener is None or any(config.getini(name) or getattr(config.option, name, None) for name in _ASKED):
        return None
    return _Quiet(config, listener)


class _Quiet:
    """The hooks of a session, those of the phases without one plugin."""

    def __init__(self, config: pytest.Config, without: object) -> None:
        self._hooks = config.hook
        for name in _PHASES:
            setattr(self, name, config.pluginmanager.subset_hook_caller(name, [without]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hooks, name)
