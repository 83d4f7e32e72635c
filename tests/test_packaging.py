"""What the project says of itself holds: its version, its entry points, the test command that CI takes from README."""

from __future__ import annotations

import re
import subprocess
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import pytest_headswap
from pytest_headswap.zoo.costs import FOLDER

ROOT = Path(__file__).parent.parent
PACKAGE = Path(pytest_headswap.__file__).parent


def test_the_version_stands_in_one_place() -> None:
    assert version("pytest-headswap") == pytest_headswap.__version__
    assert f'"{pytest_headswap.__version__}"' not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_changelog_has_a_part_for_this_version() -> None:
    assert f"## {pytest_headswap.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_entry_points_can_be_loaded() -> None:
    (plugin,) = entry_points(group="pytest11", name="headswap")
    assert plugin.load().pytest_addoption
    (script,) = entry_points(group="console_scripts", name="headswap")
    assert callable(script.load())


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(pytest_headswap.__file__).parent / "py.typed").exists()


def test_the_wheel_holds_the_costs_of_the_zoos_and_what_reports_are_made_with(tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds wheels")
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = zipfile.ZipFile(built).namelist()
    assert "pytest_headswap/zoo/costs.py" in names
    shipped = {f"pytest_headswap/zoo/costs/{path.name}" for path in FOLDER.glob("*.json")}
    assert shipped <= set(names)
    made_with = {path for folder in ("templates", "static") for path in (PACKAGE / "report" / folder).iterdir()}
    assert len(made_with) >= 8
    assert {f"pytest_headswap/{path.relative_to(PACKAGE).as_posix()}" for path in made_with} <= set(names)


def test_ci_takes_the_test_command_from_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    found = re.search(r"^command=\$\((awk .*)\)$", script, re.MULTILINE)
    assert found, ".ci/run extracts the command with one line of awk"
    done = subprocess.run(["bash", "-c", found[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    command = done.stdout.strip()
    assert command.splitlines() == [command], "it can be pasted as one line"
    assert command.endswith(".venv/bin/pytest")
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_screen_of_the_readme_holds_both_commands() -> None:
    screen = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40])
    assert "--headswap-zoo=builtin" in screen
    assert "<!-- test-command -->" in screen


@pytest.mark.parametrize("name", [".ci/run"])
def test_scripts_can_be_executed(name: str) -> None:
    assert (ROOT / name).stat().st_mode & 0o111
