"""The result of one check of one model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from pytest_headswap.results.head_record import SwappedHeads

Outcome = Literal["passed", "failed", "skipped", "xfailed", "xpassed", "error", "crashed", "timeout"]

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

BY_SEVERITY: tuple[Outcome, ...] = (
    *("crashed", "timeout", "failed", "error", "xpassed", "xfailed", "skipped", "passed"),
)
FAILURES: frozenset[Outcome] = frozenset({"crashed", "timeout", "failed", "error"})
"""The outcomes that need attention."""


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
    raw_outcome: str = ""
    expectation: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"unknown outcome {self.outcome!r}: it must be one of {', '.join(OUTCOMES)}")

    @property
    def needs_attention(self) -> bool:
        """Return whether the result needs attention: also if it passes but is expected to fail."""
        return self.outcome in FAILURES or (self.outcome == "xpassed" and bool(self.expectation))

    @property
    def full_message(self) -> str:
        """Return the reason for the outcome: the message, then the statement of the expectations file."""
        return "\n".join(filter(None, [self.message, self.expectation]))

    def to_json(self) -> dict[str, Any]:
        """Return a dict of plain JSON types."""
        data = {item.name: getattr(self, item.name) for item in fields(self)} | {"heads": list(self.heads)}
        anatomy = data.pop("anatomy")
        if anatomy is not None:
            data["anatomy"] = anatomy.to_json()
        for name in ("version", "raw_outcome", "expectation"):  # most are empty
            if not data[name]:
                del data[name]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """Return the result that `to_json` wrote; fields from a later version are ignored.

        Raises:
            ValueError: a required field is missing, the outcome is unknown, or a value has the wrong type.
        """
        missing = [name for name in ("zoo", "model", "check", "outcome") if name not in data]
        if missing:
            raise ValueError(f"a result needs the fields {', '.join(missing)}")
        values = {item.name: data[item.name] for item in fields(cls) if item.name in data}
        for name, value in values.items():
            if not _VALIDATORS.get(name, _is_text)(value):
                raise ValueError(f"{name} cannot be {value!r}")
        values["heads"] = tuple(values.get("heads", ()))
        if values.get("anatomy") is not None:
            try:
                values["anatomy"] = SwappedHeads.from_json(values["anatomy"])
            except (TypeError, KeyError, OverflowError) as error:
                raise ValueError(f"anatomy is none: {error!r}") from error
        return cls(**values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


_VALIDATORS: dict[str, Callable[[Any], bool]] = {
    "seconds": _is_amount,
    "peak_memory_mb": lambda value: value is None or _is_amount(value),
    "heads": lambda value: isinstance(value, (list, tuple)) and all(map(_is_text, value)),
    "anatomy": lambda value: value is None or isinstance(value, dict),
}
"""Validators of the fields that do not hold text."""
