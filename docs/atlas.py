"""Add the atlas of heads to the site, as a hook of mkdocs: the page searches the files that the tests use."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ATLAS = Path(__file__).parents[1] / "conformance" / "heads"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the file of each zoo."""
    for path in sorted(ATLAS.glob("*.tsv")):
        files.append(File.generated(config, f"atlas/{path.name}", abs_src_path=str(path)))
    return files
