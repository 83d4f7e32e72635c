"""What a check says: it returns, or raises one of the two exceptions here. `Finding` is the outcome as data."""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from typing import Literal

STRUCTURE = "structure"
NUMERIC = "numeric"
SIMULATED = "simulated"

# Why a check does not apply, beside the reason codes of the engine. Checks of users have codes of their own.
SKIP_REASONS = {
    "no_native": "the zoo cannot build the model with that class count itself",
    "not_simulated": "the forward needs what a simulated device does not have: values, or some operation",
}


class CheckFailed(Exception):
    """The check found a fault. The message names the tensors and shapes."""


class CheckSkipped(Exception):
    """The check does not apply to this model; `reason` is a code that reports can group by, such as `no_native`."""

    def __init__(self, reason: str, message: str) -> None:
        if not reason.isidentifier():
            raise ValueError(f"a reason code is one word, such as no_native, not {reason!r}")
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Finding:
    """The outcome of one check of one model.

    Attributes:
        outcome: `passed`, `failed` (a fault was found), `skipped` (does not apply) or `error` (the
            check itself could not be made).
        message: why; for a pass, what was compared, when that is less than everything.
        evidence: what the verdict rests on; empty where there is no verdict.
        reason: the code of a skip, or of an error that has one.
        exception: what was raised, for those who want its traceback.
    """

    outcome: Literal["passed", "failed", "skipped", "error"]
    message: str = ""
    evidence: str = ""
    reason: str = ""
    exception: BaseException | None = field(default=None, repr=False, compare=False)


def text_of(error: BaseException) -> str:
    """Return the text of an exception, and those of a group; an exception of a model may even fail to give its text."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # noqa: BLE001 - the code of a model may raise anything
        text = f"its str() raises {type(raised).__name__}"
    members = getattr(error, "exceptions", ()) if _is_group(error) else ()
    return ": ".join(filter(None, [text, ", ".join(named(member) for member in members[:_MEMBERS])]))


def named(error: BaseException) -> str:
    """Return the type and the text of an exception."""
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_MEMBERS = 3  # of a group are named


def _is_group(error: BaseException) -> bool:
    """Return whether an exception is a group of Python 3.11, which this module also has to do without."""
    group = getattr(builtins, "BaseExceptionGroup", None)
    return group is not None and isinstance(error, group)
