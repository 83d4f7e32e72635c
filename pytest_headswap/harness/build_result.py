"""What a result holds, for one check of one model: the same with pytest and without."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pytest_headswap.harness.failure_text import message_of
from pytest_headswap.head import Head
from pytest_headswap.results.head_record import Anatomy, HeadFacts
from pytest_headswap.results.ids import CheckId

if TYPE_CHECKING:
    from pytest_headswap.case.case import Case
    from pytest_headswap.case.finding import Finding
    from pytest_headswap.results import Outcome


_PROPERTIES = (
    *("zoo", "model", "check", "outcome", "evidence", "reason", "message"),
    *("family", "heads", "peak_memory_mb", "repro"),
)


def facts_of(
    test: CheckId,
    outcome: Outcome,
    *,
    message: str,
    reason: str,
    finding: Finding | None = None,
    repro: str = "",
    family: str = "",
    anatomy: dict[str, Any] | None = None,
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
        "heads": [head["path"] for head in anatomy["heads"]] if anatomy is not None else [],
        "anatomy": anatomy,
    }


def properties_of(facts: dict[str, Any]) -> dict[str, str]:
    """What of a result stands in JUnit's XML, as properties of the test; empty ones are left out."""
    named = {name: facts[name] for name in _PROPERTIES}
    return {
        name: ", ".join(value) if isinstance(value, list) else str(value)
        for name, value in named.items()
        if value not in ("", None, [])
    }


def told(finding: Finding) -> str:
    """The message of a finding as it stands in a result."""
    if finding.exception is not None:
        return message_of(finding.exception)
    coded = finding.outcome == "skipped" and finding.reason
    return f"[{finding.reason}] {finding.message}" if coded else finding.message


def anatomy_of(case: Case) -> dict[str, Any]:
    """The heads that were swapped, and the way to each."""
    heads = []
    for head, old in zip(case.swap.heads, case.swap.old_heads, strict=True):
        shared = {item.name: getattr(head, item.name) for item in fields(Head)}
        heads.append(HeadFacts(**shared, old_classes=old.num_classes))
    return Anatomy(tuple(heads), case.swap.notes).to_json()
