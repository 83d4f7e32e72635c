"""The verdict of a check: it returns, or raises `CheckFailed` or `CheckSkipped`. `Finding` is the verdict as data."""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from typing import Literal

ABSTRACT = "abstract"
NUMERIC = "numeric"

# Reasons why a check does not apply, in addition to the engine's reason codes. Users' checks define their own.
SKIP_REASONS = {
    "fails_before_swap": "the model as built fails in the same way, so the swap is not to blame",
    "no_class_output": "the model returns only what it chose from the classes, such as by arg-max",
    "no_grad_checkpointing": "the model offers no gradient checkpointing, or its zoo does not say how to turn it on",
    "no_native": "the zoo itself cannot build the model with the new class count",
    "no_values": "the check computes with values, but the model has none",
    "not_installed": "the check needs a package that is not installed",
    "not_simulated": "forward needs values or an operation that a simulated device does not have",
    "too_large": "the check needs a copy of the model, which would take too much memory",
}


class CheckFailed(Exception):
    """The check found a fault. The message names the tensors and shapes."""


class CheckSkipped(Exception):
    """The check does not apply to this model. `reason` is a code that reports group by, such as `no_native`."""

    def __init__(self, reason: str, message: str) -> None:
        if not reason.isidentifier():
            raise ValueError(f"a reason code must be one word, such as no_native, not {reason!r}")
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Finding:
    """The outcome of one check on one model.

    Attributes:
        outcome: `passed`, `failed` (found a fault), `skipped` (does not apply) or `error` (the check could not run).
        message: the reason. For a pass, what was compared, if that is less than everything.
        evidence: kind of evidence behind the verdict; empty without a verdict.
        reason: code of a skip, or of an error that has one.
        exception: the exception, for its traceback.
    """

    outcome: Literal["passed", "failed", "skipped", "error"]
    message: str = ""
    evidence: str = ""
    reason: str = ""
    exception: BaseException | None = field(default=None, repr=False, compare=False)


def error_text(error: BaseException) -> str:
    """Return the text of an exception, or of the members of a group. Guard against a `str()` that raises."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # noqa: BLE001 - a model's exception may raise anything
        text = f"its str() raises {type(raised).__name__}"
    members = getattr(error, "exceptions", ()) if _is_group(error) else ()
    return ": ".join(filter(None, [text, ", ".join(describe_error(member) for member in members[:_MAX_MEMBERS])]))


def describe_error(error: BaseException) -> str:
    """Return the type and text of an exception."""
    text = error_text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_MAX_MEMBERS = 3  # number of group members in a message


def _is_group(error: BaseException) -> bool:
    """Return whether an exception is an exception group. Python 3.10 has none."""
    group = getattr(builtins, "BaseExceptionGroup", None)
    return group is not None and isinstance(error, group)
