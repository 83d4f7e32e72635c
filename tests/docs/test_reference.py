"""Test that the tables of the documentation match the code."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import pytest_headswap
from pytest_headswap import REASONS, load_zoo, report, strategies
from pytest_headswap.case.finding import SKIP_REASONS
from pytest_headswap.checks.registry import BUILTIN_CHECKS, CHECKS, OPT_IN_CHECKS
from pytest_headswap.cli.main import _parser
from pytest_headswap.expectations.condition import WORDS
from pytest_headswap.expectations.entry import EXPECTABLE_OUTCOMES, KEYS
from pytest_headswap.plugin import hookspecs
from pytest_headswap.plugin.option_declarations import add_options
from pytest_headswap.plugin.user_tests import fixtures, marker
from pytest_headswap.results import OUTCOMES
from pytest_headswap.zoo.registry import _ENTRIES

from .conftest import DOCS, README, headings_of, named, tables_of

HOOKS = [name for name in vars(hookspecs) if name.startswith("pytest_headswap_")]


class Declared:
    """Record the help of each flag and of each ini key that the plugin declares."""

    def __init__(self) -> None:
        self.flags: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        add_options(self)  # type: ignore[arg-type]

    def getgroup(self, *_: str) -> Declared:
        """Stand in for `Parser.getgroup`."""
        return self

    def addoption(self, flag: str, **more: Any) -> None:
        """Stand in for `OptionGroup.addoption`."""
        self.flags[flag] = more["help"]

    def addini(self, key: str, text: str, *_: Any, **__: Any) -> None:
        """Stand in for `Parser.addini`."""
        self.keys[key] = text


def test_every_option_is_documented_with_its_ini_key_and_default() -> None:
    declared = Declared()
    options, *_ = tables_of(DOCS / "options.md")
    documented = {named(flag): (named(key), meaning) for flag, key, meaning in options}
    assert documented.keys() == declared.flags.keys()
    assert {key for key, _ in documented.values() if key} == declared.keys.keys()
    for flag, (key, meaning) in documented.items():
        assert key in ("", flag.removeprefix("--").replace("-", "_"))
        usual = re.search(r"\(default: (.+)\)", declared.flags[flag])
        assert usual is None or f"default: {usual[1]}" in meaning


def test_marker_arguments_and_fixtures_are_documented() -> None:
    _, arguments, given, _ = tables_of(DOCS / "options.md")
    assert tuple(named(name) for name, _ in arguments) == marker._ARGUMENTS
    assert [named(name) for name, _ in given] == [name for name in vars(fixtures) if name.startswith("headswap_")]


def test_every_command_is_documented_with_its_arguments() -> None:
    *_, commands = tables_of(DOCS / "options.md")
    documented = {named(command).split()[1]: (named(command), meaning) for command, meaning in commands}
    (chosen,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert documented.keys() == chosen.choices.keys()
    for name, parser in chosen.choices.items():
        command, meaning = documented[name]
        shown = [str(action.metavar) for action in parser._actions if not action.option_strings]
        assert [word.removesuffix("...") for word in command.split()[2:]] == shown
        flags = {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")}
        assert set(re.findall(r"--[a-z-]+", meaning)) == flags - {"--help"}


@pytest.mark.parametrize("page", [README, DOCS / "checks.md"], ids=lambda page: page.name)
def test_checks_are_documented_in_running_order(page: Any) -> None:
    checks, *_ = tables_of(page, under="check")
    assert [named(name) for name, _ in checks] == list(CHECKS)


def test_every_check_documents_its_promise_and_evidence() -> None:
    source = (DOCS / "checks.md").read_text(encoding="utf-8")
    assert [named(title) for title in headings_of(DOCS / "checks.md", 2)[:-1]] == list(CHECKS)
    assert [named(title) for title in headings_of(DOCS / "checks.md", 3)] == list(OPT_IN_CHECKS)
    for name, check in BUILTIN_CHECKS.items():
        assert f"::: pytest_headswap.checks.{name}\n" in source
        module = inspect.getmodule(check.run)
        assert module is not None
        documented = module.__doc__ or ""
        assert all(part in documented for part in ("**Promise.**", "**Evidence.**", "**A failure means**"))


def test_documented_reason_codes_match_the_code() -> None:
    documented = [named(title) for title in headings_of(DOCS / "errors.md", 3)]
    assert len(documented) == len(set(documented))
    assert set(documented) == {*REASONS, *SKIP_REASONS, "crashed", "timeout"}


def test_every_outcome_is_documented() -> None:
    (outcomes,) = tables_of(DOCS / "reports.md", under="outcome")
    assert {named(name) for name, _ in outcomes} == set(OUTCOMES)


def test_every_key_of_an_expectation_is_documented() -> None:
    keys, conditions = tables_of(DOCS / "expectations.md")
    documented = {named(key): meaning for key, meaning in keys}
    assert documented.keys() == set(KEYS)
    assert set(re.findall(r"`(\w+)`", documented["outcome"])) == set(EXPECTABLE_OUTCOMES)
    values = {named(key): meaning for key, meaning in conditions[1:]}
    assert values.keys() == WORDS.keys()
    assert all(f"`{word}`" in values[key] for key, words in WORDS.items() for word in words)


def test_every_zoo_is_documented() -> None:
    *_, zoos = tables_of(DOCS / "zoo.md")
    assert {named(name) for name, _ in zoos} == set(_ENTRIES)
    models = len(load_zoo("builtin"))
    assert f"{models} small ones" in {named(name): what for name, what in zoos}["builtin"]
    assert f"`builtin` ({models} small models" in README.read_text(encoding="utf-8")


def test_every_hook_is_documented_with_its_arguments() -> None:
    *_, hooks = tables_of(DOCS / "check.md")
    assert [named(hook) for hook, _ in hooks] == [
        f"{name}({', '.join(inspect.signature(getattr(hookspecs, name)).parameters)})" for name in HOOKS
    ]


def test_every_public_name_is_in_the_reference() -> None:
    source = (DOCS / "api.md").read_text(encoding="utf-8")
    public = [
        *(f"pytest_headswap.{name}" for name in pytest_headswap.__all__),
        *(f"pytest_headswap.strategies.{name}" for name in strategies.__all__),
        *(f"pytest_headswap.report.{name}" for name in ("read_journal", "Result")),
        *(f"pytest_headswap.plugin.hookspecs.{name}" for name in HOOKS),
    ]
    assert not [name for name in public if f"::: {name}\n" not in source]


@pytest.mark.parametrize(
    "function",
    [
        *(item for name in pytest_headswap.__all__ if inspect.isfunction(item := getattr(pytest_headswap, name))),
        report.read_journal,
    ],
    ids=lambda function: function.__name__,
)
def test_public_functions_document_arguments_return_value_and_errors(function: Callable[..., Any]) -> None:
    text = inspect.getdoc(function) or ""
    assert "\nReturns:\n" in text
    assert "\nRaises:\n" in text
    arguments = text.partition("\nArgs:\n")[2].partition("\n\n")[0]
    for name in inspect.signature(function).parameters:
        assert f"{name}:" in arguments, name
