"""The cross-check of `find_heads` with a zoo's own factory reports every kind of disagreement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conformance import cross_check
from conformance.cross_check import Comparison, Explained, compare, read, run, write_table
from pytest_headswap import Head, HeadSwapError, ModelSpec, NoHeadError, Zoo, find_heads


class Net(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.neck, self.fc = nn.Linear(8, 16), nn.Linear(16, classes)
        self.register_buffer("prior", torch.zeros(classes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.neck(x).relu()) + self.prior  # type: ignore[no-any-return]


class Tied(Net):
    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes)
        self.another_name = self.fc


class WithUnused(Net):
    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes)
        self.unused = nn.Linear(16, classes)


class Renamed(Net):
    def __init__(self, classes: int = 10) -> None:
        super().__init__(classes)
        self.register_buffer(f"table_{classes}", torch.zeros(3))


class NeedsValues(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum().item() == 0 else x


def spec(net: Callable[[int], nn.Module] = Net, **options: Any) -> ModelSpec:
    options = {"build_native": net, "example_inputs": lambda model: torch.zeros(2, 8), **options}
    return ModelSpec("net", build=lambda: net(10), **options)


def faulty(change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Callable[[nn.Module, Any], list[Head]]:
    """Return a `find_heads` that names other tensors."""
    return lambda model, inputs: [replace(head, tensors=change(head.tensors)) for head in find_heads(model, inputs)]


@pytest.mark.parametrize("net", [Net, Tied, NeedsValues])
def test_agreement_has_no_differences(net: type[Net]) -> None:
    assert compare(spec(net)) == Comparison("net", agreed=("fc.bias", "fc.weight", "prior"))


def test_one_tensor_less_is_a_difference() -> None:
    result = compare(spec(), faulty(lambda names: names[1:]))
    assert len(result.unnamed) == 1
    assert not result.wrongly_named


def test_one_tensor_more_is_a_difference() -> None:
    result = compare(spec(), faulty(lambda names: (*names, "neck.bias")))
    assert result.wrongly_named == ("neck.bias",)
    assert not result.unnamed


def test_neck_in_place_of_the_head_is_a_difference_in_both_directions() -> None:
    result = compare(spec(), faulty(lambda names: ("neck.weight", "neck.bias")))
    assert result.unnamed == ("fc.bias", "fc.weight", "prior")
    assert result.wrongly_named == ("neck.bias", "neck.weight")


def test_class_sized_tensor_that_forward_does_not_use_is_a_difference() -> None:
    assert compare(spec(WithUnused)).unnamed == ("unused.bias", "unused.weight")


def test_tensor_that_only_one_build_has_is_a_difference() -> None:
    assert compare(spec(Renamed)).unnamed == ("table_11", "table_7")


def test_refusal_of_a_model_with_a_head_is_reported() -> None:
    def find(model: nn.Module, inputs: Any) -> list[Head]:
        raise HeadSwapError("ambiguous", "two heads")

    result = compare(spec(), find)
    assert "[ambiguous] two heads" in result.error
    assert len(result.unnamed) == 3


def test_model_without_a_head_agrees_only_if_the_builds_are_the_same() -> None:
    def find(model: nn.Module, inputs: Any) -> list[Head]:
        raise NoHeadError("output_is_backbone", "features")

    assert compare(spec(lambda classes: Net()), find) == Comparison("net")
    assert "features" in compare(spec(), find).error


def test_model_that_the_zoo_fails_to_build_is_an_error() -> None:
    def broken(classes: int) -> nn.Module:
        raise ValueError("no weights")

    result = compare(spec(broken))
    assert "no weights" in result.error
    assert result.outcome("mine") == "error"


def test_model_that_the_zoo_does_not_build_with_a_class_count_is_skipped_with_the_reason() -> None:
    assert compare(spec(build_native=None)).skipped
    assert compare(spec(skip_reason="no classes")).skipped == "no classes"


def test_explanation_covers_only_its_zoo_models_and_tensors() -> None:
    entry = Explained("mine", "ne*", "unused.*", "it belongs to another task")
    result = compare(spec(WithUnused))
    assert result.unexplained("mine", [entry]) == ()
    assert result.unexplained("other", [entry]) == result.unnamed
    assert result.unexplained("mine", [replace(entry, tensors="unused.bias")]) == ("unused.weight",)
    assert result.unexplained("mine", [replace(entry, models="other*")]) == result.unnamed


def test_second_call_continues_with_the_missing_models(tmp_path: Path) -> None:
    journal = tmp_path / "mine.jsonl"
    zoo = Zoo("mine", ("a", "b"), lambda name: replace(spec(), name=name))
    first = run(zoo, ["a"], journal)
    assert run(zoo, ["a", "b"], journal)[:1] == first
    assert [result.model for result in read(journal)] == ["a", "b"]


def test_table_counts_every_outcome_and_names_what_is_unexplained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_check, "EXPLAINED", (Explained("mine", "known", "*", "forward does not use it"),))
    results = [
        Comparison("good", agreed=("a", "b")),
        Comparison("bad", unnamed=("c",)),
        Comparison("known", unnamed=("c",)),
        Comparison("none"),
        Comparison("no", unnamed=("c",), error="[ambiguous] two"),
        Comparison("gone", skipped="not built"),
    ]
    write_table({"mine": results}, {"torch": "2.15"}, tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    assert "| mine | 6 | 2 | 1 | 1 | 1 | 1 | 1 | 1 |" in text
    assert "- mine `bad`: not named `c`" in text
    assert "[ambiguous] two" in text
    assert "- mine `known`, `*` (models: 1): forward does not use it" in text
