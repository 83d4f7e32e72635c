"""`parametrize_with_checks`: the checks as parameters of a user's test, in the style of scikit-learn.

All checks of a model share one case, which is released after the last of them. The new head is in place only while a
check runs, so other tests see the user's model unchanged.
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

    `check(model)` raises `CheckFailed` if the check finds a fault, and skips if it does not apply. The ids are
    `models::Net::output_shape` and `timm::resnet18::output_shape`. Each model is built when its first test runs.

    Args:
        models: a list of modules, `zoo:model` texts or `ModelSpec`s, or just one of them.
        num_classes: class count of the new head.
        example_inputs: as for `swap_head`; used for all models.
        checks: names of checks as a list or separated by commas, or your own `Check` objects. None: all checks.
        native: builds the model for a given class count, for `native_parity`.
        evidence: `auto`, `structure` or `numeric`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        memory: memory budget of a model, such as `2.5GiB`. A model whose values exceed it is checked by structure.
        head: path of the head to swap, for models with several heads that predict different classes.

    Returns:
        A mark that parametrizes the test's arguments `model` and `check`.

    Raises:
        ZooError, ValueError, TypeError: as for `check_headswap`, but during collection.
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
    """One check of one model. Call it with the model to run the check."""

    check: Check
    given: nn.Module | ModelSpec | str
    subject: Subject
    options: CaseOptions

    def __call__(self, model: nn.Module | ModelSpec | str) -> None:
        """Run the check on the test's model; raise if it finds a fault."""
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
            raise CheckFailed(finding.message)  # raised here: the check's own frames tell the user nothing
        if finding.exception is not None:
            raise finding.exception

    def __repr__(self) -> str:
        return self.check.name


class _Shared:
    """Holds the case of the last model that was checked, or the exception from building it."""

    def __init__(self) -> None:
        self.subject: Subject | None = None
        self.case: Case | None = None
        self.error: BaseException | None = None

    def case_of(self, check: ModelCheck) -> Case:
        """Return the case of this check's model with the new head in place; the caller restores the old head."""
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
        """Release the model."""
        if self.subject is not None:
            self.subject = self.case = self.error = None
            forget_last_failure()
            gc.collect()


_shared = _Shared()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """Release a model after the last of its consecutive checks."""
    try:
        return (yield)
    finally:
        callspec = getattr(nextitem, "callspec", None)
        check = callspec.params.get("check") if callspec is not None else None
        if not isinstance(check, ModelCheck) or check.subject is not _shared.subject:
            _shared.release()
