"""The result of one check of one model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec

from pytest_headswap.results.head_record import SwappedHeads
from pytest_headswap.results.ids import CheckId

Outcome = Literal["passed", "failed", "skipped", "xfailed", "xpassed", "error", "crashed", "timeout"]

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

BY_SEVERITY: tuple[Outcome, ...] = (
    *("crashed", "timeout", "failed", "error", "xpassed", "xfailed", "skipped", "passed"),
)
FAILURES: frozenset[Outcome] = frozenset({"crashed", "timeout", "failed", "error"})
"""The outcomes that need attention."""

NOT_RUN = "not_run"
"""The reason code of a check that the expectations file excludes from running."""

_OMITTED_IF_EMPTY = ("anatomy", "version", "raw_outcome", "expectation", "key", "taken_over", "traceback")


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check of one model.

    Attributes:
        zoo, model, check: the names, unescaped.
        outcome: one of `OUTCOMES`. `failed`: the check found a fault. `error`: the check could not run, because the
            model could not be built, swapped or run. `crashed`: the model's process died, or took too much memory.
            `timeout`: the model took too long.
        evidence: what the verdict rests on: `numeric`, or `abstract` with how the model was run if meta tensors did
            not suffice. Empty without a verdict.
        seconds: wall time of the test, in seconds. The first check of a model includes building and swapping it.
        message: the reason in words; empty for a plain pass.
        repro: the command that runs only this check of this model; empty for a model without a zoo.
        nodeid: pytest's id: zoo, model and check joined by `::`.
        reason: the reason code of a skip or an error, such as `output_is_backbone`.
        family: the architecture family stated by the zoo.
        peak_memory_mb: the peak memory of the model so far, on top of what its process held before, in units of 2**20
            bytes; None if not measured.
        heads: paths of the swapped heads.
        anatomy: the heads in full, with the path through each; in a journal only in the first result of a model.
        version: the version under which the model ran, such as `torch 2.4.1`, in a journal of several versions.
        raw_outcome: the outcome without expectations; empty if it is the same.
        expectation: what the expectations file, or a strict mark of pytest, says about the result, and why; empty if
            neither does.
        key: a digest of everything that the result rests on. `?` in front: something is not known that it rests on, or
            only one of several attempts had this outcome. `?` alone: files changed while the model was tested.
        taken_over: when the run started that found the result, if a later run took it over; otherwise empty.
        traceback: the frames of the model's own code that led to an error, or in which a lost process was, innermost
            last, at most 4,000 characters. Empty for a fault that a check found, and for further results of a model
            in a journal that have the same one.
    """

    zoo: str
    model: str
    check: str
    outcome: Outcome
    evidence: str = ""
    seconds: float = 0.0
    message: str = ""
    repro: str = ""
    nodeid: str = ""
    reason: str = ""
    family: str = ""
    peak_memory_mb: float | None = None
    heads: tuple[str, ...] = ()
    anatomy: SwappedHeads | None = None
    version: str = ""
    raw_outcome: Outcome | Literal[""] = ""
    expectation: str = ""
    key: str = ""
    taken_over: str = ""
    traceback: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"unknown outcome {self.outcome!r}: it must be one of {', '.join(OUTCOMES)}")
        for name, amount in (("seconds", self.seconds), ("peak_memory_mb", self.peak_memory_mb)):
            if amount is not None and not 0 <= amount < math.inf:
                raise ValueError(f"{name} must be a finite number that is not negative, not {amount!r}")

    @property
    def check_id(self) -> CheckId:
        """Return the names of the zoo, model and check."""
        return CheckId(self.zoo, self.model, self.check)

    @property
    def needs_attention(self) -> bool:
        """Return whether the result needs attention: also if it passes but is expected to fail."""
        return self.outcome in FAILURES or (self.outcome == "xpassed" and bool(self.expectation))

    @property
    def full_message(self) -> str:
        """Return the reason for the outcome: the message, then the statement of the expectations file."""
        return "\n".join(filter(None, [self.message, self.expectation]))

    def to_json(self) -> dict[str, Any]:
        """Return a dict that `json` can write."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        data["anatomy"] = self.anatomy.to_json() if self.anatomy is not None else None
        for name in _OMITTED_IF_EMPTY:
            if not data[name]:
                del data[name]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """Return the result that `to_json` wrote; fields from a later version are ignored.

        Raises:
            ValueError: a required field is missing, the outcome is unknown, or a value has the wrong type.
        """
        return msgspec.convert(data, cls)
