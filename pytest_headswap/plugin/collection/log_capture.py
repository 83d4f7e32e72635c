"""Skip pytest's log capture for tests whose model runs in a child process.

Log capture attaches two handlers to each logger that does not propagate, six times per test, and torch has 45 such
loggers. This takes a fifth of the plugin's time per test, the model's own time excluded.
"""

from __future__ import annotations

from typing import Any

import pytest

_PHASES = ("pytest_runtest_setup", "pytest_runtest_call", "pytest_runtest_teardown")
_ASKED = ("log_cli", "log_cli_level", "log_file", "log_file_level")


def quiet_hooks(config: pytest.Config) -> Any:
    """Return the hooks without pytest's log capture; None if the user wants live logs or a log file."""
    listener = config.pluginmanager.get_plugin("logging-plugin")
    if listener is None or any(config.getini(name) or getattr(config.option, name, None) for name in _ASKED):
        return None
    return _Quiet(config, listener)


class _Quiet:
    """The hooks of a session, without one plugin in the phases of a test."""

    def __init__(self, config: pytest.Config, without: object) -> None:
        self._hooks = config.hook
        for name in _PHASES:
            setattr(self, name, config.pluginmanager.subset_hook_caller(name, [without]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hooks, name)
