"""Test that the pictures of commands show what the commands print, and that each picture exists for both themes."""

from __future__ import annotations

import importlib.util
import re
import sys
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from packaging.version import Version

from .conftest import DOCS, PAGES

SCREENS = DOCS / "screens"


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("screenshots", DOCS / "screenshots.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["screenshots"] = module
    spec.loader.exec_module(module)
    return module


screenshots = _script()


def _text(picture: str) -> str:
    """Return the text of a picture without spaces, which it may break anywhere."""
    texts = ["".join(item.itertext()) for item in ET.fromstring(picture).iter() if item.tag.endswith("}text")]
    return re.sub(r"\s", "", "".join(texts))


def test_picture_of_explain_shows_what_the_command_prints() -> None:
    torchvision = pytest.importorskip("torchvision")
    if Version(torchvision.__version__) < Version("0.23"):
        pytest.skip("GoogLeNet of an older version names its auxiliary outputs the other way round")
    printed = screenshots.printed_by(screenshots.EXPLAIN)
    for theme in ("light", "dark"):
        committed = (SCREENS / f"explain-{theme}.svg").read_text(encoding="utf-8")
        plain = re.sub(r"\x1b\[[\d;]*m|\s", "", f"$ {screenshots.EXPLAIN} {printed}")
        assert _text(committed) == plain, "run: python docs/screenshots.py explain"


def test_pictures_of_commands_load_no_fonts() -> None:
    theme = next(iter(screenshots._THEMES.values()))
    drawn = screenshots.terminal("headswap explain <script>&", "\x1b[1mbold\x1b[0m <b>&", theme)
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "").replace("https://www.textualize.io", "")
    assert "font-face" not in drawn
    assert _text(drawn) == "$headswapexplain<script>&bold<b>&"


def test_pages_show_each_picture_in_both_themes() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    shown = set(re.findall(r"screens/([\w-]+\.\w+)", text))
    assert shown == {path.name for path in SCREENS.iterdir()} - {"card.png"}
    shown.remove("badge.svg")
    names = {name.replace("-dark", "-light") for name in shown}
    assert shown == names | {name.replace("-light", "-dark") for name in names}


def test_pictures_are_small() -> None:
    assert sum(path.stat().st_size for path in SCREENS.iterdir()) < 600_000
    assert all(path.stat().st_size < 150_000 for path in SCREENS.iterdir())
