"""`metadata` finds stale counts by what a native model has, whatever the attribute is called."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pytest_headswap.case.case import Case
from pytest_headswap.checks import run_check

MakeCase = Callable[..., Case]


class Unlisted(nn.Module):
    """Keeps its class count where nobody would look for it, and uses it in its loss."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.categories_of_birds = num_classes
        self.arguments = {"num_classes": num_classes} if num_classes != 10 else {}
        self.backbone = nn.Linear(8, 16)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.fc(self.backbone(x).relu())  # type: ignore[no-any-return]


def test_a_count_under_a_name_of_its_own_is_found(make_case: MakeCase) -> None:
    finding = run_check("metadata", make_case(build=Unlisted, native=Unlisted))
    assert finding.outcome == "failed"
    assert finding.message == "attributes do not match 5 classes: categories_of_birds is 10, but 5 in the native model"


def test_without_a_native_model_the_note_says_what_was_looked_at(make_case: MakeCase) -> None:
    finding = run_check("metadata", make_case(build=Unlisted, native=None))
    assert finding.outcome == "passed"
    assert finding.message.startswith("only attributes named after class counts were checked")


def test_collections_that_have_no_entry_a_class_may_differ(make_case: MakeCase) -> None:
    case = make_case(build=Unlisted, native=Unlisted)
    case.model.categories_of_birds = 5  # type: ignore[assignment]
    assert run_check("metadata", case).outcome == "passed"


def test_the_count_of_another_head_may_stay(make_case: MakeCase) -> None:
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

    finding = run_check("metadata", make_case(build=TwoHeads, native=None))
    assert finding.outcome == "passed", finding


def test_an_output_that_happens_to_be_as_wide_as_the_old_count_excuses_nothing(make_case: MakeCase) -> None:
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
