"""Fixtures for users' tests. They build a new model of a zoo for each test."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Generator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from pytest_headswap.harness.garbage import clear_last_exception
from pytest_headswap.harness.options import OptionError
from pytest_headswap.plugin.user_tests.marker import (
    NO_ZOO_MESSAGE,
    REQUEST_AT_COLLECTION_MESSAGE,
    RequestedModel,
    models_for_test,
)
from pytest_headswap.plugin.user_tests.parametrize import BoundCheck

if TYPE_CHECKING:
    from torch import nn

    from pytest_headswap.case.case import Case
    from pytest_headswap.engine import Swap


@pytest.fixture
def headswap_case(request: pytest.FixtureRequest) -> Case:
    """A model of a zoo, newly built, with its head swapped: case.model, case.inputs, case.swap, case.spec.

    The test runs once for each model that `@pytest.mark.headswap(zoo=..., models=...)` selects. No other test uses the
    model, so the test may train it. The model is released afterwards.
    """
    requested = getattr(request, "param", None)
    if requested is None:
        late = request.node.get_closest_marker("headswap") is not None
        pytest.fail(REQUEST_AT_COLLECTION_MESSAGE if late else NO_ZOO_MESSAGE, pytrace=False)
    return build_requested_case(request.config, requested)


@pytest.fixture
def headswap_model(headswap_case: Case) -> nn.Module:
    """The model of `headswap_case`, a `torch.nn.Module` with a new head."""
    return headswap_case.model


@pytest.fixture
def headswap_swap(headswap_case: Case) -> Swap:
    """The swap of the model of `headswap_case`: swap.heads, swap.parameters(), swap.restore()."""
    return headswap_case.swap


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test that uses a case with its models."""
    if "headswap_case" not in metafunc.fixturenames:
        return
    test = metafunc.definition
    try:
        requested = models_for_test(test, metafunc.config)
    except (OptionError, pytest.UsageError) as error:
        message = f"@pytest.mark.headswap of {test.nodeid}: {error}"
        raise pytest.fail.Exception(message, pytrace=False) from None
    if requested is None:
        return  # the fixture reports what is missing, as an error of this test only
    parameters = [pytest.param(item, id=str(item)) for item in requested]
    if not requested:
        reason = "--headswap-models selects no model of the zoo of this test"
        parameters = [pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))]
    metafunc.parametrize("headswap_case", parameters, indirect=True)


_FAILURES = pytest.StashKey[list[BaseException]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Release what the frames of failures hold once the test has ended: other plugins may keep the exceptions."""
    report = yield
    if _uses_model(item):
        if call.when != "teardown" and call.excinfo is not None:
            item.stash.setdefault(_FAILURES, []).append(call.excinfo.value)
        elif call.when == "teardown":
            for error in item.stash.setdefault(_FAILURES, []):
                for frame, _ in traceback.walk_tb(error.__traceback__):
                    with suppress(RuntimeError):  # the frame still runs
                        frame.clear()
                        _ = frame.f_locals  # before Python 3.13, this empties the dict that pytest has read
            del item.stash[_FAILURES]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Release the model after the test. A fixture cannot: pytest still holds the test's arguments then."""
    try:
        return (yield)
    finally:
        if "headswap_case" in getattr(item, "fixturenames", ()):
            clear_last_exception()
            gc.collect()


def _uses_model(item: pytest.Item) -> bool:
    """Return whether a test uses a fixture of this plugin, or is parametrized with checks."""
    values = getattr(item, "callspec", None)
    parameters = values.params.values() if values is not None else ()
    return "headswap_case" in getattr(item, "fixturenames", ()) or any(isinstance(v, BoundCheck) for v in parameters)


def build_requested_case(config: pytest.Config, requested: RequestedModel) -> Case:
    """Return the case of a model, after the required checks have passed on it. Skip if the model has no head."""
    from pytest_headswap.case.build import build_case
    from pytest_headswap.engine import NoHeadError
    from pytest_headswap.harness.failure_text import docs_url, format_failure
    from pytest_headswap.plugin.failure_style import use_short_failures

    zoo, options = requested.zoo, requested.options
    try:
        case = build_case(zoo.name, zoo[requested.model], options, materialize=True)
    except NoHeadError as error:
        pytest.skip(error.message)
    except Exception as error:
        if not use_short_failures(config):
            raise
        raise pytest.fail.Exception(format_failure(error, url=docs_url(error)), pytrace=False) from None
    config.hook.pytest_headswap_case(config=config, case=case)
    _require_checks(config, requested, case)
    return case


def _require_checks(config: pytest.Config, requested: RequestedModel, case: Case) -> None:
    """Run the checks that must pass before the test."""
    from pytest_headswap.checks import run_check
    from pytest_headswap.harness.build_result import finding_message
    from pytest_headswap.harness.failure_text import docs_url, format_failure
    from pytest_headswap.harness.pytest_outcomes import apply_pytest_outcome
    from pytest_headswap.plugin.failure_style import use_short_failures

    for check in requested.required_checks:
        finding = apply_pytest_outcome(run_check(check, case))
        if finding.outcome == "skipped":
            pytest.skip(f"{check.name} does not apply: {finding_message(finding)}")
        if finding.exception is not None:
            if not use_short_failures(config):
                raise finding.exception
            verdict = "failed" if finding.outcome == "failed" else "could not run"
            text = format_failure(finding.exception, url=docs_url(finding.exception, check.name))
            pytest.fail(f"{check.name} {verdict}: {text}", pytrace=False)
