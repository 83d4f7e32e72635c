"""The hooks of pytest-headswap, for a `conftest.py` or a plugin.

A project that can also be tested without pytest-headswap marks what it implements as optional:

    @pytest.hookimpl(optionalhook=True)
    def pytest_headswap_zoos(config):
        return {"mine": {"tiny": TinyNet, "small": lambda num_classes=10: Net(num_classes)}}

Implementations are found in plugins and in the `conftest.py` files that pytest reads before it collects: that of the
root directory and those of the paths on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_headswap.case.case import Case
    from pytest_headswap.checks import Check
    from pytest_headswap.results import Result


@pytest.hookspec()
def pytest_headswap_zoos(config: pytest.Config) -> Mapping[str, Any] | None:
    """Return zoos by name, each of which can then be asked for as `--headswap-zoo=NAME` and in markers.

    A zoo is what may stand behind `package.module:ATTR`: a mapping of names to factories, model classes or
    `ModelSpec`, an iterable of `ModelSpec`, a `Zoo`, or a function that returns one of these. Give a function to
    import a library only once its zoo is asked for: this hook is called at the start of every run, and again in
    each worker of pytest-xdist, where it has to return the same.

    A name that is taken already ends the run with an error that names the plugin.
    """


@pytest.hookspec()
def pytest_headswap_checks(config: pytest.Config) -> Mapping[str, Callable[[Case], str | None] | Check] | None:
    """Return checks by name, which then run behind those that come with pytest-headswap.

    A check is a function of a `pytest_headswap.Case` that leaves the case as it is. It returns None, or a note for
    the result such as what could not be looked at; it raises `pytest_headswap.CheckFailed(message)` where it finds a
    fault, and `pytest_headswap.CheckSkipped(reason, message)` where it does not apply, with a reason code of its own.
    Whatever else it raises is an error of the check. A `pytest_headswap.Check` of the same name also says what its
    verdicts rest on.

        def pytest_headswap_checks(config):
            return {"small_head": small_head}

        def small_head(case):
            size = sum(parameter.numel() for parameter in case.swap.parameters())
            if size > 1_000_000:
                raise CheckFailed(f"the head has {size:,} parameters")

    Called when a zoo is asked for, and in each worker of pytest-xdist. The name stands in ids, in results and in
    `--headswap-checks`, so it has to be an identifier; one that is taken already ends the run with an error.
    """


@pytest.hookspec()
def pytest_headswap_case(config: pytest.Config, case: Case) -> None:
    """Called when a model was built and its head swapped, before its first check or the test that asks for it.

    In the process in which the model is. For the tests of a zoo that is one of its own on Linux, forked of that of
    pytest, or of a worker of pytest-xdist: what is printed, or written to files, stays, and what is kept in memory is
    gone with it. What is raised here is an error of all the tests of the model.
    """


@pytest.hookspec()
def pytest_headswap_result(config: pytest.Config, result: Result) -> None:
    """Called for each result of a zoo, after it was written to the journal.

    With pytest-xdist in the controller alone, so each result comes once, in the order of the journal.
    """
