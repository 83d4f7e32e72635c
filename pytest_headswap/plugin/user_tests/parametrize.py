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

from pytest_headswap.case.options import CaseOptions
from pytest_headswap.harness.garbage import clear_last_exception

if TYPE_CHECKING:
    from torch import nn

    from pytest_headswap.case.case import Case
    from pytest_headswap.checks import Check
    from pytest_headswap.harness.target import Target
    from pytest_headswap.zoo import ModelSpec


def parametrize_with_checks(
    models: Iterable[nn.Module | ModelSpec | str],
    num_classes: int = CaseOptions.num_classes,
    *,
    example_inputs: Any = None,
    checks: str | Iterable[str | Check] | None = None,
    build_native: Callable[[int], nn.Module] | None = None,
    evidence: str = "auto",
    device: str = "auto",
    device_import: str = "",
    memory_limit: str = "auto",
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
        num_classes: class count of the new head (7 by default).
        example_inputs: as for `swap_head`; used for all models.
        checks: names of checks as a list or separated by commas, or your own `Check` objects. None: the default
            checks, which is all but the opt-in ones. `+name` adds one, `!name` excludes one.
        build_native: builds the model for a given class count, for `native_parity`.
        evidence: `auto`, `abstract` or `numeric`.
        device: `auto`, `cpu`, or a type of device with or without an index, such as `cuda:1` or `mps`.
        device_import: module that defines the type of device, such as `torch_npu`; it is imported first.
        memory_limit: memory budget of a model, such as `2.5GiB`. A model whose values exceed it is checked
            with abstract evidence.
        head: path of the head to swap, for models with several heads that predict different classes.

    Returns:
        A mark that parametrizes the test's arguments `model` and `check`.

    Raises:
        ZooError, ValueError, TypeError: as for `check_headswap`, but during collection.
    """
    from pytest_headswap.harness.case_options import make_case_options
    from pytest_headswap.harness.options import requested_checks
    from pytest_headswap.harness.target import resolve_target

    chosen = requested_checks(checks)
    options = make_case_options(num_classes, evidence, device, device_import, memory_limit)
    parameters, names = [], Counter[str]()
    for model in _as_iterable(models):
        target = resolve_target(model, example_inputs, build_native, head=head)
        names[str(target.test_id(""))] += 1
        if (count := names[str(target.test_id(""))]) > 1:
            target = replace(target, spec=replace(target.spec, name=f"{target.spec.name}_{count}"), reproducible=False)
        parameters += [
            pytest.param(model, BoundCheck(check, model, target, options), id=str(target.test_id(check.name)))
            for check in chosen
        ]
    return pytest.mark.parametrize(("model", "check"), parameters)


def _as_iterable(models: Any) -> Iterable[Any]:
    from torch import nn

    from pytest_headswap.zoo import ModelSpec

    return [models] if isinstance(models, (str, nn.Module, ModelSpec)) else models


@dataclass(frozen=True, eq=False)
class BoundCheck:
    """One check of one model. Call it with the model to run the check."""

    check: Check
    model: nn.Module | ModelSpec | str
    target: Target
    options: CaseOptions

    def __call__(self, model: nn.Module | ModelSpec | str) -> None:
        """Run the check on the test's model; raise if it finds a fault."""
        __tracebackhide__ = True
        from pytest_headswap.case.finding import CheckFailed
        from pytest_headswap.checks import run_check
        from pytest_headswap.engine import ZOO_REFUSED, NoHeadError
        from pytest_headswap.harness.build_result import finding_message
        from pytest_headswap.harness.check_model import check_without_head

        if model is not self.model:
            raise TypeError("call check(model) with the `model` argument of this test")
        try:
            case = _case_cache.case_of(self)
        except NoHeadError as error:
            if self.check.needs_head or error.reason == ZOO_REFUSED:
                pytest.skip(error.message)
            finding = check_without_head(self.target, self.check, self.options, error)
        else:
            try:
                finding = run_check(self.check, case)
            finally:
                case.swap.restore()
        if finding.outcome == "skipped":
            pytest.skip(finding_message(finding))
        if finding.outcome == "failed":
            raise CheckFailed(finding.message)  # raised here: the check's own frames tell the user nothing
        if finding.exception is not None:
            raise finding.exception

    def __repr__(self) -> str:
        return self.check.name


class _CaseCache:
    """Holds the case of the last model that was checked, or the exception from building it."""

    def __init__(self) -> None:
        self.target: Target | None = None
        self.case: Case | None = None
        self.error: BaseException | None = None

    def case_of(self, check: BoundCheck) -> Case:
        """Return the case of this check's model with the new head in place; the caller restores the old head."""
        if self.target is not check.target:
            self.release()
            self.target = check.target
            try:
                self.case = check.target.build(check.options)
            except BaseException as error:
                self.error = error
                raise
            return self.case
        if self.case is None:
            assert self.error is not None, "the cache holds a case or an error"
            raise self.error
        self.case.swap.reapply()
        return self.case

    def release(self) -> None:
        """Release the model."""
        if self.target is not None:
            self.target = self.case = self.error = None
            clear_last_exception()
            gc.collect()


_case_cache = _CaseCache()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """Release a model after the last of its consecutive checks."""
    try:
        return (yield)
    finally:
        callspec = getattr(nextitem, "callspec", None)
        check = callspec.params.get("check") if callspec is not None else None
        if not isinstance(check, BoundCheck) or check.target is not _case_cache.target:
            _case_cache.release()
