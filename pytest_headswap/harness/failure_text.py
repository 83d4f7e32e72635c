"""Format the text of a failed test: what is wrong, where in the model, and how to repeat it."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_headswap._links import page
from pytest_headswap._text import truncate, truncate_left
from pytest_headswap.harness.pytest_outcomes import is_failure, is_skip, is_xfail
from pytest_headswap.results.ids import CheckId

REMOTE_ATTRIBUTE = "headswap_remote"
"""The attribute that holds the `RemoteException` record of an exception from another process."""

_MAX_FRAMES = 3
_MAX_REPORT_FRAMES = 8
_MAX_TRACEBACK = 4_000  # characters in a result
_PACKAGE = Path(__file__).parent.parent
_FOLDERS = ("engine", "case", "checks", "harness", "isolation", "plugin")  # without the zoo folder, which holds models
_OWN_FOLDERS = tuple(_PACKAGE / folder for folder in _FOLDERS)


class ReportedError(Exception):
    """An exception of the plugin whose message needs no traceback.

    Attributes:
        details: lines printed below the message.
        code: section of the errors page that explains it.
        traceback: the frames of the model's own code, for the report.
    """

    details = ""
    code = ""
    traceback = ""


def remote_exception_of(error: BaseException) -> Any:
    """Return the `RemoteException` of an exception from another process. Uses `vars`, as `__getattr__` may raise."""
    return vars(error).get(REMOTE_ATTRIBUTE)


def has_own_text(error: BaseException) -> bool:
    """Return whether an exception has a complete text of its own, to which a traceback adds nothing."""
    return isinstance(error, ReportedError) or remote_exception_of(error) is not None


def docs_url(error: BaseException, check: str = "") -> str:
    """Return the URL of the page that explains an exception or the check that raised it; empty if there is none."""
    from pytest_headswap.case.finding import CheckFailed
    from pytest_headswap.checks.registry import BUILTIN_CHECKS
    from pytest_headswap.engine import REASONS

    if isinstance(error, ReportedError) and error.code:
        return page("errors", error.code)
    if isinstance(error, CheckFailed):
        return page("checks", check) if check in BUILTIN_CHECKS else ""
    code = reason_code(error)
    return page("errors", code) if code in REASONS else ""


def format_failure(error: BaseException, repro: str = "", url: str = "") -> str:
    """Return the text of a failure. Its first line is the message, which pytest shows in its short summary.

    A fault found by a check needs no traceback: the check is right, the model is not. For an exception of the model,
    the last frames show where it comes from.
    """
    from pytest_headswap.case.finding import CheckFailed, describe_error

    remote = remote_exception_of(error)
    lines = [error_message(error)]
    if remote is not None:
        lines = [remote.text]
    elif isinstance(error, ReportedError):
        lines += error.details.rstrip().splitlines()
    elif not isinstance(error, CheckFailed):
        root = error.__cause__ or error
        frames = relevant_frames(traceback.extract_tb(root.__traceback__))
        lines += [line.rstrip() for line in traceback.format_list(frames)]
        if root is not error:
            lines.append(describe_error(root))
    if url:
        lines.append(f"See {url}")
    if repro:
        lines.append(f"Repeat with: {repro}")
    return "\n".join(lines)


def failure_traceback(error: BaseException) -> str:
    """Return the frames of the model's own code that led to an error, the innermost last; empty if there are none."""
    from pytest_headswap.case.finding import CheckFailed, describe_error

    if (remote := remote_exception_of(error)) is not None:
        return str(remote.traceback)
    if isinstance(error, ReportedError):
        return error.traceback
    chain: list[BaseException] = []
    following: BaseException | None = error if not isinstance(error, CheckFailed) else None
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    for cause in reversed(chain):
        frames = traceback.extract_tb(cause.__traceback__)
        if model_frames(frames):
            return format_frames(frames, truncate(describe_error(cause), _MAX_TRACEBACK // 4))
    return ""


def format_frames(frames: Sequence[traceback.FrameSummary], last_line: str = "") -> str:
    """Return the frames of the model's own code, and the innermost one, as text for a result."""
    kept = model_frames(frames)[-_MAX_REPORT_FRAMES:]
    kept += [frames[-1]] if kept and frames[-1] is not kept[-1] else []
    lines = [line.rstrip() for line in traceback.format_list(kept)]
    return truncate_left("\n".join(filter(None, [*lines, last_line])), _MAX_TRACEBACK)


def relevant_frames(frames: Sequence[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Return the last frames in the model's own code and the innermost frame; if there are none, the last frames."""
    frames = list(frames)
    own = model_frames(frames)[-_MAX_FRAMES:]
    return own + ([frames[-1]] if frames[-1] is not own[-1] else []) if own else frames[-_MAX_FRAMES:]


def model_frames(frames: Sequence[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Return the frames in the model's own code: neither in this package, nor in torch or pytest."""
    import torch

    machinery = (*_OWN_FOLDERS, Path(torch.__file__).parent)
    # the frames before our first one are pytest's
    start = next((index for index, frame in enumerate(frames) if _is_in_folder(frame, *_OWN_FOLDERS)), 0)
    return [frame for frame in frames[start:] if not _is_in_folder(frame, *machinery)]


def _is_in_folder(frame: traceback.FrameSummary, *folders: Path) -> bool:
    return any(Path(frame.filename).is_relative_to(folder) for folder in folders)


def error_message(error: BaseException) -> str:
    """Return the message of an exception, prefixed with its type unless it is one of this package's."""
    from pytest_headswap.case.finding import CheckFailed, describe_error, error_text
    from pytest_headswap.engine import HeadSwapError

    if (remote := remote_exception_of(error)) is not None:
        return str(remote.message)
    if isinstance(error, HeadSwapError):
        return error.message
    if isinstance(error, (CheckFailed, ReportedError)):
        return error_text(error)
    return describe_error(error)


class UnprintableError(ReportedError):
    """Stands in for an exception that pytest cannot store or print, such as SystemExit while a model is built."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error_message(error))
        _, _, self.details = format_failure(error).partition("\n")
        self.traceback = failure_traceback(error)


def printable_exception(error: BaseException) -> BaseException:
    """Return the exception, or a stand-in if pytest cannot store or print it."""
    remembered = isinstance(error, Exception) or is_skip(error) or is_failure(error) or is_xfail(error)
    return error if remembered and is_printable(error) else UnprintableError(error)


def is_printable(error: BaseException) -> bool:
    """Return whether pytest can print an exception: one raised by a model may do anything when it is inspected."""
    try:
        traceback.format_exception_only(error)
    except Exception:  # noqa: BLE001
        return False
    return True


def reason_code(error: BaseException | None) -> str:
    """Return the reason code of an error; empty if it has none or its `reason` is not a code."""
    try:
        reason = getattr(error, "reason", "")
    except Exception:  # noqa: BLE001 - an exception of a model may do anything when it is inspected
        return ""
    return reason if isinstance(reason, str) and reason.isidentifier() else ""


def failure_title(test: CheckId) -> str:
    """Return the title of a failure. It is not the id: pytest would parse dots in the id as separators."""
    return " ".join(test)
