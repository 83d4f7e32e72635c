"""`metadata` finds stale class counts by comparison with a native model, under any attribute name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pytest_headswap.case.build import build_case
from pytest_headswap.case.case import Case
from pytest_headswap.case.options import CaseOptions
from pytest_headswap.checks import run_check
from pytest_headswap.zoo import ModelSpec

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
