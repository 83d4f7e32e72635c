"""Plant faults for the opt-in checks: a head in the place of the new one, or a fault in the engine."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from torch import nn

from pytest_headswap.case.build import build_case
from pytest_headswap.case.case import Case
from pytest_headswap.case.options import CaseOptions
from pytest_headswap.checks import run_check
from pytest_headswap.zoo import ModelSpec
from tests.faulty_net import FaultyNet, inputs

NET = ModelSpec("net", FaultyNet, inputs, FaultyNet)


@dataclass(frozen=True)
class Fault:
    """A fault, the check that must fail, and a pattern of its message."""

    check: str
    message: str
    head: Callable[[Any], nn.Module] | None = None
    spec: ModelSpec = NET
    engine: Callable[[pytest.MonkeyPatch], None] | None = None

    def __str__(self) -> str:
        return f"{self.check} {getattr(self.head or self.engine or self.spec.build, '__name__', '')}"


def opt_in_case(spec: ModelSpec, evidence: str = "numeric") -> Case:
    """Build a case with 5 classes."""
    return build_case("testzoo", spec, CaseOptions(5, evidence, "cpu"))


def assert_fails(fault: Fault, monkeypatch: pytest.MonkeyPatch, evidence: str = "numeric") -> None:
    """Plant a fault, and assert that its check fails and names it. The model as built has no fault."""
    needed(fault.check)
    if fault.engine is not None:
        fault.engine(monkeypatch)
    case = opt_in_case(fault.spec)
    if fault.head is not None:
        children = case.model._modules
        case.swap._changes.set(children, "fc", fault.head(children["fc"]))
    finding = run_check(fault.check, case)
    assert finding.outcome == "failed", finding
    assert re.search(fault.message, finding.message), finding.message
    assert finding.evidence == evidence


def needed(check: str) -> None:
    """Skip the test if the check needs a package that is not installed."""
    if check == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
