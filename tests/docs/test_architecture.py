"""Test that the picture of the architecture shows the current imports of the package."""

from __future__ import annotations

import importlib.util
import re
import sys
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from .conftest import DOCS, tables_of


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("architecture", DOCS / "architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["architecture"] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


architecture = _script()
BOXES = ("road", "side")  # classes of a folder the model passes through, and of the others


def test_committed_picture_is_up_to_date() -> None:
    committed = architecture.PICTURE.read_text(encoding="utf-8")
    assert architecture.draw() == committed, "run: python docs/architecture.py"


def test_each_box_lists_the_imports_of_its_folder() -> None:
    imports = architecture.imports_between(architecture.PACKAGE, "pytest_headswap")
    picture = ET.fromstring(architecture.draw())
    boxes = [["".join(text.itertext()) for text in group] for group in picture.iter() if group.get("class") in BOXES]
    lines = {name: rest[-1] for _, name, *rest in boxes}
    for folder, targets in imports.items():
        names = sorted(targets - {architecture.MODULES})
        if folder != architecture.MODULES:
            assert lines[folder] == (f"imports {', '.join(names)}" if names else "imports no other folder")


def test_boxes_do_not_overlap() -> None:
    boxes = architecture._boxes()
    assert [pair for pair in combinations(boxes, 2) if architecture._touch(*(boxes[name] for name in pair), 0)] == []


@pytest.mark.parametrize(
    ("imports", "arrows"),
    [
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, [("a", "b"), ("b", "c")]),
        ({"a": {"b", "c"}, "b": set(), "c": set()}, [("a", "b"), ("a", "c")]),
    ],
)
def test_indirect_imports_have_no_arrow(imports: dict[str, set[str]], arrows: list[tuple[str, str]]) -> None:
    assert list(architecture.essential(imports)) == arrows


def test_every_form_of_import_is_read(tmp_path: Path) -> None:
    files = {
        "high/__init__.py": "",
        "high/module.py": "def late():\n    from box.low import name\n",
        "high/other.py": "import box.middle.part\nfrom box._text import word\n",
        "middle/__init__.py": "",
        "middle/part.py": "from box import low\n",
        "low/__init__.py": "import torch\n",
        "_text.py": "",
        "__init__.py": "from box.high.module import late\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert architecture.imports_between(tmp_path, "box") == {
        "high": {"low", "middle", "modules"},
        "middle": {"low"},
        "low": set(),
        "modules": set(),
    }


def test_import_of_a_higher_folder_is_an_error() -> None:
    with pytest.raises(ValueError, match="engine imports plugin, which is not below it"):
        architecture._routes([("engine", "plugin")], architecture._boxes())


def test_architecture_page_names_every_folder_and_has_a_short_glossary() -> None:
    page = DOCS / "architecture.md"
    named = set(re.findall(r"`(\w+)`", page.read_text(encoding="utf-8")))
    rows = {name for row in architecture.ROWS for name in row} - {architecture.MODULES}
    assert rows <= named
    (glossary,) = tables_of(page)
    terms = [term for term, _ in glossary]
    assert len(terms) <= 20
    assert terms == sorted(terms)
