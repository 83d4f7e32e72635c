"""Test the project's metadata: its version, entry points, links, requirements and test command."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hatch_build
import pytest_headswap
from pytest_headswap._packages import distributions_by_package

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://github.com/pytest-headswap/pytest-headswap"
IN_REPOSITORY = "|".join(map(re.escape, (hatch_build.REPOSITORY, hatch_build.PICTURES)))
absolute = hatch_build.absolute


def test_version_is_defined_in_one_place() -> None:
    assert version("pytest-headswap") == pytest_headswap.__version__
    assert f'"{pytest_headswap.__version__}"' not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_changelog_has_titles_in_the_standard_form_and_links_them() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert titles[0].partition(" ")[0] in ("[Unreleased]", f"[{pytest_headswap.__version__}]")
    for title in titles:
        assert re.fullmatch(r"\[Unreleased\]|\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", title)
        assert f"\n{title.partition(' ')[0]}: {REPOSITORY}" in text


def test_entry_points_can_be_loaded() -> None:
    (plugin,) = entry_points(group="pytest11", name="headswap")
    assert plugin.load().pytest_addoption
    (script,) = entry_points(group="console_scripts", name="headswap")
    assert callable(script.load())


def test_no_tracked_file_is_ignored_by_git() -> None:
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_package_is_marked_as_typed() -> None:
    assert (Path(pytest_headswap.__file__).parent / "py.typed").exists()


def test_readme_of_the_metadata_has_absolute_links_to_existing_files() -> None:
    relative = (ROOT / "README.md").read_text(encoding="utf-8")
    text = absolute(relative)
    links = re.findall(r"""(?:\]\(|src="|srcset=")([^)"\s]+)""", text)
    assert [link for link in links if not link.startswith("https://")] == []
    paths = {found[2] for link in links if (found := re.fullmatch(rf"({IN_REPOSITORY})([\w./-]+)", link))}
    assert {"CONTRIBUTING.md", "examples", "docs/screens/report-dark.png"} <= paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert len(absolute(text)) == len(text), "absolute links stay"


def test_links_into_the_repository_point_to_existing_files() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), ROOT / "pyproject.toml")}
    paths = {
        found for text in texts.values() for found in re.findall(rf"{REPOSITORY}/(?:blob|tree)/main/([\w./-]+)", text)
    }
    assert "CHANGELOG.md" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    found = re.search(r"^command=\$\((awk .*)\)$", script, re.MULTILINE)
    assert found, ".ci/run extracts the command with one line of awk"
    done = subprocess.run(["bash", "-c", found[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    command = done.stdout.strip()
    assert command.splitlines() == [command], "it can be pasted as one line"
    assert command.endswith(".venv/bin/pytest -n 2")
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_starts_with_install_example_run_and_test_commands() -> None:
    before, _, _ = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## ")
    parts = ("pip install 'pytest-headswap", "swap_head(", "--headswap-zoo=builtin", "<!-- test-command -->")
    assert sorted(parts, key=before.index) == list(parts)


@pytest.mark.parametrize("name", [".ci/run"])
def test_scripts_are_executable(name: str) -> None:
    assert (ROOT / name).stat().st_mode & 0o111


def test_dev_extra_declares_every_package_that_tests_import() -> None:
    files = [path for folder in ("tests", "conformance") for path in (ROOT / folder).rglob("*.py")]
    found = undeclared({path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files})
    assert len(files) > 50
    assert found == []


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import execnet", "execnet"),
        ("def late():\n    from execnet.gateway import Gateway", "execnet"),
        ("import os, pytest, yaml\nfrom ruamel.yaml import YAML\nfrom .conftest import ROOT", ""),
    ],
)
def test_undeclared_import_is_reported(code: str, fault: str) -> None:
    assert undeclared({"test_planted.py": code}) == ([f"test_planted.py: {fault}"] if fault else [])


def undeclared(sources: dict[str, str]) -> list[str]:
    """Return `FILE: MODULE` for each import of an installed package that is not declared, for tests with Ray too."""
    project = tomlkit.parse((ROOT / "pyproject.toml").read_text(encoding="utf-8")).unwrap()["project"]
    declared = {"pytest-headswap", *(name for extra in ("", "dev", "ray") for name in declared_names(project, extra))}
    packages = distributions_by_package()
    return [
        f"{file}: {name}"
        for file, source in sorted(sources.items())
        for name in sorted(imported_by(source) - sys.stdlib_module_names)
        if name in packages and not {canonicalize_name(each) for each in packages[name]} & declared
    ]


def declared_names(project: dict[str, Any], extra: str) -> Iterator[str]:
    """Yield the packages of an extra, including those of the project's other extras that it refers to."""
    for text in project["optional-dependencies"][extra] if extra else project["dependencies"]:
        requirement = Requirement(text)
        yield canonicalize_name(requirement.name)
        if requirement.name == project["name"]:
            for each in requirement.extras:
                yield from declared_names(project, each)


def imported_by(source: str) -> set[str]:
    """Return the top-level modules that a source imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).partition(".")[0])
    return names
