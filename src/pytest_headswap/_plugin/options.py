"""The options: declared without torch, read and validated once a zoo is asked for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from pytest_headswap.zoo import Zoo

DEFAULT_NUM_CLASSES = 7
DEFAULT_REPORT = "headswap-report"

Scope = Literal["only", "beside"]
"""Whether the zoo is all that runs, or is collected beside the tests of the paths."""


@dataclass(frozen=True)
class Settings:
    """What was asked for, valid."""

    zoos: tuple[tuple[Zoo, tuple[str, ...]], ...]
    """Each zoo with the names of the models to run."""
    checks: tuple[str, ...]
    num_classes: int
    report: Path
    scope: Scope
    models: str
    """The patterns as they were given."""

    @property
    def model_count(self) -> int:
        """How many models there are in all zoos together."""
        return sum(len(names) for _, names in self.zoos)


def add_options(parser: pytest.Parser) -> None:
    """Declare each option as a flag and as an ini key."""
    group = parser.getgroup("headswap", "swapping the heads of a model zoo")

    def add(name: str, metavar: str, text: str) -> None:
        group.addoption(f"--headswap-{name}", metavar=metavar, default=None, help=text)
        parser.addini(f"headswap_{name.replace('-', '_')}", text, default="")

    text = "zoo whose models are tested, such as builtin or timm; may be given several times"
    group.addoption("--headswap-zoo", metavar="ZOO", action="append", default=None, help=text)
    parser.addini(
        "headswap_zoo", text.replace("; may be given several times", "; several are separated by spaces"), "args", []
    )
    add("models", "GLOBS", "comma-separated globs of models to test, !glob leaves out (default: all)")
    add("checks", "NAMES", "comma-separated checks to make (default: all)")
    add("num-classes", "N", f"class count of the new heads (default: {DEFAULT_NUM_CLASSES})")
    add("report", "FOLDER", f"folder of the report (default: {DEFAULT_REPORT})")


def asked_scope(config: pytest.Config) -> Scope | None:
    """Whether a zoo is asked for, and whether other tests run beside it. Cheap: every pytest run comes through here."""
    given = bool(config.getoption("headswap_zoo"))
    if not given and not config.getini("headswap_zoo"):
        return None
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:  # a worker of xdist is always given paths; the controller knows what the user typed
        scope: Scope | None = workerinput.get("headswap_scope")
        return scope
    paths = config.args_source is pytest.Config.ArgsSource.ARGS
    if given:
        return "beside" if paths else "only"
    return None if paths else "beside"


def read_settings(config: pytest.Config, scope: Scope) -> Settings:
    """Load the zoos that were asked for and validate everything that was typed.

    Raises:
        pytest.UsageError: something cannot be used; the message says what to type instead.
    """
    num_classes = _num_classes(_text(config, "num_classes"))
    zoo_names = tuple(dict.fromkeys(config.getoption("headswap_zoo") or config.getini("headswap_zoo")))
    patterns = _text(config, "models")
    zoos = _select(_load(zoo_names), patterns)
    checks = _checks(_text(config, "checks"))
    return Settings(zoos, checks, num_classes, _report(config), scope, patterns)


def _text(config: pytest.Config, name: str) -> str:
    given = config.getoption(f"headswap_{name}")
    return str(config.getini(f"headswap_{name}") if given is None else given).strip()


def _num_classes(text: str) -> int:
    if not text:
        return DEFAULT_NUM_CLASSES
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise pytest.UsageError(
            f"--headswap-num-classes must be a positive whole number, not {text!r}: "
            f"give the class count of the new heads, such as {DEFAULT_NUM_CLASSES}"
        )
    return int(text)


def _report(config: pytest.Config) -> Path:
    given: str | None = config.getoption("headswap_report")
    ini: str = config.getini("headswap_report")
    if given is None and ini:
        return config.rootpath / ini
    return config.invocation_params.dir / (given or DEFAULT_REPORT)


def _checks(text: str) -> tuple[str, ...]:
    from pytest_headswap.checks import CHECKS

    asked = [name for part in text.split(",") if (name := part.strip())]
    for name in asked:
        if name not in CHECKS:
            close = difflib.get_close_matches(name, CHECKS, n=3)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise pytest.UsageError(
                f"unknown check {name!r} in --headswap-checks: {hint}The checks are {', '.join(CHECKS)}"
            )
    return tuple(name for name in CHECKS if name in asked or not asked)


def _load(names: tuple[str, ...]) -> list[Zoo]:
    from pytest_headswap.zoo import ZooError, load_zoo

    try:
        return [load_zoo(name) for name in names]
    except ZooError as error:
        raise pytest.UsageError(f"--headswap-zoo: {error}") from error


def _select(zoos: list[Zoo], patterns: str) -> tuple[tuple[Zoo, tuple[str, ...]], ...]:
    """The models of each zoo. With several zoos, a pattern has to fit in one of them, not in each."""
    from pytest_headswap.zoo import ZooError, select_models

    parts = [stripped for part in patterns.split(",") if (stripped := part.strip())]
    if not parts:
        return tuple((zoo, zoo.names) for zoo in zoos)
    if len(zoos) == 1:
        try:
            return ((zoos[0], select_models(zoos[0], patterns)),)
        except ZooError as error:
            raise pytest.UsageError(f"--headswap-models: {error}") from error
    errors: dict[str, list[ZooError]] = {part: [] for part in parts}
    selected = []
    for zoo in zoos:
        included: set[str] = set(zoo.names) if all(part.startswith("!") for part in parts) else set()
        excluded: set[str] = set()
        for part in parts:
            try:
                if part.startswith("!"):
                    excluded.update(select_models(zoo, part[1:].strip()))
                else:
                    included.update(select_models(zoo, part))
            except ZooError as error:
                errors[part].append(error)
        selected.append((zoo, tuple(name for name in zoo.names if name in included - excluded)))
    for failures in errors.values():
        if len(failures) == len(zoos):
            raise pytest.UsageError(f"--headswap-models: {failures[0]}")
    if not any(names for _, names in selected):
        raise pytest.UsageError(f"--headswap-models={patterns} leaves no model to test: leave out less")
    return tuple(selected)
