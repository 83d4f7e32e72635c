"""Print the commands that run what is missing from the journals of shards: `headswap merge --missing`."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_headswap.case.options import CaseOptions

if TYPE_CHECKING:
    from pytest_headswap.results.merge import MissingPart


def missing_command(part: MissingPart, given: list[Path]) -> str:
    """Return the command that runs a shard, or resumes it. A missing shard gets a folder beside the given ones."""
    options = part.options
    models = str(options.get("models", ""))
    number = part.shard.partition("/")[0]
    folder = part.folder or given[0].parent / f"shard-{number}"
    known = {item.name: options[item.name] for item in fields(CaseOptions) if item.name in options}
    has_ids = "::" in models
    return shlex.join(
        [
            "pytest",
            *(models.split(",") if has_ids else [f"--headswap-zoo={','.join(options.get('zoo', ()))}"]),
            *([f"--headswap-models={models}"] if models and not has_ids else []),
            f"--headswap-checks={','.join(options['checks'])}",
            *([f"--headswap-sample={options['sample']}"] if "sample" in options else []),
            f"--headswap-shard={part.shard}",
            f"--headswap-report={folder}",
            *CaseOptions(**known).flags(),
            *(["--headswap-resume"] if part.folder is not None else []),
        ]
    )
