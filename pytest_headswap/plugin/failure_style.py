"""Whether failures are told in our words, or in the style of traceback that the user asks for."""

from __future__ import annotations

import pytest

from pytest_headswap.harness.failure_text import describe


def tells_in_words(config: pytest.Config) -> bool:
    """Whether failures are told in our words; not when the user asks for a style of traceback."""
    return not config.getoption("fulltrace") and config.getoption("tbstyle") in ("auto", "line", "no")


def failure_text(error: BaseException, config: pytest.Config) -> str:
    """The text of a failure: in our words, or in the style that the user asks for."""
    return describe(error) if tells_in_words(config) else _in_style(error, config)


def _in_style(error: BaseException, config: pytest.Config) -> str:
    """The traceback in the style that the user asks for."""
    style = config.option.tbstyle
    try:
        shown = pytest.ExceptionInfo.from_exception(error).getrepr(
            style=style if style in ("long", "short", "native") else "long", showlocals=config.option.showlocals
        )
        return str(shown)
    except Exception:  # noqa: BLE001 - an exception of a model may do anything when it is looked at
        return describe(error)
