"""One result: what one check said about one model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from pytest_headswap.results.head_record import Anatomy

Outcome = Literal["passed", "failed", "skipped", "xfailed", "xpassed", "error", "crashed", "timeout"]

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

WORST_FIRST: tuple[Outcome, ...] = (
    *("crashed", "timeout", "failed", "error", "xpassed", "xfailed", "skipped", "passed"),
)
BAD: frozenset[Outcome] = frozenset({"crashed", "timeout", "failed", "error"})
"""What somebody has to look at."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one check said about one model.

    Attributes:
        zoo, model, check: which check of which model, unescaped.
        outcome: one of `OUTCOMES`. `failed`: the check found a fault. `error`: the check could not be
            made, because the model could not be built, swapped or run. `crashed`: its process died, or took
            too much memory. `timeout`: its time was used up.
        evidence: what the verdict rests on (`structure`, with how the model was run
            where meta tensors did not do, or `numeric`); empty where there is no verdict.
        seconds: wall time of the test, in seconds. The first check of a model includes building and swapping it.
        message: why, in words; empty for a plain pass.
        repro: the command that runs this check of this model alone; empty for a model that no zoo holds.
        nodeid: the id, as pytest has it: zoo, model and check with `::` between them.
        reason: the reason code of a skip or an error, such as `output_is_backbone`.
        family: the architecture family that the zoo names.
        peak_memory_mb: the most memory that the model had taken by then, beside what its process held before it,
            in units of 2**20 bytes; None where that was not measured.
        heads: paths of the heads that were swapped.
        anatomy: the heads in full, and the way to each; in a journal on the first result of a model alone.
        version: of what the model was run, such as `torch 2.4.1`, where a journal holds several versions.
        found: what the outcome would be without a file of expectations; empty where it is the same.
        expected: what the file of expectations, or a strict mark of pytest, says of it, and why; empty where neither
            does.
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
    anatomy: Anatomy | None = None
    version: str = ""
    found: str = ""
    expected: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"unknown outcome {self.outcome!r}: it must be one of {', '.join(OUTCOMES)}")

    @property
    def bad(self) -> bool:
        """Whether somebody has to look at it: also where it passes, and is expected to fail."""
        return self.outcome in BAD or (self.outcome == "xpassed" and bool(self.expected))

    @property
    def told(self) -> str:
        """Why the outcome is what it is: what was found, and then what a file of expectations says of it."""
        return "\n".join(filter(None, [self.message, self.expected]))

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        data = {item.name: getattr(self, item.name) for item in fields(self)} | {"heads": list(self.heads)}
        anatomy = data.pop("anatomy")
        if anatomy is not None:
            data["anatomy"] = anatomy.to_json()
        for name in ("version", "found", "expected"):  # most have none
            if not data[name]:
                del data[name]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """The result that `to_json` wrote; fields that a later version added are left out.

        Raises:
            ValueError: a field that every result has is missing, the outcome is unknown, or a value is of another kind
                than the field.
        """
        missing = [name for name in ("zoo", "model", "check", "outcome") if name not in data]
        if missing:
            raise ValueError(f"a result needs the fields {', '.join(missing)}")
        values = {item.name: data[item.name] for item in fields(cls) if item.name in data}
        for name, value in values.items():
            if not _KINDS.get(name, _is_text)(value):
                raise ValueError(f"{name} cannot be {value!r}")
        values["heads"] = tuple(values.get("heads", ()))
        if values.get("anatomy") is not None:
            try:
                values["anatomy"] = Anatomy.from_json(values["anatomy"])
            except (TypeError, KeyError, OverflowError) as error:
                raise ValueError(f"anatomy is none: {error!r}") from error
        return cls(**values)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


_KINDS: dict[str, Callable[[Any], bool]] = {
    "seconds": _is_amount,
    "peak_memory_mb": lambda value: value is None or _is_amount(value),
    "heads": lambda value: isinstance(value, (list, tuple)) and all(map(_is_text, value)),
    "anatomy": lambda value: value is None or isinstance(value, dict),
}
"""What a field may hold that is not text."""
