"""What a check says: it returns, or raises one of the two exceptions here. `Finding` is the outcome as data."""

from __future__ import annotations

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
    exception: Exception | None = field(default=None, repr=False, compare=False)
