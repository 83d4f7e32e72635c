"""What a result holds, for one check of one model: the same with pytest and without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_headswap._plugin.failure import message_of
from pytest_headswap._plugin.ids import CheckId

if TYPE_CHECKING:
    from pytest_headswap.checks import Case, Finding
    from pytest_headswap.report import Outcome


def facts_of(
    test: CheckId,
    outcome: Outcome,
    *,
    message: str,
    reason: str,
    finding: Finding | None = None,
    repro: str = "",
    family: str = "",
    heads: tuple[str, ...] = (),
    taken_mb: float | None = None,
) -> dict[str, Any]:
    """The fields of a result but its time, as plain data, which can be sent from one process to another."""
    return {
        "zoo": test.zoo,
        "model": test.model,
        "check": test.check,
        "outcome": outcome,
        "evidence": finding.evidence if finding is not None else "",
        "message": message,
        "repro": repro,
        "nodeid": str(test),
        "reason": reason,
        "family": family,
        "peak_memory_mb": taken_mb,
        "heads": list(heads),
    }


def told(finding: Finding) -> str:
    """The message of a finding as it stands in a result."""
    if finding.exception is not None:
        return message_of(finding.exception)
    return f"[{finding.reason}] {finding.message}" if finding.outcome == "skipped" else finding.message


def reason_of(error: BaseException | None) -> str:
    """The reason code of an error; empty where it has none."""
    return str(getattr(error, "reason", ""))


def head_paths(case: Case) -> tuple[str, ...]:
    """Where the heads are that were swapped."""
    return tuple(head.path for head in case.swap.heads)
