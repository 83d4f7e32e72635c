"""Heads and swaps print what was found, and show it as tables in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import nn

from pytest_headswap import Head, Heads, Rejected, find_heads, swap_head

X = torch.zeros(2, 8)
EVIL = "<script>alert('x')</script>&\x1b[31m\n"


class Distilled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.head, self.head_dist = nn.Linear(16, 10), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> Any:
        features = self.body(x).relu()
        return self.head(features).softmax(-1), self.head_dist(features).softmax(-1)


class Root(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.t()


class Hostile(nn.Module):
    """A model with a module whose name is markup."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.add_module("<b>&", nn.Linear(16, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.get_submodule("<b>&")(self.body(x).relu())  # type: ignore[no-any-return]


class _Cells(HTMLParser):
    """Collect the texts of the cells and captions, and check that all tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in {"table", "caption", "tbody", "tr", "td", "p"}
        assert not attrs
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_printing_heads_shows_each_head_and_the_rejected_layers() -> None:
    text = str(find_heads(Distilled(), X))
    assert text.startswith(
        "2 heads, found by an abstract run on the meta device\n\nhead\n  kind             linear, 16 -> 10\n"
    )
    assert "\n\nhead_dist\n" in text
    assert "  activation       softmax\n" in text
    assert "\nRejected\n  body: " in text
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize(
    "build", [Distilled, Root, Hostile, lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))]
)
def test_notebooks_show_the_same_texts(build: Callable[[], nn.Module]) -> None:
    model = build()
    heads = find_heads(model, torch.zeros(2, 3, 5, 5) if isinstance(model, nn.Sequential) else X)
    cells = _Cells(heads._repr_html_()).texts
    assert cells[0] == heads.summary
    for section in heads.sections():
        assert section.title in cells
        assert all(text in cells for _, text in section.rows)


def test_a_head_of_the_model_itself_has_a_title() -> None:
    heads = find_heads(Root(), X)
    assert "\n\nthe model itself\n" in str(heads)
    assert "(the model itself)" in swap_head(Root(), 5, X)._repr_html_()


def test_markup_and_control_characters_are_escaped() -> None:
    head = Head(EVIL, "linear", 3, 4, 1, outputs=(EVIL,), evidence=(EVIL,))
    heads = Heads((head,), (Rejected(EVIL, EVIL),), notes=(EVIL,), tensor_kind="<i>")
    assert "\x1b" not in str(heads)
    assert "<script>" not in heads._repr_html_()
    assert any("<script>" in text for text in _Cells(heads._repr_html_()).texts)
    swap = swap_head(Hostile(), 5, X)
    assert "&lt;b&gt;&amp;" in swap._repr_html_()
    swap.notes = (EVIL,)
    assert "<script>" not in swap._repr_html_()


def test_no_heads_are_shown_as_such() -> None:
    assert str(Heads(())) == "0 heads, found by an abstract run on the meta device"
    assert _Cells(Heads(())._repr_html_()).texts == [str(Heads(()))]


def test_a_swap_shows_each_head_with_both_counts_and_its_notes() -> None:
    swap = swap_head(Distilled(), 5, X, head=["head", "head_dist"])
    swap.notes = ("look here",)
    assert repr(swap) == "Swap(Distilled: head 10 -> 5, head_dist 10 -> 5)"
    assert _Cells(swap._repr_html_()).texts == [
        *("Swap of Distilled", "head", "10 -> 5", "head_dist", "10 -> 5", "note", "look here")
    ]


def test_a_removed_head_is_shown_with_no_classes() -> None:
    swap = swap_head(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10)), 0, X)
    assert _Cells(swap._repr_html_()).texts == ["Swap of Sequential", "2", "10 -> 0"]
