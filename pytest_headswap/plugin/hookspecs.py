"""The hooks of pytest-headswap, for a `conftest.py` or a plugin.

A project that is also tested without pytest-headswap marks its implementations as optional:

    @pytest.hookimpl(optionalhook=True)
    def pytest_headswap_zoos(config):
        return {"mine": {"tiny": TinyNet, "small": lambda num_classes=10: Net(num_classes)}}

pytest finds implementations in plugins and in the `conftest.py` files that it reads before collection: the one in the
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
    """Return zoos by name. `--headswap-zoo=NAME` and markers can then select each zoo.

    A zoo is anything that `package.module:ATTR` may refer to: a mapping of names to factories, model classes or
    `ModelSpec`, an iterable of `ModelSpec`, a `Zoo`, or a function that returns one of these. Use a function to import
    a library only when its zoo is requested. This hook is called at the start of every run, and again in each worker of
    pytest-xdist and in each spawned child process, where it must return the same zoos.

    A name that is already taken ends the run with an error that names the plugin.
    """


@pytest.hookspec()
def pytest_headswap_checks(config: pytest.Config) -> Mapping[str, Callable[[Case], str | None] | Check] | None:
    """Return checks by name, which run after the built-in checks.

    A check is a function of a `pytest_headswap.Case` that leaves the case unchanged. It returns None, or a note for the
    result, such as what it could not inspect. It raises:

    - `pytest_headswap.CheckFailed(message)` if it finds a fault;
    - `pytest_headswap.CheckSkipped(reason, message)` if it does not apply, with its own reason code.

    Any other exception is an error of the check. To also declare the evidence for the results, or that the check needs
    no head, return a `pytest_headswap.Check` of the same name.

        def pytest_headswap_checks(config):
            return {"small_head": small_head}

        def small_head(case):
            size = sum(parameter.numel() for parameter in case.swap.parameters())
            if size > 1_000_000:
                raise CheckFailed(f"the head has {size:,} parameters")

    Called when a zoo is requested, in each worker of pytest-xdist, and in each spawned child process. The name is part
    of ids, results and `--headswap-checks`, so it must be an identifier. A name that is already taken ends the run with
    an error.
    """


@pytest.hookspec()
def pytest_headswap_case(config: pytest.Config, case: Case) -> None:
    """Called after a model was built and its head swapped, before its first check or the test that requests it.

    The hook runs in the process that holds the model: for a zoo run, a child process of pytest or of a worker of
    pytest-xdist. Printed output and files are kept; anything that the hook keeps in
    memory is lost with the child. An exception raised here is an error of all tests of the model.
    """


@pytest.hookspec()
def pytest_headswap_result(config: pytest.Config, result: Result) -> None:
    """Called for each result of a zoo, after it was written to the journal.

    With pytest-xdist it is called only in the controller: once for each result, in the order of the journal.
    """
