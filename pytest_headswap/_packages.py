"""Which installed distributions a top-level package belongs to."""

from __future__ import annotations

import importlib.metadata
import sys
from functools import cache


@cache
def distributions_by_package() -> dict[str, list[str]]:
    """Return the names of the distributions that contain each top-level package.

    Python 3.10 knows only packages that `top_level.txt` lists, which many installers no longer write.
    """
    found = {name: list(owners) for name, owners in importlib.metadata.packages_distributions().items()}
    if sys.version_info < (3, 11):
        for item in importlib.metadata.distributions():
            files = [
                file for file in item.files or () if file.suffix in (".py", ".so", ".pyd") and ".." not in file.parts
            ]
            for name in {file.parts[0].partition(".")[0] for file in files}:
                owners = found.setdefault(name, [])
                if item.metadata["Name"] not in owners:
                    owners.append(item.metadata["Name"])
    return found
