"""Garbage collection runs where it is useful, and keeps the user's settings."""

from __future__ import annotations

import gc
import importlib
from importlib.util import find_spec

import pytest

from pytest_headswap.harness.garbage import gc_disabled_for_imports


@pytest.mark.parametrize("enabled", [True, False])
def test_an_import_leaves_the_gc_enabled_or_disabled_as_before(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ModuleNotFoundError), gc_disabled_for_imports():
            importlib.import_module("not_there" if not gc.isenabled() else "gc")
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_a_zoo_run_leaves_the_gc_enabled(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import gc\ndef pytest_sessionstart():\n    assert gc.isenabled()\n")
    pytester.runpytest_subprocess(
        "--headswap-zoo=builtin", "--headswap-models=root_linear", "--headswap-checks=metadata"
    ).assert_outcomes(passed=1)


def test_a_refused_model_is_not_released_since_nothing_was_built(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(
        """
from pytest_headswap.isolation.subprocess_executor import SubprocessExecutor
from pytest_headswap.zoo import ModelSpec, Zoo, load_zoo, register

real = load_zoo("builtin")["root_linear"]
asked = []
ask = SubprocessExecutor._send

def noting(self, request, doing):
    asked.append(request.operation)
    return ask(self, request, doing)

SubprocessExecutor._send = noting

def spec(name):
    return ModelSpec(name, build=dict, skip_reason="it is empty") if name.startswith("empty") else real

register("some", lambda: Zoo("some", ("empty1", "empty2", "full"), spec))

def pytest_unconfigure():
    print("\\nasked", *asked)
"""
    )
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)
    result = pytester.runpytest_subprocess("--headswap-zoo=some", "--headswap-checks=metadata", "-s")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["asked self_test build build build check release"])


@pytest.mark.parametrize("flags", ["-n 2", "--pdb", "--collect-only -q"])
def test_a_run_over_timm_ends_without_a_report_of_leaks(pytester: pytest.Pytester, flags: str) -> None:
    result = run_over_timm(pytester, flags)
    assert result.ret == 0
    assert leaks_in(result) == []


def test_an_interrupted_run_over_timm_ends_without_a_report_of_leaks(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("def pytest_runtest_teardown():\n    raise KeyboardInterrupt\n")
    result = run_over_timm(pytester, "")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert leaks_in(result) == []


def run_over_timm(pytester: pytest.Pytester, flags: str) -> pytest.RunResult:
    """Run one check on one model of timm; skip where timm or triton is missing."""
    if not find_spec("timm"):
        pytest.skip("timm is not installed")
    if not find_spec("triton"):
        pytest.skip("nanobind reports leaks, and triton is what uses nanobind")
    options = ("--headswap-zoo=timm", "--headswap-models=resnet18", "--headswap-checks=metadata")
    return pytester.runpytest_subprocess(*options, *flags.split())


def leaks_in(result: pytest.RunResult) -> list[str]:
    """Return the lines of stderr in which nanobind reports leaks."""
    return [line for line in result.errlines if "nanobind" in line or "leaked" in line]
