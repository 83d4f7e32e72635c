"""Test the project's metadata: its version, entry points, links, requirements and test command."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points, packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pytest_headswap

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://github.com/pytest-headswap/pytest-headswap"


def test_version_is_defined_in_one_place() -> None:
    assert version("pytest-headswap") == pytest_headswap.__version__
    assert f'"{pytest_headswap.__version__}"' not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_changelog_has_a_section_for_this_version() -> None:
    assert f"## {pytest_headswap.__version__} - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


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


def test_readme_links_are_absolute() -> None:
    tokens = MarkdownIt().parse((ROOT / "README.md").read_text(encoding="utf-8"))
    inline = [child for token in tokens for child in token.children or ()]
    links = [
        str(child.attrGet("href") or child.attrGet("src")) for child in inline if child.type in ("link_open", "image")
    ]
    assert links
    assert [link for link in links if not link.startswith("https://")] == []


def test_links_into_the_repository_point_to_existing_files() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), ROOT / "pyproject.toml")}
    paths = {
        found for text in texts.values() for found in re.findall(rf"{REPOSITORY}/(?:blob|tree)/main/([\w./-]+)", text)
    }
    assert "CONTRIBUTING.md" in paths
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


def test_readme_starts_with_the_run_and_test_commands() -> None:
    screen = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40])
    assert "--headswap-zoo=builtin" in screen
    assert "<!-- test-command -->" in screen


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
    """Return `FILE: MODULE` for each import of an installed package that neither the project nor its `dev` declares."""
    project = tomlkit.parse((ROOT / "pyproject.toml").read_text(encoding="utf-8")).unwrap()["project"]
    declared = {"pytest-headswap", *declared_names(project, ""), *declared_names(project, "dev")}
    packages = packages_distributions()
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
