"""`parametrize_with_checks`: the checks as parameters of a test of the user's, for those used to scikit-learn's.

All checks of a model share one case, which is let go behind the last of them. The new head is in place only while a
check runs, so that a model that was passed in is for all other tests what it was.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.harness.garbage import forget_last_failure
from pytest_headswap.harness.options import CaseOptions

if TYPE_CHECKING:
    from torch import nn

    from pytest_headswap.case.case import Case
    from pytest_headswap.checks import Check
    from pytest_headswap.harness.target import Subject
    from pytest_headswap.zoo import ModelSpec


def parametrize_with_checks(
    models: Iterable[nn.Module | ModelSpec | str],
    num_classes: int = 7,
    *,
    example_inputs: Any = None,
    checks: str | Iterable[str | Check] | None = None,
    native: Callable[[int], nn.Module] | None = None,
    evidence: str = "auto",
    device: str = "auto",
    memory: str = "auto",
    head: str | None = None,
) -> pytest.MarkDecorator:
    """Parametrize a test with the checks of some models.

    >>> @parametrize_with_checks([Net(), "timm:resnet18"])
    ... def test_headswap(model, check):
    ...     check(model)

    `check(model)` raises `CheckFailed` where the check finds a fault, and skips where it does not apply. The ids are
    `models::Net::output_shape` and `timm::resnet18::output_shape`. No model is built before its first test.

    Args:
        models: modules, `zoo:model` or `ModelSpec`; or one of them.
        num_classes: class count of the new head.
        example_inputs: as for `swap_head`, for all of the models.
        checks: names of checks, as a list or with commas between, or a `Check` of your own. None: all.
        native: given a class count, returns the model as it is built for that count, for `native_parity`.
        evidence: `auto`, `structure` or `numeric`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        memory: what a model may take, such as `2.5GiB`: one that would take more is given structure evidence.
        head: path of the one head to swap, for models whose heads mean different things.

    Returns:
        A mark that gives the test its arguments `model` and `check`.

    Raises:
        ZooError, ValueError, TypeError: as `check_headswap`; while the tests are collected.
    """
    from pytest_headswap.harness.options import case_options, chosen_checks
    from pytest_headswap.harness.target import subject_of

    chosen = chosen_checks(checks)
    options = case_options(num_classes, evidence, device, memory)
    parameters, names = [], Counter[str]()
    for model in _several(models):
        subject = subject_of(model, example_inputs, native, head=head)
        names[str(subject.id_of(""))] += 1
        if (count := names[str(subject.id_of(""))]) > 1:
            subject = replace(subject, spec=replace(subject.spec, name=f"{subject.spec.name}_{count}"), by_name=False)
        parameters += [
            pytest.param(model, ModelCheck(check, model, subject, options), id=str(subject.id_of(check.name)))
            for check in chosen
        ]
    return pytest.mark.parametrize(("model", "check"), parameters)


def _several(models: Any) -> Iterable[Any]:
    from torch import nn

    from pytest_headswap.zoo import ModelSpec

    return [models] if isinstance(models, (str, nn.Module, ModelSpec)) else models


@dataclass(frozen=True, eq=False)
class ModelCheck:
    """One check of one model. Called with the model, it raises what it finds."""

    check: Check
    given: nn.Module | ModelSpec | str
    subject: Subject
    options: CaseOptions

    def __call__(self, model: nn.Module | ModelSpec | str) -> None:
        """Make the check on the model that the test was given with it."""
        __tracebackhide__ = True
        from pytest_headswap.case.finding import CheckFailed
        from pytest_headswap.checks import run_check
        from pytest_headswap.engine import NoHeadError
        from pytest_headswap.harness.build_result import told

        if model is not self.given:
            raise TypeError("a check takes the model that the test was given with it: write check(model)")
        try:
            case = _shared.case_of(self)
        except NoHeadError as error:
            pytest.skip(error.message)
        try:
            finding = run_check(self.check, case)
        finally:
            case.swap.restore()
        if finding.outcome == "skipped":
            pytest.skip(told(finding))
        if finding.outcome == "failed":
            raise CheckFailed(finding.message)  # anew: the way through the check tells the user nothing
        if finding.exception is not None:
            raise finding.exception

    def __repr__(self) -> str:
        return self.check.name


class _Shared:
    """The case of the last model that was checked, or what building it raised."""

    def __init__(self) -> None:
        self.subject: Subject | None = None
        self.case: Case | None = None
        self.error: BaseException | None = None

    def case_of(self, check: ModelCheck) -> Case:
        """The case of the model of this check, with the new head in place; the caller puts the old one back."""
        if self.subject is not check.subject:
            self.release()
            self.subject = check.subject
            try:
                self.case = check.subject.build(check.options)
            except BaseException as error:
                self.error = error
                raise
            return self.case
        if self.case is None:
            assert self.error is not None, "a subject has one of the two"
            raise self.error
        self.case.swap.reapply()
        return self.case

    def release(self) -> None:
        """Let go of the model."""
        if self.subject is not None:
            self.subject = self.case = self.error = None
            forget_last_failure()
            gc.collect()


_shared = _Shared()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """Let go of a model behind the last of its checks that run in a row."""
    try:
        return (yield)
    finally:
        callspec = getattr(nextitem, "callspec", None)
        check = callspec.params.get("check") if callspec is not None else None
        if not isinstance(check, ModelCheck) or check.subject is not _shared.subject:
            _shared.release()
