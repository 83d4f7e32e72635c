"""The marker `headswap`: selects the models for a test's fixtures and the checks that they must pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap._text import did_you_mean, split_commas
from pytest_headswap.case.options import CaseOptions
from pytest_headswap.harness.options import OptionError, parse_num_classes, select_checks
from pytest_headswap.plugin.contributions import available_checks
from pytest_headswap.plugin.options import option_text, read_case_options, requested_zoos

if TYPE_CHECKING:
    from pytest_headswap.checks import Check
    from pytest_headswap.zoo import ModelSpec, Zoo
    from pytest_headswap.zoo.selection import Selection

MARKER = (
    "headswap(zoo=None, models=None, require_checks=None, num_classes=None): run a test once per model. The fixtures "
    "headswap_case, headswap_model and headswap_swap provide the model. zoo: a name, a list of names, or an object "
    "such as a dict of factories. models: globs, comma-separated or as a list. require_checks: checks that must pass "
    "on a model before the test runs. num_classes: class count of the new head. Omitted arguments come from the mark "
    "of the class or module, then from --headswap-zoo, --headswap-models and --headswap-num-classes or their ini keys."
)
NO_ZOO_MESSAGE = (
    "this test has no zoo: mark it with @pytest.mark.headswap(zoo='builtin'), set headswap_zoo in the ini file, or "
    "pass --headswap-zoo"
)
REQUEST_AT_COLLECTION_MESSAGE = (
    "models are selected during collection: do not use request.getfixturevalue. Add headswap_case, headswap_model or "
    "headswap_swap to the arguments of the test or of its fixtures, and name a zoo in its mark"
)
_ARGUMENTS = ("zoo", "models", "require_checks", "num_classes")


@dataclass(frozen=True, repr=False)
class RequestedModel:
    """One model for a test. Nothing is built yet."""

    zoo: Zoo
    model: str
    required_checks: tuple[Check, ...]
    """The checks that must pass before the test runs."""
    options: CaseOptions

    def __repr__(self) -> str:  # the id of the parameter
        from pytest_headswap.results.ids import escape

        return f"{escape(self.zoo.name)}::{escape(self.model)}"


def models_for_test(test: pytest.Item, config: pytest.Config) -> list[RequestedModel] | None:
    """Return the models for a test, or None if neither its marks nor the options name a zoo.

    Raises:
        OptionError: an argument of a marker or an option is invalid.
    """
    from pytest_headswap.zoo import ZooError
    from pytest_headswap.zoo.selection import load_zoos

    arguments = _arguments(test)
    try:
        zoos = _zoos(arguments["zoo"]) if "zoo" in arguments else load_zoos(requested_zoos(config), "--headswap-zoo")
    except ZooError as error:
        raise OptionError(str(error), page="zoo") from error
    if not zoos:
        return None
    options = read_case_options(config)
    if "num_classes" in arguments:
        count = parse_num_classes(arguments["num_classes"], "num_classes")
        options = replace(options, num_classes=count)
    checks: tuple[Check, ...] = ()
    if "require_checks" in arguments:
        checks = select_checks(as_list(arguments["require_checks"]), available_checks(config), "require_checks")
    try:
        selected = _select(zoos, arguments, option_text(config, "models"))
    except ZooError as error:
        raise OptionError(str(error)) from error
    return [RequestedModel(zoo, name, checks, options) for zoo, names in selected for name in names]


def _arguments(test: pytest.Item) -> dict[str, Any]:
    """Return the arguments of the marks; the closest mark takes precedence. None means not given."""
    arguments: dict[str, Any] = {}
    for mark in test.iter_markers("headswap"):
        if mark.args:
            raise OptionError(f"pass its arguments by name ({', '.join(_ARGUMENTS)}), not as {mark.args[0]!r}")
        for name, value in mark.kwargs.items():
            if name not in _ARGUMENTS:
                hint = did_you_mean(name, _ARGUMENTS)
                raise OptionError(f"unknown argument {name!r}{hint} It takes {', '.join(_ARGUMENTS)}")
            if value is not None:
                arguments.setdefault(name, value)
    return arguments


def _select(zoos: Sequence[Zoo], arguments: dict[str, Any], command_line_patterns: str) -> Selection:
    """Return the models of the marker or, if it names none, those of `--headswap-models` that its zoos have."""
    from pytest_headswap.zoo.selection import select_from_zoos, select_leniently

    if "models" in arguments:
        models = as_list(arguments["models"])
        if not all(isinstance(name, str) for name in models):
            raise OptionError(f"models must be globs, comma-separated or as a list, not {arguments['models']!r}")
        return select_from_zoos(zoos, ",".join(models), "models")
    if "zoo" in arguments:
        return select_leniently(zoos, command_line_patterns)
    return select_from_zoos(zoos, command_line_patterns, "--headswap-models")


def as_list(value: Any) -> list[Any]:
    """Return the items of an argument: a single value, a comma-separated text or a collection."""
    if isinstance(value, str):
        return split_commas(value)
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]


def _zoos(value: Any) -> list[Zoo]:
    """Return the zoos of an argument, which holds names or objects."""
    from pytest_headswap.zoo import ModelSpec, ZooError, load_zoo

    of_specs = isinstance(value, (list, tuple)) and any(isinstance(item, ModelSpec) for item in value)
    items = value if isinstance(value, (list, tuple)) and not of_specs else [value]
    if not items:
        raise OptionError("zoo is an empty list: name a zoo, such as builtin")
    zoos: dict[str, Zoo] = {}
    for item in items:
        try:
            zoo = load_zoo(item) if isinstance(item, str) else _zoo_from_object(item)
        except ZooError as error:
            raise OptionError(f"zoo: {error}") from error
        if zoos.setdefault(zoo.name, zoo) is not zoo:
            raise OptionError(f"two zoos are named {zoo.name!r}: make one of them a Zoo with another name")
    return list(zoos.values())


def _zoo_from_object(value: Zoo | ModelSpec | Any) -> Zoo:
    from pytest_headswap.results.ids import DEFAULT_ZOO
    from pytest_headswap.zoo import ModelSpec, Zoo
    from pytest_headswap.zoo.custom import make_zoo

    if isinstance(value, ModelSpec):
        value = [value]
    return make_zoo(value.name if isinstance(value, Zoo) else DEFAULT_ZOO, value)
