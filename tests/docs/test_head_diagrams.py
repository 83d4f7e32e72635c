"""Test that the pictures of "How heads are found" show what the engine finds."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from .conftest import DOCS


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("head_diagrams", DOCS / "head_diagrams.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["head_diagrams"] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


pictures = _script()


@pytest.mark.parametrize("name", pictures.MODELS)
def test_committed_picture_matches_the_engine(name: str) -> None:
    reference = pictures.MODELS[name]
    library = reference.partition(":")[0]
    if library != "builtin":
        pytest.importorskip(library)
    committed = (DOCS / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
    drawn = pictures.head_diagram(pictures.survey_heads(reference))
    assert _layers(drawn) == _layers(committed)
    if f"<desc>{pictures.versions()}</desc>" in committed:
        assert drawn == committed


def _layers(picture: str) -> set[str]:
    """Return the texts of the boxes of layers, heads and outputs, which no library version changes."""
    groups = [item for item in ET.fromstring(picture).iter() if item.get("class") in ("layer", "head", "output")]
    return {"\n".join("".join(text.itertext()) for text in group) for group in groups}


def _files() -> list[Path]:
    """Return the pictures of this page. The picture of the architecture has its own script and test."""
    return [path for path in (DOCS / "pictures").iterdir() if path.stem != "architecture"]


def test_page_shows_exactly_the_drawn_pictures() -> None:
    page = (DOCS / "heads.md").read_text(encoding="utf-8")
    shown = re.findall(r"\]\(pictures/(\w+)\.svg\)", page)
    assert shown == list(pictures.MODELS)
    assert {path.stem for path in _files()} == set(shown)
    for reference in pictures.MODELS.values():
        assert f"`{reference}`" in page
    written = {path.read_text(encoding="utf-8").partition("<desc>")[2].partition("</desc>")[0] for path in _files()}
    assert len(written) == 1, "all were drawn together"


def test_picture_shows_heads_and_the_path_of_the_class_dimension() -> None:
    survey = pictures.survey_heads("builtin:distilled")
    heads = survey.heads
    drawn = ET.fromstring(pictures.head_diagram(survey))
    texts = ["".join(item.itertext()) for item in drawn.iter() if item.tag.endswith("}text")]
    assert [head.path for head in heads if head.path in texts] == [head.path for head in heads]
    assert len([item for item in drawn.iter() if item.get("class") == "head"]) == len(heads) > 1
    assert [item for item in drawn.iter() if item.get("class") == "way"]


def test_shared_operations_are_drawn_once() -> None:
    def relus(name: str) -> list[Any]:
        edges = pictures.path_edges(pictures.survey_heads(pictures.MODELS[name]))
        boxes = {box for edge in edges for box in edge[:2]}
        return [box for box in boxes if box.name == "relu"]

    pytest.importorskip("torchvision")
    assert len(relus("fasterrcnn")) == 2, "both heads read what one of them gives"
    assert len(relus("googlenet")) == 4, "each auxiliary head has two of its own"
