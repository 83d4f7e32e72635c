"""A project with a small zoo of unusual models, for tests that run pytest inside pytest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_headswap.case.options import CaseOptions
from pytest_headswap.results import Result, read_journal

# Registers `testzoo` like a plugin. The file BUILDS records each build of a model.
CONFTEST = """
import os
import pytest
import torch
from torch import nn
from pytest_headswap.zoo import ModelSpec, Zoo, register

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.backbone = nn.Linear(8, 16)
        self.fc = nn.Linear(16, num_classes)
    def forward(self, x):
        return self.fc(self.backbone(x).relu())

class Doubled(nn.Module):
    def forward(self, x):
        return x * 2

class Raising(Net):
    def forward(self, x):
        raise RuntimeError("the forward of this model raises")

def unbuildable():
    raise ValueError("no such depth")

def refuse(num_classes):
    raise TypeError("takes no class count")

def crash():
    os._exit(17)

def images(model):
    return torch.zeros(2, 8)

def wrong_images(model):
    return torch.zeros(2, 9)

BUILDS = os.path.join(os.path.dirname(__file__), "builds" + ".txt")  # a file named in full would count as code

def counted(name, build):
    def wrapped():
        with open(BUILDS, "a") as file:
            file.write(f"{name} {os.getpid()}\\n")
        return build()
    return wrapped

SPECS = {
    "alpha": dict(build=Net, build_native=Net, family="nets"),
    "beta.v1_5": dict(build=Net, build_native=Net),
    "doubled": dict(build=Doubled),
    "lonely": dict(build=Net, build_native=refuse),
    "mismatched": dict(build=Net, build_native=lambda num_classes: nn.Linear(num_classes, 1)),
    "raising": dict(build=Raising, build_native=Net),
    "unbuildable": dict(build=unbuildable),
    "wrong_inputs": dict(build=Net, build_native=Net, example_inputs=wrong_images),
}

def load():
    def make(name):
        options = {"example_inputs": images, **SPECS[name]}
        return ModelSpec(name, **{**options, "build": counted(name, options["build"])})
    return Zoo("testzoo", tuple(SPECS), make, {"testlib": "1.2"})

def without_library():
    raise ModuleNotFoundError("No module named 'ghostlib'", name="ghostlib")

register("testzoo", load)
register("ghosts", without_library, library="ghostlib")
"""


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    """Import what a run imports, because pytester unloads modules first imported inside it, and torch breaks then."""
    import torch
    from torch import nn

    import pytest_headswap.report.write  # noqa: F401
    from pytest_headswap.case.build import build_case
    from pytest_headswap.checks import CHECKS, run_check
    from pytest_headswap.cli import main  # noqa: F401
    from pytest_headswap.harness import check_model  # noqa: F401
    from pytest_headswap.isolation import global_state, subprocess_executor  # noqa: F401
    from pytest_headswap.plugin.collection import select_executor, session  # noqa: F401
    from pytest_headswap.plugin.recording import recorder  # noqa: F401
    from pytest_headswap.plugin.user_tests import parametrize  # noqa: F401
    from pytest_headswap.zoo import ModelSpec, builtin  # noqa: F401

    case = build_case("warm", ModelSpec("linear", lambda: nn.Linear(8, 3), lambda _: torch.zeros(2, 8)), CaseOptions(5))
    for name in CHECKS:
        run_check(name, case)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Create a project with one test and the zoo `testzoo`."""
    for name in ("CI", "BUILD_NUMBER"):  # these change what pytest prints
        monkeypatch.delenv(name, raising=False)
    # every run would import these plugins again and rewrite their assertions
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:anyio")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_own="def test_mine():\n    pass\n")
    return pytester


@pytest.fixture
def extend_conftest(project: pytest.Pytester) -> Callable[[str], None]:
    """Return a function that adds lines to the project's `conftest.py`."""

    def extend(text: str) -> None:
        with (project.path / "conftest.py").open("a", encoding="utf-8") as file:
            file.write(f"\n{text}\n")

    return extend


@pytest.fixture
def journal(project: pytest.Pytester) -> Callable[..., dict[str, Result]]:
    """Return a function that reads the results of the last run by id."""

    def read(folder: str = "headswap-report") -> dict[str, Result]:
        _, results = read_journal(project.path / folder)
        by_id = {result.nodeid: result for result in results}
        assert len(by_id) == len(results), "each test has one line"
        return by_id

    return read


@pytest.fixture
def builds(project: pytest.Pytester) -> Callable[[], list[str]]:
    """Return a function that returns the names of the models that were built, in order."""

    def read() -> list[str]:
        path: Path = project.path / "builds.txt"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    return read
