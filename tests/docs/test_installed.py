"""Test that each page installs the packages that its commands need, before it uses them.

Direct requirements come from `pyproject.toml`, indirect ones from the metadata of the installed packages.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
import tomlkit
from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .conftest import DOCS, README, ROOT

OWN = "pytest-headswap"
SHELL = {".", "python3", "python", "cd", "for", "do", "done"}  # available without installing anything
SITE = f"pip install '{OWN}[timm]'"  # from the first page, docs/index.md
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))
PAGES = (
    *((page, "") for page in (README, ROOT / "CONTRIBUTING.md", *EXAMPLES)),
    *((page, SITE) for page in sorted(DOCS.rglob("*.md"))),
)


@pytest.mark.parametrize(("page", "before"), PAGES, ids=lambda value: str(value).removeprefix(f"{ROOT}/"))
def test_commands_are_provided_by_the_packages_the_page_installs(page: Path, before: str) -> None:
    declared = declared_by(page.parent if page in EXAMPLES else ROOT)
    assert faults_of([before, *commands_of(page.read_text(encoding="utf-8"))], declared) == []


@pytest.mark.parametrize(
    ("extra", "command", "fault"),
    [
        ("timm", "mkdocs serve", "mkdocs"),
        ("timm", "tox run -e lint", "tox"),
        ("timm", "pytest --headswap-zoo=builtin -n 2", "-n"),
        ("docs", "mkdocs build && twine check", "twine"),
        ("docs", "mkdocs serve", ""),
        ("dev", "tox run -e lint && mkdocs serve", ""),
    ],
)
def test_command_without_its_package_is_reported(extra: str, command: str, fault: str) -> None:
    declared = [text for text in declared_by(ROOT)[""] if not text.startswith("pytest-xdist")]
    text = f"Text.\n\n```bash\npip install -e '.[{extra}]' && python3 -V\n{command}\n```\n"
    faults = faults_of(commands_of(text), {**declared_by(ROOT), "": declared})
    assert [found.split(":")[0] for found in faults] == ([fault] if fault else [])


def test_commands_in_sentences_are_found() -> None:
    assert list(commands_of("Run `pip install -e .`, then\n`mkdocs serve`, not `model.eval()`.")) == [
        "pip install -e .",
        "mkdocs serve",
    ]


def commands_of(text: str) -> Iterator[str]:
    """Yield the commands of a page in order: lines of bash, and inline code that begins with a known command.

    The test command is left out: it installs `dev`, and readers who only use the package do not run it.
    """
    before = ""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for_tests, before = "test-command" in before, token.content
        if token.type == "fence" and token.info.split()[:1] == ["bash"] and not for_tests:
            lines = token.content.replace("\\\n", " ").splitlines()
            yield from (part.strip() for line in lines for part in re.split(r"&&|\|\|", line))
        for child in token.children or ():
            words = child.content.split() if child.type == "code_inline" else []
            if len(words) > 1 and (words[0] in scripts() or words[0] == "pip"):
                yield child.content


def faults_of(commands: list[str] | Iterator[str], declared: dict[str, list[str]]) -> list[str]:
    """Return `NAME: why` for each command or option that is used before its package is installed."""
    faults = []
    packages: set[str] = {"pip"}
    for command in commands:
        words = shlex.split(command, comments=True)
        if not words:
            continue
        name = words[0].removeprefix(".venv/bin/")
        if name == "pip":
            for wanted in words[2:]:
                packages |= brought_by(wanted, declared)
        elif name not in SHELL and name in scripts() and not scripts()[name] & packages:
            faults.append(f"{name}: {command}")
        elif name == "pytest" and (unknown := unknown_option(words[1:], packages)):
            faults.append(f"{unknown}: {command}")
    return faults


def declared_by(folder: Path) -> dict[str, list[str]]:
    """Return the requirements of a project by extra. Those without an extra have the key `""`."""
    project = tomlkit.parse((folder / "pyproject.toml").read_text(encoding="utf-8")).unwrap()["project"]
    return {"": project["dependencies"], **project.get("optional-dependencies", {}), "name": [project["name"]]}


def brought_by(wanted: str, declared: dict[str, list[str]]) -> set[str]:
    """Return all packages that `pip install WANTED` installs, including indirect requirements."""
    if wanted.startswith("-"):
        return set()
    name = declared["name"][0]
    if wanted.startswith("."):
        wanted = f"{name}{wanted[1:]}"
    found: set[str] = set()
    _add(Requirement(wanted), {OWN: declared_by(ROOT), canonicalize_name(name): declared}, found)
    return {each.partition("[")[0] for each in found}


def _add(requirement: Requirement, here: dict[str, dict[str, list[str]]], found: set[str]) -> None:
    name = canonicalize_name(requirement.name)
    for extra in ("", *sorted(requirement.extras)):
        if f"{name}[{extra}]" in found:
            continue
        found.add(f"{name}[{extra}]")
        for needed in _needed(name, extra, here):
            _add(needed, here, found)


def _needed(name: str, extra: str, here: dict[str, dict[str, list[str]]]) -> Iterator[Requirement]:
    """Yield the requirements of a package for an extra. A package that is not installed here has none."""
    if name in here:
        texts = here[name].get(extra, [])
    else:
        with_metadata = _installed(name)
        texts = list(with_metadata.requires or ()) if with_metadata is not None else []
    for requirement in map(Requirement, texts):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


@cache
def scripts() -> dict[str, set[str]]:
    """Return the packages of this environment that provide each command."""
    found: dict[str, set[str]] = {}
    for each in distributions():
        names = {script.name for script in each.entry_points.select(group="console_scripts")}
        names |= {Path(file).stem for file in each.files or () if Path(file).parent.name in ("bin", "Scripts")}
        for name in names:
            found.setdefault(name, set()).add(canonicalize_name(each.metadata["Name"]))
    return found


def unknown_option(arguments: list[str], packages: set[str]) -> str:
    """Return the first option that pytest does not know if only these packages provide plugins, or `""`."""
    options = [word for word in arguments if word.startswith("-") and not word.startswith("--headswap")]
    if not options:
        return ""
    names = [
        entry.name
        for each in distributions()
        if (package := canonicalize_name(each.metadata["Name"])) in packages and package != OWN
        for entry in each.entry_points.select(group="pytest11")
    ]
    plugins = [word for name in ("pytest_headswap.plugin.hooks", *sorted(set(names))) for word in ("-p", name)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", os.devnull, *plugins, *arguments, "--markers"],
        env={**env, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"unrecognized arguments: (\S+)", done.stderr)
    assert found or done.returncode == 0, done.stderr
    return found[1] if found else ""
