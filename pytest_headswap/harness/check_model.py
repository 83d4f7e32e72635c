"""Run the checks without pytest: `check_headswap(model)` returns the same results as a pytest run over a zoo."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_headswap.case.options import CaseOptions
from pytest_headswap.harness.build_result import build_result, finding_message, swapped_heads
from pytest_headswap.harness.case_options import make_case_options
from pytest_headswap.harness.failure_text import error_message, reason_code
from pytest_headswap.harness.memory_budget import MemoryMeter
from pytest_headswap.harness.options import requested_checks
from pytest_headswap.harness.pytest_outcomes import apply_pytest_outcome, is_skip, is_xfail
from pytest_headswap.harness.target import Target, resolve_target
from pytest_headswap.results import Result

if TYPE_CHECKING:
    from torch import nn

    from pytest_headswap.case.finding import Finding
    from pytest_headswap.checks import Check
    from pytest_headswap.engine import NoHeadError
    from pytest_headswap.results import Outcome
    from pytest_headswap.zoo import ModelSpec


def check_headswap(
    model: nn.Module | ModelSpec | str,
    num_classes: int = CaseOptions.num_classes,
    example_inputs: Any = None,
    *,
    checks: str | Iterable[str | Check] | None = None,
    build_native: Callable[[int], nn.Module] | None = None,
    evidence: str = "auto",
    device: str = "auto",
    device_import: str = "",
    memory_limit: str = "auto",
    name: str | None = None,
    head: str | None = None,
) -> list[Result]:
    """Swap the head of a model and run the checks on it. Return their findings as results instead of raising.

    >>> for result in check_headswap(torch.nn.Linear(8, 1000)):
    ...     print(result.check, result.outcome, result.message)

    Args:
        model: a module (restored afterwards), a `ModelSpec`, or `zoo:model` as text, such as `timm:resnet18`.
        num_classes: class count of the new head (7 by default).
        example_inputs: a tensor, a tuple or a mapping of keyword arguments, as for `swap_head`. None: inferred.
        checks: names of checks as a list or separated by commas, or your own `Check` objects. None: the default
            checks, which is all but the opt-in ones. `+name` adds one, `!name` excludes one.
        build_native: builds the model for a given class count, for `native_parity`.
        evidence: `auto`, `abstract` or `numeric`.
        device: `auto`, `cpu`, or a type of device with or without an index, such as `cuda:1` or `mps`.
        device_import: module that defines the type of device, such as `torch_npu`; it is imported first.
        memory_limit: memory budget of the model, such as `2.5GiB`. A model whose values exceed it is
            checked with abstract evidence. The checks run in this process, so the budget is not enforced while they
            run.
        name: name of the model in the results. None: the name of its class or of its spec.
        head: path of the head to swap, for a model with several heads that predict different classes.

    Returns:
        One result for each check, in running order. If the model cannot be built, swapped or run, every result is
        `error`. If it has no head, every result is `skipped` with the reason code. `pytest.skip`, `pytest.fail` and
        `sys.exit` in a check or a model also become results. Only KeyboardInterrupt is raised.

    Raises:
        ZooError: there is no such zoo or model.
        ValueError: another argument is invalid.
        TypeError: `model` is not a module, a `ModelSpec` or text.
    """
    chosen = requested_checks(checks)
    options = make_case_options(num_classes, evidence, device, device_import, memory_limit)
    target = resolve_target(model, example_inputs, build_native, name, head)
    return _results(target, chosen, options)


def _results(target: Target, checks: tuple[Check, ...], options: CaseOptions) -> list[Result]:
    from pytest_headswap.case.finding import error_text
    from pytest_headswap.checks import run_check
    from pytest_headswap.engine import ZOO_REFUSED, NoHeadError

    previous = time.perf_counter()
    meter = MemoryMeter(reset_peak=False)  # do not reset the peak memory of the user's process

    def result(check: Check, outcome: Outcome, message: str, reason: str, **more: Any) -> Result:
        nonlocal previous
        start, previous = previous, time.perf_counter()
        found = build_result(
            target.test_id(check.name),
            outcome,
            message,
            reason,
            repro=target.repro(check.name, options),
            family=target.spec.family,
            peak_memory_mb=meter.peak_mb(),
            **more,
        )
        return replace(found, seconds=round(previous - start, 4))

    results: list[Result]
    outcome: Outcome
    try:
        case = target.build(options)
    except NoHeadError as error:
        results = []
        for check in checks:
            if check.needs_head or error.reason == ZOO_REFUSED:
                results.append(result(check, "skipped", error.message, error.reason))
                continue
            finding = apply_pytest_outcome(check_without_head(target, check, options, error))
            outcome = "xfailed" if is_xfail(finding.exception) else finding.outcome
            results.append(result(check, outcome, finding_message(finding), finding.reason, finding=finding))
        return results
    except KeyboardInterrupt:
        raise  # it may be Ctrl-C
    except BaseException as error:  # noqa: BLE001 - the code of a model may raise anything, SystemExit too
        outcome = "skipped" if is_skip(error) else "xfailed" if is_xfail(error) else "error"
        message = error_text(error) if outcome == "skipped" else error_message(error)
        return [
            result(check, outcome, message, reason_code(error), error=None if number else error)  # as in a journal
            for number, check in enumerate(checks)
        ]
    results = []
    try:
        anatomy = swapped_heads(case)
        for check in checks:
            finding = apply_pytest_outcome(run_check(check, case))
            item = result(
                check,
                "xfailed" if is_xfail(finding.exception) else finding.outcome,
                finding_message(finding),
                finding.reason,
                finding=finding,
                anatomy=anatomy,
                error=finding.exception,
            )
            results.append(replace(item, anatomy=None) if results else item)  # on the first only
    finally:
        case.swap.restore()
    return results


def check_without_head(target: Target, check: Check, options: CaseOptions, no_head: NoHeadError) -> Finding:
    """Run a check on a model that has no head. The model keeps its modes."""
    from pytest_headswap.checks import run_check
    from pytest_headswap.checks.registry import finding_of_error
    from pytest_headswap.engine.pytorch import ModuleState

    try:
        case = target.build_without_head(options, no_head)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - the code of a model may raise anything, SystemExit too
        return finding_of_error(error)
    state = ModuleState(case.model)
    try:
        return run_check(check, case)
    finally:
        state.restore()
