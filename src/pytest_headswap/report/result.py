"""One result: what one check said about one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Outcome = Literal["passed", "failed", "skipped", "xfailed", "xpassed", "error", "crashed", "timeout"]

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class Result:
    """What one check said about one model.

    Attributes:
        zoo, model, check: which check of which model, unescaped.
        outcome: one of `OUTCOMES`. `failed`: the check found a fault. `error`: the check could not be
            made, because the model could not be built, swapped or run. `crashed`: the process died.
        evidence: what the verdict rests on (`structure`, with how the model was run
            where meta tensors did not do, or `numeric`); empty where there is no verdict.
        seconds: wall time of the test. The first check of a model includes building and swapping it.
        message: why, in words; empty for a plain pass.
        repro: the command that runs this check of this model alone; empty for a model that no zoo holds.
        nodeid: the id, as pytest has it: zoo, model and check with `::` between them.
        reason: the reason code of a skip or an error, such as `output_is_backbone`.
        family: the architecture family that the zoo names.
        peak_memory_mb: the most memory the process had held by then, earlier models included.
        heads: paths of the heads that were swapped.
        found: what the outcome would be without a file of expectations; empty where it is the same.
        expected: what the file of expectations says of it, and why; empty where it says nothing.
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
    found: str = ""
    expected: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"unknown outcome {self.outcome!r}: it must be one of {', '.join(OUTCOMES)}")

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        return {**asdict(self), "heads": list(self.heads)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """The result that `to_json` wrote; fields that a later version added are left out.

        Raises:
            ValueError: a field that every result has is missing, or the outcome is unknown.
        """
        missing = [name for name in ("zoo", "model", "check", "outcome") if name not in data]
        if missing:
            raise ValueError(f"a result needs the fields {', '.join(missing)}")
        known = {item.name for item in fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        return cls(**{**values, "heads": tuple(values.get("heads", ()))})
