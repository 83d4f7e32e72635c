"""The registry of checks, in running order, and `run_check`.

A check returns a note (empty, or what it could not look at), or raises `CheckFailed` or `CheckSkipped`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from pytest_headswap.case.build import build_case, build_case_without_head
from pytest_headswap.case.case import Case
from pytest_headswap.case.finding import SKIP_REASONS, CheckFailed, CheckSkipped, Finding, describe_error, error_text
from pytest_headswap.checks import device_placement as placement
from pytest_headswap.checks.amp import amp
from pytest_headswap.checks.compile import compile_evidence, compile_model
from pytest_headswap.checks.device_placement import device_placement
from pytest_headswap.checks.export import export
from pytest_headswap.checks.frozen_backbone import frozen_backbone, frozen_evidence
from pytest_headswap.checks.grad_checkpointing import grad_checkpointing
from pytest_headswap.checks.gradient_flow import gradient_flow
from pytest_headswap.checks.hub_round_trip import hub_round_trip
from pytest_headswap.checks.metadata import metadata
from pytest_headswap.checks.native_parity import native_parity
from pytest_headswap.checks.onnx import onnx
from pytest_headswap.checks.output_shape import output_shape
from pytest_headswap.checks.round_trip import round_trip
from pytest_headswap.checks.state_dict import state_dict
from pytest_headswap.engine import HeadSwapError

__all__ = [
    "BUILTIN_CHECKS",
    "CHECKS",
    "OPT_IN_CHECKS",
    "SKIP_REASONS",
    "Case",
    "Check",
    "CheckFailed",
    "CheckSkipped",
    "Finding",
    "build_case",
    "build_case_without_head",
    "finding_of_error",
    "run_check",
]


_CASE_EVIDENCE: Callable[[Case], str] = attrgetter("evidence")


@dataclass(frozen=True)
class Check:
    """A named check.

    Attributes:
        name: used in ids and options.
        run: inspects a case and leaves it unchanged. Returns a note for the report or None, or raises `CheckFailed`
            or `CheckSkipped`.
        evidence: returns what a verdict on a case rests on; by default the evidence of the case.
        needs_head: False: the check also runs on models without a head. There `case.no_head` says why, `case.model` is
            the model as built, and `case.swap` raises `NoHeadError`.
        opt_in: True: the check runs only if an option, an argument or an id names it.
    """

    name: str
    run: Callable[[Case], str | None]
    evidence: Callable[[Case], str] = _CASE_EVIDENCE
    needs_head: bool = True
    opt_in: bool = False


# In running and listing order: the cheapest and most informative first. Every model gets these.
CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        Check("output_shape", output_shape),
        Check("native_parity", native_parity, attrgetter("abstract_evidence")),
        Check("metadata", metadata, attrgetter("abstract_evidence")),
        Check("state_dict", state_dict),
        Check("gradient_flow", gradient_flow),
        Check("frozen_backbone", frozen_backbone, frozen_evidence),
        Check("round_trip", round_trip),
        Check("device_placement", device_placement, placement.device_evidence),
    )
}

# The cheapest first.
OPT_IN_CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        Check("amp", amp, opt_in=True),
        Check("grad_checkpointing", grad_checkpointing, opt_in=True),
        Check("export", export, opt_in=True),
        Check("hub_round_trip", hub_round_trip, opt_in=True),
        Check("compile", compile_model, compile_evidence, opt_in=True),
        Check("onnx", onnx, opt_in=True),
    )
}

BUILTIN_CHECKS = {**CHECKS, **OPT_IN_CHECKS}


def run_check(check: str | Check, case: Case) -> Finding:
    """Run one check with its own random seed, and return its finding.

    Every exception of the check becomes part of the finding, except KeyboardInterrupt, which may be Ctrl-C.
    """
    if isinstance(check, str):
        check = BUILTIN_CHECKS[check]
    try:
        return _run(check, case)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a model's own code may raise anything, SystemExit too
        return finding_of_error(error)


def finding_of_error(error: BaseException) -> Finding:
    """Return the finding for an exception that is not a verdict."""
    if isinstance(error, HeadSwapError):
        return Finding("error", error.message, reason=error.reason, exception=error)
    return Finding("error", describe_error(error), exception=error)


def _run(check: Check, case: Case) -> Finding:
    """Return the verdict of the check; propagate any other exception."""
    try:
        with case.seeded(check.name):
            note: object = check.run(case)
    except CheckFailed as failure:
        return Finding("failed", error_text(failure), check.evidence(case), exception=failure)
    except CheckSkipped as skip:
        return Finding("skipped", str(skip.message), reason=skip.reason)
    if not isinstance(note, (str, type(None))):
        raise TypeError(
            f"the check {check.name} returned {type(note).__name__}. A check returns None or a note as text, "
            "and raises CheckFailed for a fault"
        )
    notes = (note, case.abstract_reason if check.evidence in (_CASE_EVIDENCE, frozen_evidence) else "")
    return Finding("passed", "; ".join(filter(None, notes)), check.evidence(case))
