"""Run the pages in `docs/use` with the installed libraries, and write `conformance/INTEGRATIONS.md`.

    python -m conformance.integrations

Each page runs in a process of its own, as `pytest -m integrations` runs it: all its programs must print what the page
says.
"""

from __future__ import annotations

import argparse
import ast
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pytest_headswap._packages import distributions_by_package

ROOT = Path(__file__).parent.parent
USE = ROOT / "docs" / "use"
TABLE = Path(__file__).with_name("INTEGRATIONS.md")
TEST = "tests/docs/test_code_blocks.py::test_code_blocks_print_the_documented_output"
OWN = "pytest_headswap"


@dataclass(frozen=True)
class Tried:
    """The result for one page: `passed`, `failed`, or `not installed`.

    Attributes:
        title: title of the page.
        page: its path from the root of the project.
        libraries: names and versions of the packages that it imports or says to install.
        outcome: the result.
        seconds: duration, including the start of Python.
        detail: the first line of an error, or what is not installed.
    """

    title: str
    page: str
    libraries: tuple[str, ...]
    outcome: str
    seconds: float
    detail: str = ""


def modules_of(page: Path) -> list[str]:
    """Return the top-level modules that the programs of a page import, other than the standard library and this one."""
    found, own = set(), {OWN}
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence" and token.info.startswith("python"):
            for node in ast.walk(ast.parse(token.content)):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add(str(node.module).partition(".")[0])
            own.add(token.info.partition('title="')[2].partition(".py")[0])
    return sorted(found - set(sys.stdlib_module_names) - own)


def packages_of(page: Path) -> list[str]:
    """Return the installed packages that a page imports, or says to install."""
    distributions = distributions_by_package()
    found = {canonicalize_name(distributions[module][0]) for module in modules_of(page)}
    if command := re.search(r"`pip install ([^`]+)`", page.read_text(encoding="utf-8")):
        for requirement in map(Requirement, shlex.split(command[1])):
            found |= {canonicalize_name(name) for name in (requirement.name, *requirement.extras)}
    return sorted(
        found & {canonicalize_name(name) for names in distributions.values() for name in names} - {"pytest-headswap"}
    )


def try_page(page: Path) -> Tried:
    """Run the programs of a page."""
    title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    name = page.relative_to(ROOT).as_posix()
    modules = modules_of(page)
    if missing := [module for module in modules if find_spec(module) is None]:
        return Tried(title, name, (), "not installed", 0, ", ".join(missing))
    libraries = tuple(f"{package} {version(package).partition('+')[0]}" for package in packages_of(page))
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "integrations", f"{TEST}[{name}]"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    if not done.returncode:
        return Tried(title, name, libraries, "passed", seconds)
    lines = [line[1:].strip() for line in done.stdout.splitlines() if line.startswith("E ")]
    return Tried(title, name, libraries, "failed", seconds, lines[0] if lines else done.stderr[-500:].strip())


def write_table(results: Sequence[Tried], path: Path) -> None:
    """Write one row for each page, and the errors."""
    origin = f"{datetime.now(timezone.utc):%Y-%m-%d}, with Python {platform.python_version()}"
    lines = [
        "# Tested versions",
        "",
        f"Written by `python -m conformance.integrations` on {origin}.",
        "",
        "Each page ran with the libraries in its row. `passed` means that its programs printed what the page says.",
        "",
        "| page | versions | seconds | outcome |",
        "| --- | --- | ---: | --- |",
        *(f"| {item.title} | {', '.join(item.libraries)} | {item.seconds:.0f} | {item.outcome} |" for item in results),
    ]
    details = [f"- `{item.page}` ({item.outcome}): {item.detail}" for item in results if item.detail]
    path.write_text("\n".join([*lines, *([""] if details else []), *details]) + "\n", encoding="utf-8")


def main() -> int:
    """Run all pages that have programs, and write the table. Return 1 unless all passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=TABLE, help="the file (default: conformance/INTEGRATIONS.md)")
    parser.add_argument("pages", nargs="*", type=Path, help="pages to run (default: all of docs/use)")
    arguments = parser.parse_args()
    results = []
    for page in arguments.pages or sorted(USE.glob("*.md")):
        if modules_of(page := page.resolve()):
            results.append(try_page(page))
            print(f"{results[-1].page}: {results[-1].outcome}", flush=True)
    write_table(results, arguments.output)
    print(arguments.output)
    return int(any(item.outcome != "passed" for item in results))


if __name__ == "__main__":
    sys.exit(main())
