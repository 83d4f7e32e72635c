"""A class with `from_pretrained` is built again from what it stores, and that decides what follows the class count."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapWarning, Swap, swap_head

X = torch.randn(4, 8)


class Library(nn.Module):
    """A model as libraries write them: its class builds it from what an instance stores."""

    @classmethod
    def from_pretrained(cls, model: Any) -> Any:
        recorded = getattr(model, "_recorded", None) or {"config": model.config}
        new = cls(**recorded)
        new.load_state_dict(model.state_dict())
        return new


@dataclass
class Config:
    words: int = 10
    layers: int = 10
    width: int = 16


class Speech(Library):
    """The class count is called `words`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.words = config.words
        self.body, self.fc = nn.Linear(8, config.width), nn.Linear(config.width, config.words)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.body(x).relu())
        return out


class Segmenter(Speech):
    """An auxiliary head is run, and no output shows its result."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.aux = nn.Sequential(nn.Conv2d(config.width, 4, 1), nn.ReLU(), nn.Conv2d(4, config.words, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.aux(self.body(x)[..., None, None])
        return super().forward(x)


class Recorded(Library):
    """The arguments are recorded in one mapping, as by `PyTorchModelHubMixin`."""

    def __init__(self, width: int, out: int = 10, depth: int = 10) -> None:
        super().__init__()
        self._recorded = {"width": width, "out": out, "depth": depth}
        self.body, self.fc, self.aux = nn.Linear(8, width), nn.Linear(width, out), nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.body(x).relu())
        return out


class Detector(Library):
    """The library adds a class for no object."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, len(config["id2label"]) + 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.body(x).relu())
        return out


class PlusOne(Detector):
    """The count is a number, and the head is one larger."""

    def __init__(self, config: dict[str, Any]) -> None:
        Library.__init__(self)
        self.config = config
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, config["objects"] + 1)


def swapped(model: nn.Module, count: int = 5) -> Swap:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadSwapWarning)
        return swap_head(model, count, X)


@pytest.mark.parametrize("count", [5, 20])
@pytest.mark.parametrize(
    "build",
    [
        lambda: Speech(Config()),
        lambda: Segmenter(Config()),
        lambda: Recorded(16),
        lambda: Detector({"id2label": {index: f"L{index}" for index in range(9)}}),
        lambda: PlusOne({"objects": 9}),
    ],
    ids=["another name", "auxiliary head", "recorded arguments", "one label less", "one less"],
)
def test_the_library_loads_what_was_swapped(build: Any, count: int) -> None:
    model = build()
    swap = swapped(model, count)
    loaded = type(model).from_pretrained(model)
    assert torch.equal(loaded(X), model(X))
    swap.restore()
    assert torch.equal(type(model).from_pretrained(model)(X), model(X))


def test_numbers_that_the_new_shapes_do_not_need_stay_without_a_note() -> None:
    model = Speech(Config())
    assert swapped(model).notes == ()
    assert (model.config.words, model.words, model.config.layers) == (5, 5, 10)
    recorded = Recorded(16)
    assert [note.partition(":")[0] for note in swapped(recorded).notes] == ["aux"]
    assert recorded._recorded == {"width": 16, "out": 5, "depth": 10}


def test_a_head_that_no_output_shows_is_swapped_trained_and_reported() -> None:
    model = Segmenter(Config())
    swap = swapped(model)
    assert [head.path for head in swap.heads] == ["fc", "aux.2"]
    assert {name for name, _ in swap.named_parameters()} == {"fc.weight", "fc.bias", "aux.2.weight", "aux.2.bias"}
    assert swap.notes == ("aux.2: swapped, but not verified: no output of this forward shows it",)


def test_a_class_count_that_the_library_fixes_is_named() -> None:
    class Fixed(Speech):
        def __init__(self, config: Config) -> None:
            super().__init__(config)
            self.words = 0
            self.fc = nn.Linear(config.width, 10)

    (note,) = swapped(Fixed(Config(words=3, layers=2))).notes
    assert note.startswith("in a Fixed built from its configuration, fc.bias has shape (10,), fc.weight has shape")


def test_a_model_that_cannot_be_built_again_is_swapped_without_that_evidence() -> None:
    class Once(Speech):
        built = 0

        def __init__(self, config: Config) -> None:
            type(self).built += 1
            if type(self).built > 1:
                raise RuntimeError("only once")
            super().__init__(config)

    model = Once(Config())
    swap = swapped(model)
    assert model.fc.out_features == 5
    assert any("words = 10" in note for note in swap.notes)


def test_building_again_leaves_random_numbers_alone() -> None:
    class Random(Speech):
        def __init__(self, config: Config) -> None:
            super().__init__(config)
            self.start = random.random() + float(torch.rand((), device="cpu"))

    model = Random(Config())
    random.seed(0)
    expected = random.Random(0).random()
    swapped(model)
    assert random.random() == expected
