"""What is printed for a test that did not pass: what is wrong, where in the model, and how to repeat it."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_headswap._plugin.ids import CheckId

if TYPE_CHECKING:
    import pytest

_FRAMES = 3
_PACKAGE = Path(__file__).parent.parent
_OWN_ROOMS = tuple(_PACKAGE / room for room in ("_plugin", "checks", "engine"))  # the zoo room holds models


def tells_in_words(config: pytest.Config) -> bool:
    """Whether failures are told in our words; not when the user asks for a style of traceback."""
    return not config.getoption("fulltrace") and config.getoption("tbstyle") in ("auto", "line", "no")


def describe(error: BaseException, repro: str = "") -> str:
    """The text of a failure. The first line stands in pytest's short summary, so it holds the message.

    A fault that a check found needs no traceback: the check is right, the model is not. For an exception
    of the model, the last frames say where it comes from.
    """
    from pytest_headswap.checks import CheckFailed

    lines = [message_of(error)]
    if not isinstance(error, CheckFailed):
        root = error.__cause__ or error
        lines += [line.rstrip() for line in traceback.format_list(_telling_frames(root))]
        if root is not error:
            lines.append(f"{type(root).__name__}: {root}")
    if repro:
        lines.append(f"Repeat with: {repro}")
    return "\n".join(lines)


def _telling_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The last frames in the model's own code and the place of the error; simply the last ones when there are none."""
    import torch

    frames = traceback.extract_tb(error.__traceback__)
    machinery = (*_OWN_ROOMS, Path(torch.__file__).parent)
    # what comes before our first frame is pytest
    start = next((index for index, frame in enumerate(frames) if _is_below(frame, *_OWN_ROOMS)), 0)
    of_model = [frame for frame in frames[start:] if not _is_below(frame, *machinery)]
    if not of_model:
        return frames[-_FRAMES:]
    return of_model[-_FRAMES:] + ([frames[-1]] if frames[-1] is not of_model[-1] else [])


def _is_below(frame: traceback.FrameSummary, *folders: Path) -> bool:
    return any(Path(frame.filename).is_relative_to(folder) for folder in folders)


def message_of(error: BaseException) -> str:
    """The message of an exception; with its type, unless it is one of ours, which speak for themselves."""
    from pytest_headswap.checks import CheckFailed
    from pytest_headswap.engine import HeadSwapError

    if isinstance(error, (CheckFailed, HeadSwapError)):
        return str(error)
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def headline(test: CheckId) -> str:
    """The title of a failure. Not the id: pytest would take dots in the end of an id for separators."""
    return " ".join(test)
