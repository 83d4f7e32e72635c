"""`metadata` finds stale class counts by comparison with a native model, under any attribute name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pytest_headswap.case.build import build_case
from pytest_headswap.case.case import Case
from pytest_headswap.case.options import CaseOptions
from pytest_headswap.checks import run_check
from pytest_headswap.zoo import ModelSpec

COUNTER = itertools.count(1000)
MakeCase = Callable[..., Case]


class UnusualName(nn.Module):
    """A model that stores its class count under an unusual name."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.categories_of_birds = num_classes
        self.arguments = {"num_classes": num_classes} if num_classes != 10 else {}
        self.backbone = nn.Linear(8, 16)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.fc(self.backbone(x).relu())  # type: ignore[no-any-return]


def test_a_stale_count_under_an_unusual_name_fails(make_case: MakeCase) -> None:
    finding = run_check("metadata", make_case(build=UnusualName, native=UnusualName))
    assert finding.outcome == "failed"
    assert finding.message == "attributes do not match 5 classes: categories_of_birds is 10, but 5 in the native model"


def test_without_a_native_model_a_note_says_what_was_checked(make_case: MakeCase) -> None:
    finding = run_check("metadata", make_case(build=UnusualName, native=None))
    assert finding.outcome == "passed"
    assert finding.message.startswith("only attributes named after class counts were checked")


def test_collections_without_one_entry_per_class_may_differ(make_case: MakeCase) -> None:
    case = make_case(build=UnusualName, native=UnusualName)
    case.model.categories_of_birds = 5  # type: ignore[assignment]
    assert run_check("metadata", case).outcome == "passed"


def test_the_class_count_of_another_head_may_stay() -> None:
    class TwoHeads(nn.Module):
        num_classes: int

        def __init__(self) -> None:
            super().__init__()
            self.num_classes = 10
            self.n_classes = 10
            self.species = nn.Linear(8, 10)
            self.colour = nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.species(x), self.colour(x)

    spec = ModelSpec("two", TwoHeads, lambda _: torch.zeros(2, 8), head="species")
    case = build_case("testzoo", spec, CaseOptions(5))
    finding = run_check("metadata", case)
    assert finding.outcome == "passed", finding


def test_a_stale_count_fails_even_if_another_output_has_that_width(make_case: MakeCase) -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.number_of_classes = 10
            self.backbone = nn.Linear(8, 10)
            self.fc = nn.Linear(10, 10)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.backbone(x).relu()
            return self.fc(features), features

    finding = run_check("metadata", make_case(build=Wide, native=None))
    assert finding.message == "attributes still have the old class count 10: number_of_classes"


class Stored(nn.Module):
    """A model that stores `value(num_classes)` in a place of any kind."""

    def __init__(self, store: Callable[[Any, int], None], num_classes: int = 10) -> None:
        super().__init__()
        self.backbone, self.fc = nn.Linear(8, 16), nn.Linear(16, num_classes)
        store(self, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.fc(self.backbone(x).relu())  # type: ignore[no-any-return]


@dataclass
class Options:
    birds: int


STALE: dict[str, tuple[Callable[[Any, int], None], str]] = {
    "dict": (lambda m, n: setattr(m, "options", {"a": {"birds": n}}), "options['a']['birds'] is 10, but 5"),
    "tuple": (lambda m, n: setattr(m, "options", (1, n)), "options[1] is 10, but 5"),
    "dataclass": (lambda m, n: setattr(m, "options", Options(n)), "options.birds is 10, but 5"),
    "nested": (lambda m, n: setattr(m, "config", {"head": Options(n)}), "config['head'].birds is 10, but 5"),
    "float": (lambda m, n: setattr(m, "birds", float(n)), "birds is 10, but 5"),
    "NumPy": (lambda m, n: setattr(m, "birds", np.int64(n)), "birds is 10, but 5"),
    "tensor": (lambda m, n: setattr(m, "weights", torch.ones(n)), "weights is of shape (10,), but of shape (5,)"),
    "array": (lambda m, n: setattr(m, "weights", np.ones((2, n))), "weights is of shape (2, 10), but of shape (2, 5)"),
    "list": (lambda m, n: setattr(m, "weights", [0.5] * n), "weights is a collection of 10 entries, but"),
    "buffer": (
        lambda m, n: m.register_buffer("weights", torch.ones(n), persistent=False),
        "weights is of shape (10,), but of shape (5,)",
    ),
    "boxes": (lambda m, n: setattr(m, "boxes", 4 * n), "boxes is 40, but 20"),
    "background": (lambda m, n: setattr(m, "with_background", n + 1), "with_background is 11, but 6"),
}


@pytest.mark.parametrize("kind", STALE)
def test_a_stale_count_is_found_wherever_it_is_stored(make_case: MakeCase, kind: str) -> None:
    store, message = STALE[kind]
    build = partial(Stored, store)
    case = make_case(build=build, native=build)
    fresh = Stored(store)  # whatever the swap updated is stale again
    for registry in ("__dict__", "_buffers"):
        for key, value in getattr(fresh, registry).items():
            if key not in nn.Module().__dict__:
                getattr(case.model, registry)[key] = value
    finding = run_check("metadata", case)
    assert finding.outcome == "failed"
    assert message in finding.message


@pytest.mark.parametrize(
    "store",
    [
        lambda m, n: setattr(m, "parameter_count", 144 + 17 * n),
        lambda m, n: setattr(m, "built", next(COUNTER)),
        lambda m, n: setattr(m, "depths", [1] * (11 if n == 10 else 12)),
        lambda m, n: setattr(m, "patch", 10),
        lambda m, n: setattr(m, "table", torch.ones(10, 16)),
    ],
    ids=["a number of parameters", "a serial number", "arguments", "equal by chance", "a table of that size"],
)
def test_values_that_merely_differ_or_are_merely_equal_pass(make_case: MakeCase, store: Any) -> None:
    build = partial(Stored, store)
    finding = run_check("metadata", make_case(build=build, native=build))
    assert finding.outcome == "passed", finding


@pytest.mark.parametrize("store", [lambda m, n: setattr(m, "config", {"num_classes": n})])
def test_a_stale_count_in_a_container_fails_without_a_native_model(make_case: MakeCase, store: Any) -> None:
    case = make_case(build=partial(Stored, store), native=None)
    model: Any = case.model
    model.config["num_classes"] = 10
    finding = run_check("metadata", case)
    assert finding.message == "attributes still have the old class count 10: config['num_classes']"


def test_a_property_that_states_the_old_count_fails(make_case: MakeCase) -> None:
    class Property(Stored):
        fewer: int

        @property
        def num_classes(self) -> int:
            return self.fewer + 1

    build = partial(Property, lambda m, n: setattr(m, "fewer", n - 1))
    finding = run_check("metadata", make_case(build=build, native=build))
    assert finding.outcome == "failed"
    assert "num_classes is 10, but 5" in finding.message


def test_a_buffer_that_a_layer_leaves_empty_passes() -> None:
    class Leaves(nn.Module):
        def __init__(self, num_classes: int = 10) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, num_classes)
            self.register_buffer("scale", None)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.body(x).relu())  # type: ignore[no-any-return]

    spec = ModelSpec("leaves", build=Leaves, build_native=Leaves, example_inputs=lambda model: torch.zeros(2, 8))
    assert run_check("metadata", build_case("own", spec, CaseOptions())).outcome == "passed"
