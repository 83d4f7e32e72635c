"""`conformance.recipes` judges the usual ways to replace a head by what the zoo itself builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from conformance import recipes
from conformance.recipes import ATTRIBUTE, LAST_LINEAR, MORE, NOTHING, OTHER, PARTLY, PEFT, RIGHT, TIMM, try_recipes
from conformance.sampled_models import sample
from pytest_headswap import ModelSpec


class Net(nn.Module):
    """A model whose layers are given by name."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace `fc` alone, as a library might."""
        self.fc = nn.Linear(4, num_classes)


def plain(classes: int) -> nn.Module:
    return Net(body=nn.Linear(4, 4), fc=nn.Linear(4, classes))


def registered_first(classes: int) -> nn.Module:
    return Net(head=nn.Linear(4, classes), body=nn.Linear(4, 4))


def two_heads(classes: int) -> nn.Module:
    return Net(fc=nn.Linear(4, classes), aux=nn.Linear(4, classes))


def convolution(classes: int) -> nn.Module:
    return Net(body=nn.Conv2d(3, 4, 1), out=nn.Conv2d(4, classes, 1))


def deep_classifier(classes: int) -> nn.Module:
    return Net(classifier=nn.Sequential(nn.Linear(4, 4), nn.Linear(4, classes)))


def outcomes(build: Any, zoo: str = "mine", name: str = "net") -> dict[str, str]:
    return try_recipes(zoo, ModelSpec(name, lambda: build(10), build_native=build)).outcomes


@pytest.mark.parametrize(
    ("build", "last_linear", "attribute"),
    [
        (plain, RIGHT, RIGHT),
        (registered_first, OTHER, RIGHT),
        (two_heads, PARTLY, PARTLY),
        (convolution, NOTHING, NOTHING),
        (deep_classifier, RIGHT, MORE),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_outcome_says_which_tensors_a_recipe_replaces(build: Any, last_linear: str, attribute: str) -> None:
    found = outcomes(build)
    assert (found[LAST_LINEAR], found[ATTRIBUTE]) == (last_linear, attribute)


def test_reset_classifier_is_compared_with_the_model_that_the_library_builds() -> None:
    assert outcomes(plain, "timm")[TIMM] == RIGHT
    assert outcomes(two_heads, "timm")[TIMM] == PARTLY
    assert outcomes(lambda classes: nn.Linear(4, classes), "timm")[TIMM].startswith("error: AttributeError")


def test_names_of_peft_count_only_for_text_classifiers() -> None:
    assert PEFT not in outcomes(plain)
    assert outcomes(deep_classifier, name="NetForSequenceClassification")[PEFT] == RIGHT
    assert outcomes(plain, name="NetForTokenClassification")[PEFT] == NOTHING


def test_model_without_a_head_does_not_count() -> None:
    assert outcomes(lambda _: nn.Linear(4, 4)) == {}
    assert try_recipes("mine", ModelSpec("net", nn.Flatten)).outcomes == {}


def test_run_continues_with_the_models_that_the_journal_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = sample("builtin:12")
    first = recipes.run(item, tmp_path / "builtin.jsonl")
    monkeypatch.setattr(recipes, "try_recipes", lambda *_: pytest.fail("tried again"))
    assert recipes.run(item, tmp_path / "builtin.jsonl") == first
    lines = recipes.table({"builtin": first})
    assert f"| builtin | {LAST_LINEAR} | {sum(bool(result.outcomes) for result in first)} |" in "\n".join(lines)


class Shared(nn.Module):
    """A model that registers its head under two names."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(4, classes)
        self.same = self.fc

    def forward(self, x: Tensor) -> Any:
        return self.fc(x)


def test_tensors_with_two_names_count_once() -> None:
    assert outcomes(Shared)[LAST_LINEAR] == RIGHT
