"""The checks without pytest: `check_headswap(model)` gives the results that a run of pytest over a zoo writes down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_headswap.harness.build_result import anatomy_of, facts_of, told
from pytest_headswap.harness.ended import by_pytest, is_expected, is_skip
from pytest_headswap.harness.failure_text import message_of, reason_of
from pytest_headswap.harness.memory_budget import Meter
from pytest_headswap.harness.options import (
    CaseOptions,
    case_options,
    chosen_checks,
)
from pytest_headswap.harness.target import Subject, subject_of
from pytest_headswap.results import Result

if TYPE_CHECKING:
    from torch import nn

    from pytest_headswap.checks import Check
    from pytest_headswap.results import Outcome
    from pytest_headswap.zoo import ModelSpec


def check_headswap(
    model: nn.Module | ModelSpec | str,
    num_classes: int = 7,
    example_inputs: Any = None,
    *,
    checks: str | Iterable[str | Check] | None = None,
    native: Callable[[int], nn.Module] | None = None,
    evidence: str = "auto",
    device: str = "auto",
    memory: str = "auto",
    name: str | None = None,
    head: str | None = None,
) -> list[Result]:
    """Swap the head of a model and make the checks on it; nothing is raised for what they find.

    >>> for result in check_headswap(torch.nn.Linear(8, 1000)):
    ...     print(result.check, result.outcome, result.message)

    Args:
        model: a module, which is left exactly as it was; or `zoo:model`, such as `timm:resnet18`; or a `ModelSpec`.
        num_classes: class count of the new head.
        example_inputs: as for `swap_head`: a tensor, a tuple or a mapping of keywords. None: worked out.
        checks: names of checks, as a list or with commas between, or a `Check` of your own. None: all.
        native: given a class count, returns the model as it is built for that count, for `native_parity`.
        evidence: `auto`, `structure` or `numeric`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        memory: what the model may take, such as `2.5GiB`: one that would take more is given structure evidence. The
            checks run in this process, where nothing ends a model that takes more all the same.
        name: what the model is called in the results, in place of the name of its class.
        head: path of the one head to swap, for a model whose heads mean different things.

    Returns:
        One result for each check, in running order. A model that cannot be built, swapped or run has `error` for
        all of them, and one without a head `skipped` with the reason code. `pytest.skip`, `pytest.fail` and
        `sys.exit` in a check or a model end in a result too; only KeyboardInterrupt is raised.

    Raises:
        ZooError: there is no such zoo or model.
        ValueError: another argument cannot be used.
        TypeError: `model` is none.
    """
    chosen = chosen_checks(checks)
    options = case_options(num_classes, evidence, device, memory)
    subject = subject_of(model, example_inputs, native, name, head)
    return _results(subject, chosen, options)


def _results(subject: Subject, checks: tuple[Check, ...], options: CaseOptions) -> list[Result]:
    from pytest_headswap.case.finding import text_of
    from pytest_headswap.checks import run_check
    from pytest_headswap.engine import NoHeadError

    last = time.perf_counter()
    meter = Meter(anew=False)  # what the process held at most is the user's own to know

    def result(check: Check, outcome: Outcome, message: str, reason: str, **more: Any) -> Result:
        nonlocal last
        start, last = last, time.perf_counter()
        facts = facts_of(
            subject.id_of(check.name),
            outcome,
            message=message,
            reason=reason,
            repro=subject.repro(check.name, options),
            family=subject.spec.family,
            taken_mb=meter.taken_mb(),
            **more,
        )
        return Result.from_json({**facts, "seconds": round(last - start, 4)})

    try:
        case = subject.build(options)
    except NoHeadError as error:
        return [result(check, "skipped", error.message, error.reason) for check in checks]
    except KeyboardInterrupt:
        raise  # it may be Ctrl-C
    except BaseException as error:  # noqa: BLE001 - the code of a model may raise anything, SystemExit too
        outcome: Outcome = "skipped" if is_skip(error) else "xfailed" if is_expected(error) else "error"
        message = text_of(error) if outcome == "skipped" else message_of(error)
        return [result(check, outcome, message, reason_of(error)) for check in checks]
    results: list[Result] = []
    try:
        anatomy = anatomy_of(case)
        for check in checks:
            finding = by_pytest(run_check(check, case))
            known = {"finding": finding, "anatomy": anatomy}
            item = result(
                check,
                "xfailed" if is_expected(finding.exception) else finding.outcome,
                told(finding),
                finding.reason,
                **known,
            )
            results.append(replace(item, anatomy=None) if results else item)  # once, as in a journal
    finally:
        case.swap.restore()
    return results
