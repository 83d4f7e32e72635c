"""Choose between this plugin's short failure text and the traceback style that the user requested."""

from __future__ import annotations

import pytest

from pytest_headswap.harness.failure_text import format_failure


def use_short_failures(config: pytest.Config) -> bool:
    """Return whether failures use the short text. They do not if the user requested a traceback style."""
    return not config.getoption("fulltrace") and config.getoption("tbstyle") in ("auto", "line", "no")


def failure_text(error: BaseException, config: pytest.Config) -> str:
    """Return the text of a failure: the short text, or a traceback in the user's style."""
    return format_failure(error) if use_short_failures(config) else _format_traceback(error, config)


def _format_traceback(error: BaseException, config: pytest.Config) -> str:
    """Return the traceback in the user's style."""
    style = config.option.tbstyle
    try:
        formatted = pytest.ExceptionInfo.from_exception(error).getrepr(
            style=style if style in ("long", "short", "native") else "long", showlocals=config.option.showlocals
        )
        return str(formatted)
    except Exception:  # noqa: BLE001 - an exception of a model may do anything when it is inspected
        return format_failure(error)
