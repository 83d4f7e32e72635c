"""Send an exception from a child process to pytest: its text, and the exception itself if it can be pickled."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pytest_headswap.harness.failure_text import (
    REMOTE_ATTRIBUTE,
    error_message,
    failure_traceback,
    format_failure,
    printable_exception,
    reason_code,
    remote_exception_of,
)
from pytest_headswap.harness.pytest_outcomes import is_failure, is_skip, is_xfail, make_skip

_MAX_CHARS = 64 * 1024  # characters of a text, or bytes of a pickled exception


class RemoteError(Exception):
    """Stands in for an exception that cannot be sent."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class RemoteException:
    """A record of an exception.

    Attributes:
        message: the message for a result.
        reason: its reason code; empty if it has none.
        text: the text to print.
        pickled: the exception itself; None if it cannot be pickled or would end the run.
        module: the module of its type.
        is_skip: whether it is a skip of pytest, which cannot be pickled but must remain a skip.
        traceback: the frames for the result.
    """

    message: str
    reason: str
    text: str
    pickled: bytes | None
    module: str
    is_skip: bool = False
    traceback: str = ""

    @classmethod
    def capture(
        cls, error: BaseException, format_failure: Callable[[BaseException], str] = format_failure
    ) -> RemoteException:
        """Record an exception while its traceback is available. One from another process has its record already."""
        from pytest_headswap.case.finding import error_text

        known = remote_exception_of(error)
        if isinstance(known, cls):
            return known
        skips = is_skip(error)
        message = error_text(error) if skips else error_message(error)
        pickled = None if skips else _pickled(error)
        return cls(
            truncate(message),
            reason_code(error),
            truncate(format_failure(error)),
            pickled,
            type(error).__module__,
            skips,
            "" if skips else failure_traceback(error),
        )

    def rebuild(self) -> BaseException:
        """Return the exception, or a stand-in, with this record attached."""
        if self.is_skip:
            return make_skip(self.message)
        if self.pickled is not None and self.module in sys.modules:  # never import the module of an unknown type
            with suppress(Exception):
                known: BaseException = pickle.loads(self.pickled)
                setattr(known, REMOTE_ATTRIBUTE, self)
                return known
        error = RemoteError(self.message, self.reason)
        setattr(error, REMOTE_ATTRIBUTE, self)
        return error


def truncate(text: str) -> str:
    """Truncate a text from a model to a length that fits a report."""
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}... and {len(text) - _MAX_CHARS:,} characters more"


def _pickled(error: BaseException) -> bytes | None:
    if not (isinstance(error, Exception) or is_failure(error) or is_xfail(error)):  # others may end the run
        return None
    try:
        data = pickle.dumps(error)
        if len(data) <= _MAX_CHARS:
            copy = pickle.loads(data)
            return data if type(copy) is type(error) and printable_exception(copy) is copy else None
    except Exception:  # noqa: BLE001 - an exception of a model may do anything when it is pickled
        return None
    return None
