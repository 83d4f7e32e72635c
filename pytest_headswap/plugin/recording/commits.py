"""Find the commit of the code that defines a zoo: of a git checkout, or the one that pip installed from."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from pytest_headswap.zoo.entry_code import ZooOrigins

_SECONDS = 10.0
_CHANGED = " with changes"


def commits_of(origins: ZooOrigins) -> dict[str, str]:
    """Return the commits of the library and of the files of a zoo, by name, where they are known.

    A commit is followed by `with changes` if a tracked file of its checkout differs from it.
    """
    names = [origins.library] if origins.library else sorted(str(place) for place in origins.places)
    found = {}
    for name in names:
        module = Path(name).stem if name.endswith(".py") else name
        if commit := _installed_commit(name) or _checkout_commit(_file(name)):
            found[module] = commit
    return found


def _file(name: str) -> Path | None:
    """Return the file of a module, or of a zoo that is a file."""
    path = name if name.endswith(".py") else getattr(sys.modules.get(name), "__file__", None)
    return Path(path).resolve() if path else None


def _installed_commit(library: str) -> str:
    """Return the commit that pip recorded when it installed a distribution from a repository."""
    try:
        text = distribution(library).read_text("direct_url.json")
        data: Any = json.loads(text or "{}")
        return str(data["vcs_info"]["commit_id"])
    except (PackageNotFoundError, ValueError, KeyError, TypeError):  # from an index, or not written by pip
        return ""


@cache
def _checkout_commit(file: Path | None) -> str:
    """Return the commit of the checkout that tracks a file; empty if none does, or if git is missing."""
    if file is None or not any((folder / ".git").exists() for folder in file.parents):
        return ""
    with suppress(OSError, subprocess.SubprocessError, UnicodeDecodeError):
        _git(file, "ls-files", "--error-unmatch", "--", file.name)  # an environment may be inside another checkout
        return _git(file, "describe", "--always", "--abbrev=40", "--exclude=*", f"--dirty={_CHANGED}").strip()
    return ""


def _git(file: Path, *arguments: str) -> str:
    command = ["git", "-C", str(file.parent), *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=_SECONDS, encoding="utf-8").stdout
