"""Format the text of a failed test: what is wrong, where in the model, and how to repeat it."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_headswap._links import page
from pytest_headswap.harness.ended import is_expected, is_failure, is_skip
from pytest_headswap.results.ids import CheckId

RAISED = "headswap_raised"
"""The attribute that holds the `Raised` record of an exception from another process."""

_FRAMES = 3
_PACKAGE = Path(__file__).parent.parent
_ROOMS = ("engine", "case", "checks", "harness", "isolation", "plugin")  # without the zoo folder, which holds models
_OWN_ROOMS = tuple(_PACKAGE / room for room in _ROOMS)


class ToldError(Exception):
    """An exception of the plugin whose message needs no traceback.

    Attributes:
        details: lines printed below the message.
        code: section of the errors page that explains it.
    """

    details = ""
    code = ""


def raised_of(error: BaseException) -> Any:
    """Return the `Raised` record of an exception from another process. Uses `vars`, as `__getattr__` may raise."""
    return vars(error).get(RAISED)


def is_told(error: BaseException) -> bool:
    """Return whether the text of an exception is known already, so that its traceback adds nothing."""
    return isinstance(error, ToldError) or raised_of(error) is not None


def explained_at(error: BaseException, check: str = "") -> str:
    """Return the URL of the page that explains an exception or the check that raised it; empty if there is none."""
    from pytest_headswap.case.finding import CheckFailed
    from pytest_headswap.checks import CHECKS
    from pytest_headswap.engine import REASONS

    if isinstance(error, ToldError) and error.code:
        return page("errors", error.code)
    if isinstance(error, CheckFailed):
        return page("checks", check) if check in CHECKS else ""
    code = reason_of(error)
    return page("errors", code) if code in REASONS else ""


def describe(error: BaseException, repro: str = "", see: str = "") -> str:
    """Return the text of a failure. Its first line is the message, which pytest shows in its short summary.

    A fault found by a check needs no traceback: the check is right, the model is not. For an exception of the model,
    the last frames show where it comes from.
    """
    from pytest_headswap.case.finding import CheckFailed, named

    raised = raised_of(error)
    lines = [message_of(error)]
    if raised is not None:
        lines = [raised.text]
    elif isinstance(error, ToldError):
        lines += error.details.rstrip().splitlines()
    elif not isinstance(error, CheckFailed):
        root = error.__cause__ or error
        frames = telling_frames(traceback.extract_tb(root.__traceback__))
        lines += [line.rstrip() for line in traceback.format_list(frames)]
        if root is not error:
            lines.append(named(root))
    if see:
        lines.append(f"See {see}")
    if repro:
        lines.append(f"Repeat with: {repro}")
    return "\n".join(lines)


def telling_frames(frames: Sequence[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Return the last frames in the model's own code and the innermost frame; if there are none, the last frames."""
    import torch

    frames = list(frames)
    machinery = (*_OWN_ROOMS, Path(torch.__file__).parent)
    # the frames before our first one are pytest's
    start = next((index for index, frame in enumerate(frames) if _is_below(frame, *_OWN_ROOMS)), 0)
    of_model = [frame for frame in frames[start:] if not _is_below(frame, *machinery)]
    if not of_model:
        return frames[-_FRAMES:]
    return of_model[-_FRAMES:] + ([frames[-1]] if frames[-1] is not of_model[-1] else [])


def _is_below(frame: traceback.FrameSummary, *folders: Path) -> bool:
    return any(Path(frame.filename).is_relative_to(folder) for folder in folders)


def message_of(error: BaseException) -> str:
    """Return the message of an exception, prefixed with its type unless it is one of this package's."""
    from pytest_headswap.case.finding import CheckFailed, named, text_of
    from pytest_headswap.engine import HeadSwapError

    if (raised := raised_of(error)) is not None:
        return str(raised.message)
    if isinstance(error, HeadSwapError):
        return error.message
    if isinstance(error, (CheckFailed, ToldError)):
        return text_of(error)
    return named(error)


class EndedError(ToldError):
    """Stands in for an exception that pytest cannot store or print, such as SystemExit while a model is built."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(message_of(error))
        _, _, self.details = describe(error).partition("\n")


def bearable(error: BaseException) -> BaseException:
    """Return the exception, or a stand-in if pytest cannot store or print it."""
    remembered = isinstance(error, Exception) or is_skip(error) or is_failure(error) or is_expected(error)
    return error if remembered and can_be_printed(error) else EndedError(error)


def can_be_printed(error: BaseException) -> bool:
    """Return whether pytest can print an exception: one raised by a model may do anything when it is inspected."""
    try:
        traceback.format_exception_only(error)
    except Exception:  # noqa: BLE001
        return False
    return True


def reason_of(error: BaseException | None) -> str:
    """Return the reason code of an error; empty if it has none or its `reason` is not a code."""
    try:
        reason = getattr(error, "reason", "")
    except Exception:  # noqa: BLE001 - an exception of a model may do anything when it is inspected
        return ""
    return reason if isinstance(reason, str) and reason.isidentifier() else ""


def headline(test: CheckId) -> str:
    """Return the title of a failure. It is not the id: pytest would parse dots in the id as separators."""
    return " ".join(test)
