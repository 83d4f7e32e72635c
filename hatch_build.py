"""Make the links and pictures of the README absolute for PyPI, which shows it far from the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

REPOSITORY = "https://github.com/pytest-headswap/pytest-headswap/blob/main/"
PICTURES = "https://raw.githubusercontent.com/pytest-headswap/pytest-headswap/main/"
_LINK = re.compile(r"""(\]\(|\ssrc=["']|\ssrcset=["'])(?!https?:|#)([^)"']+)""")


class ReadmeHook(MetadataHookInterface):
    """Set the README of the metadata."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the README with absolute links."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text)}


def absolute(text: str) -> str:
    """Return the text with absolute links and pictures."""
    return _LINK.sub(lambda found: found[1] + _base(found[2]) + found[2], text)


def _base(path: str) -> str:
    return PICTURES if path.endswith((".png", ".svg")) else REPOSITORY
