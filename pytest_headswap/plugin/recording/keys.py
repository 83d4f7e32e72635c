"""The key of a result: a digest of everything that it rests on. Results with equal keys are the same.

A journal holds the key of each result, and its header the parts, so that a later run can say what changed. The journal
of a run with another key is of no use to a result: `--headswap-resume` and `--headswap-since` run the check again.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_headswap.harness.garbage import gc_disabled_for_imports
from pytest_headswap.plugin.recording.commits import commits_of
from pytest_headswap.plugin.settings import Settings
from pytest_headswap.results import JOURNAL_NAME
from pytest_headswap.zoo.entry_code import ZooOrigins, describe, entry_code, zoo_origins
from pytest_headswap.zoo.source_code import OWN_PACKAGE, Code, SourceCode, installed_version
from pytest_headswap.zoo.source_files import digest
from pytest_headswap.zoo.source_walk import follow

if TYPE_CHECKING:
    from pytest_headswap.checks import Check
    from pytest_headswap.results import Result
    from pytest_headswap.results.ids import CheckId
    from pytest_headswap.zoo.spec import Zoo

INCOMPLETE = "?"
"""The first character of a key that does not cover everything."""

_OWN_FOLDER = Path(__file__).parents[2]
_NO_PART = ("cli", "report", "strategies")  # folders of this package on which no result rests
_PYTEST = frozenset(("pytest", "_pytest", "pluggy", "xdist", OWN_PACKAGE))


class Keys:
    """The keys of all tests of a run. Files are read once, before the first test."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self._code = SourceCode(written=(settings.report / JOURNAL_NAME).resolve())
        self._zoos = {zoo.name: zoo for zoo, _ in settings.this_shard}
        self._origins: dict[str, ZooOrigins] = {}
        self._checks: dict[str, Code] = {}
        self._models: dict[tuple[str, str], Code] = {}
        self._stats: dict[Path, tuple[int, int]] = {}
        self._changed: set[Path] = set()
        self._looked = 0.0

    def read_all(self) -> None:
        """Read the code of all models of this run, unless it has been read."""
        if self._looked:
            return
        with gc_disabled_for_imports():
            for zoo, models in self.settings.this_shard:
                for model in models:
                    self._code_of(zoo, model)
            for check in self.settings.checks:
                self._code_of_check(check)
            self._stats = {path: stat for path in self._files() if (stat := _stat(path)) is not None}
            self._code = SourceCode()  # all is known, so the texts of the files need no more memory
        self._looked = time.monotonic()

    def key(self, test: CheckId) -> str:
        """Return the key of a test. It starts with `?` if something that the result rests on is not known."""
        code, check = self._code_of(self._zoos[test.zoo], test.model), self._code_of_check(self._check(test.check))
        versions = dict(self._zoos[test.zoo].versions)
        parts = [list(test), self._environment, versions, self._common.digest, code.digest, check.digest]
        whole = digest(json.dumps(parts, sort_keys=True).encode())
        return f"{INCOMPLETE}{whole}" if self.unknown(test) else whole

    def key_of_result(self, test: CheckId, *, flaky: bool) -> str:
        """Return the key of a new result. It is only `?` if one of its files was changed during the run."""
        if time.monotonic() - self._looked > 1:
            self._looked = time.monotonic()
            self._changed |= {path for path, stat in self._stats.items() if _stat(path) != stat}
        if self._changed and self._changed & self._files_of(test):
            return INCOMPLETE
        key = self.key(test)
        return f"{INCOMPLETE}{key.lstrip(INCOMPLETE)}" if flaky else key

    def _files_of(self, test: CheckId) -> frozenset[Path]:
        code, check = self._code_of(self._zoos[test.zoo], test.model), self._code_of_check(self._check(test.check))
        return code.files | check.files | self._common.files

    def still_holds(self, result: Result) -> bool:
        """Return whether nothing that is known has changed since an earlier result. Old journals have no keys."""
        return not result.key or result.key.lstrip(INCOMPLETE) == self.key(result.check_id).lstrip(INCOMPLETE)

    def unknown(self, test: CheckId) -> str:
        """Return why not all is known that the result of a test rests on; empty if all is."""
        code, check = self._code_of(self._zoos[test.zoo], test.model), self._code_of_check(self._check(test.check))
        return code.unknown or check.unknown or self._common.unknown

    def parts(self, zoo: str, model: str) -> Mapping[str, str]:
        """Return the parts of the key of a model: what its results rest on, without the check."""
        return {**self._common.parts, **self._code_of(self._zoos[zoo], model).parts}

    @cached_property
    def code(self) -> dict[str, dict[str, str]]:
        """The parts of all models of each zoo, for the journal's header, without the zoos' entries."""
        checks = {name: part for code in self._checks.values() for name, part in code.parts.items()}
        found: dict[str, dict[str, str]] = {zoo: {**self._common.parts, **checks} for zoo in self._zoos}
        for (zoo, _), code in self._models.items():
            found[zoo] |= code.parts
        return {zoo: {name: parts[name] for name in sorted(parts) if name != "entry"} for zoo, parts in found.items()}

    def commits(self, zoo: str) -> dict[str, str]:
        """Return the commits of a zoo's library and files, by name, where they are known."""
        return commits_of(self._origin(zoo))

    def _origin(self, zoo: str) -> ZooOrigins:
        if zoo not in self._origins:
            self._origins[zoo] = zoo_origins(zoo, self._code)
        return self._origins[zoo]

    def _check(self, name: str) -> Check:
        return next(check for check in self.settings.checks if check.name == name)

    def _code_of(self, zoo: Zoo, model: str) -> Code:
        key = zoo.name, model
        if key not in self._models:
            origins = self._origin(zoo.name)
            try:
                self._models[key] = entry_code(origins, zoo[model], self._code)
            except Exception as error:  # noqa: BLE001 - the zoo is the user's, and its error belongs to the model
                self._models[key] = Code({}, f"the zoo's entry of {model} raised {type(error).__name__}")
        return self._models[key]

    def _code_of_check(self, check: Check) -> Code:
        if check.name not in self._checks:
            described = describe(check)
            places = self._code.locate_all(described.classes | described.functions)
            code = follow(self._code, places)
            text = digest(described.text.encode("utf-8", "surrogatepass"))
            parts = {**code.parts, f"check {check.name}": text}
            self._checks[check.name] = Code(parts, described.unknown or code.unknown, code.files)
        return self._checks[check.name]

    @cached_property
    def _environment(self) -> dict[str, Any]:
        """Return the options, Python and the devices."""
        options = self.settings.options
        return {
            **asdict(options),
            "devices": self.settings.devices,
            "executor": self.settings.executor.partition(":")[0],
            "warnings": [*self.config.getini("filterwarnings"), *(self.config.option.pythonwarnings or ())],
            "python": f"{sys.implementation.name} {platform.python_version()}",
            "system": [sys.platform, platform.machine()],
        }

    @cached_property
    def _common(self) -> Code:
        """Return this package, and the plugins and `conftest.py` files that take part in the run."""
        own = [path for path in sorted(_OWN_FOLDER.rglob("*")) if path.suffix in (".py", ".json")]
        own = [path for path in own if path.relative_to(_OWN_FOLDER).parts[0] not in _NO_PART]
        contents = {path: path.read_bytes() for path in own}
        parts = {f"{OWN_PACKAGE}/": digest(*contents.values())}
        for path, content in contents.items():
            if path.suffix == ".py" and path.relative_to(_OWN_FOLDER).parts[0] != "zoo":  # a zoo counts its library
                parts |= {name: self._code.version(name) for name in self._code.imported_packages(path, content)}
        places: set[tuple[str, str]] = set()
        for plugin in self.config.pluginmanager.get_plugins():
            module, file = _module_of(plugin)
            top = module.partition(".")[0]
            if not file or top in _PYTEST:
                continue
            if not self._code.is_installed(top) or top == "conftest":
                places.add((module, file))
            elif any(name.startswith("pytest_headswap_") for name in dir(plugin)):
                parts[top] = installed_version(top)
        code = follow(self._code, self._code.locate_all(places))
        return Code({**parts, **code.parts}, code.unknown, code.files)

    def _files(self) -> Iterator[Path]:
        for code in (self._common, *self._models.values(), *self._checks.values()):
            yield from code.files


def _module_of(plugin: Any) -> tuple[str, str]:
    """Return the module of a plugin, which is a module or an object, and its file."""
    name = getattr(plugin, "__name__", None) if hasattr(plugin, "__file__") else type(plugin).__module__
    module = plugin if hasattr(plugin, "__file__") else sys.modules.get(str(name))
    return str(name), str(getattr(module, "__file__", None) or "")


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
