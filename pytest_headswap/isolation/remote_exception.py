"""An exception on its way from the process that runs models to that of pytest: what is told of it, and itself if it
can be sent."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pytest_headswap.harness.ended import is_expected, is_failure, is_skip, skipped
from pytest_headswap.harness.failure_text import RAISED, bearable, describe, message_of, reason_of

_LONGEST = 64 * 1024  # characters of a text, and bytes of an exception


class RemoteError(Exception):
    """Stands for an exception that cannot be sent."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Raised:
    """What is told of an exception.

    Attributes:
        message: as it stands in a result.
        reason: its reason code; empty where it has none.
        text: as it is printed.
        pickled: the exception itself; None where that cannot be sent, or would end the run.
        module: where its type lives.
        skips: whether it is a skip of pytest, which cannot be pickled and yet has to remain one.
    """

    message: str
    reason: str
    text: str
    pickled: bytes | None
    module: str
    skips: bool = False

    @classmethod
    def of(cls, error: BaseException, format_failure: Callable[[BaseException], str] = describe) -> Raised:
        """Tell of an exception while its traceback is at hand."""
        from pytest_headswap.case.finding import text_of

        skips = is_skip(error)
        message = text_of(error) if skips else message_of(error)
        pickled = None if skips else _pickled(error)
        return cls(cut(message), reason_of(error), cut(format_failure(error)), pickled, type(error).__module__, skips)

    def revive(self) -> BaseException:
        """The exception, which tells of itself what is told here."""
        if self.skips:
            return skipped(self.message)
        if self.pickled is not None and self.module in sys.modules:  # what is not known here is not imported either
            with suppress(Exception):
                known: BaseException = pickle.loads(self.pickled)
                setattr(known, RAISED, self)
                return known
        error = RemoteError(self.message, self.reason)
        setattr(error, RAISED, self)
        return error


def cut(text: str) -> str:
    """A text that a model wrote, as long as a report can bear."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... and {len(text) - _LONGEST:,} characters more"


def _pickled(error: BaseException) -> bytes | None:
    if not (isinstance(error, Exception) or is_failure(error) or is_expected(error)):  # what means something to pytest
        return None
    try:
        data = pickle.dumps(error)
        if len(data) <= _LONGEST:
            copy = pickle.loads(data)
            return data if type(copy) is type(error) and bearable(copy) is copy else None
    except Exception:  # noqa: BLE001 - an exception of a model may do anything when it is copied
        return None
    return None
