"""Send an exception from a child process to pytest: its text, and the exception itself if it can be pickled."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pytest_headswap.harness.ended import is_expected, is_failure, is_skip, skipped
from pytest_headswap.harness.failure_text import RAISED, bearable, describe, message_of, reason_of

_LONGEST = 64 * 1024  # characters of a text, or bytes of a pickled exception


class RemoteError(Exception):
    """Stands in for an exception that cannot be sent."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Raised:
    """A record of an exception.

    Attributes:
        message: the message for a result.
        reason: its reason code; empty if it has none.
        text: the text to print.
        pickled: the exception itself; None if it cannot be pickled or would end the run.
        module: the module of its type.
        skips: whether it is a skip of pytest, which cannot be pickled but must remain a skip.
    """

    message: str
    reason: str
    text: str
    pickled: bytes | None
    module: str
    skips: bool = False

    @classmethod
    def of(cls, error: BaseException, format_failure: Callable[[BaseException], str] = describe) -> Raised:
        """Record an exception while its traceback is available."""
        from pytest_headswap.case.finding import text_of

        skips = is_skip(error)
        message = text_of(error) if skips else message_of(error)
        pickled = None if skips else _pickled(error)
        return cls(cut(message), reason_of(error), cut(format_failure(error)), pickled, type(error).__module__, skips)

    def revive(self) -> BaseException:
        """Return the exception, or a stand-in, with this record attached."""
        if self.skips:
            return skipped(self.message)
        if self.pickled is not None and self.module in sys.modules:  # never import the module of an unknown type
            with suppress(Exception):
                known: BaseException = pickle.loads(self.pickled)
                setattr(known, RAISED, self)
                return known
        error = RemoteError(self.message, self.reason)
        setattr(error, RAISED, self)
        return error


def cut(text: str) -> str:
    """Truncate a text from a model to a length that fits a report."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... and {len(text) - _LONGEST:,} characters more"


def _pickled(error: BaseException) -> bytes | None:
    if not (isinstance(error, Exception) or is_failure(error) or is_expected(error)):  # others may end the run
        return None
    try:
        data = pickle.dumps(error)
        if len(data) <= _LONGEST:
            copy = pickle.loads(data)
            return data if type(copy) is type(error) and bearable(copy) is copy else None
    except Exception:  # noqa: BLE001 - an exception of a model may do anything when it is pickled
        return None
    return None
