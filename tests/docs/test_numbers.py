"""Test that the numbers on the front pages are those of the files that commands write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_headswap.plugin.planning.costs import FOLDER

from .conftest import DOCS, README, ROOT, tables_of

CONFORMANCE = ROOT / "conformance"
TIMM_PAGES = (README, DOCS / "index.md", DOCS / "scale.md")


def plain(page: Path) -> str:
    """Return the text of a page on one line."""
    return " ".join(page.read_text(encoding="utf-8").split())


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def recipes() -> dict[tuple[str, str], tuple[int, int]]:
    """Return the models and the right ones by zoo and recipe, from `conformance/RECIPES.md`."""
    table, *_ = tables_of(CONFORMANCE / "RECIPES.md")
    return {(zoo, recipe): (number(models), number(right)) for zoo, recipe, models, right, *_ in table}


def cross_check() -> dict[str, tuple[int, int]]:
    """Return the models and the right ones by zoo, from `conformance/CROSSCHECK.md`."""
    table, *_ = tables_of(CONFORMANCE / "CROSSCHECK.md")
    return {zoo: (number(models), number(same)) for zoo, models, _, same, *_ in table}


def facts() -> Iterator[tuple[Path, str]]:
    """Yield phrases that a page must contain, with their numbers from the files."""
    models, right = recipes()["timm", "replace the last `nn.Linear`"]
    tv_models, tv_right = recipes()["torchvision", "replace the last `nn.Linear`"]
    yield DOCS / "index.md", f"wrong for {models - right} of {models:,} timm architectures"
    yield README, f"Replacing the last `nn.Linear` is wrong for {models - right} and for {tv_models - tv_right}"
    _, right = recipes()["timm", "assign to `fc`, `classifier` or `head`"]
    _, tv_right = recipes()["torchvision", "assign to `fc`, `classifier` or `head`"]
    yield README, f"wrong for {models - right} of {models:,} timm architectures"
    yield README, f"for {tv_models - tv_right} of {tv_models} torchvision models"
    reset_models, reset_right = recipes()["timm", "`reset_classifier` of timm"]
    yield README, f"right for {reset_right:,} of {reset_models:,} architectures"
    yield README, f"the distillation heads of the other {reset_models - reset_right}"
    body_models, body_right = recipes()["torchvision", "`create_body` of fastai"]
    yield README, f"works for {body_right} of {body_models} torchvision classifiers"
    peft_models, peft_right = recipes()["transformers", "`classifier` and `score`, as PEFT"]
    yield README, f"the head of {peft_right} of {peft_models} architectures"
    _, same = cross_check()["timm"]
    yield README, f"the tensors of the head in {same:,} of these {models:,} timm architectures"
    costs = json.loads((FOLDER / "timm.json").read_text(encoding="utf-8"))["models"]
    minutes = sum(seconds for seconds, _ in costs.values()) / 60
    for page in TIMM_PAGES:
        yield page, f"all {len(costs):,} timm architectures"
        yield page, f"about {minutes / 2:.0f} minutes"
    yield DOCS / "scale.md", f"their sum is {minutes:.0f} minutes"


@pytest.mark.parametrize(("page", "phrase"), [*facts()], ids=lambda value: getattr(value, "name", None))
def test_page_states_the_number_of_the_file(page: Path, phrase: str) -> None:
    assert phrase in plain(page)


def test_models_of_timm_are_counted_the_same_everywhere() -> None:
    models, _ = cross_check()["timm"]
    texts = [plain(page) for page in (README, *DOCS.rglob("*.md"))]
    counts = {found for text in texts for found in re.findall(r"all ([\d,]{4,}) (?:timm|models)", text)}
    assert counts == {f"{models:,}"}
