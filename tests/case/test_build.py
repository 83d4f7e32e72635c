"""What a case is built from: evidence by what memory allows, the smallest input, numbers that are always the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_headswap._case_options import CaseOptions
from pytest_headswap.case.build import build_case
from pytest_headswap.case.sample_inputs import (
    batch_size,
    randomize,
    smaller_images,
    stable_seed,
    with_batch_size,
    with_other_samples_replaced,
)
from pytest_headswap.case.weight_pool import WEIGHT_POOLS
from pytest_headswap.checks import run_check
from pytest_headswap.engine import NoHeadError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.zoo import ModelSpec


class Net(nn.Module):
    """Takes images of at least `least` pixels, and has one large layer."""

    def __init__(self, least: int = 1) -> None:
        super().__init__()
        self.least = least
        self.stem = nn.Conv2d(3, 128, 16, 16)
        self.wide = nn.Linear(128, 256)
        self.fc = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        assert x.shape[-1] >= self.least, f"{self.least} pixels at least"
        return self.fc(self.wide(self.stem(x).mean((2, 3))).relu())  # type: ignore[no-any-return]


class OwnMemory(Net):
    """Looks at its weights while it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(256, 1024)
        self.scale = float(self.wide.weight.detach().std())


def _images(_: nn.Module) -> torch.Tensor:
    return torch.zeros(2, 3, 320, 320)


def test_large_parameters_lie_in_an_arena_and_the_new_head_does_not() -> None:
    case = build_case("zoo", ModelSpec("net", Net, _images), CaseOptions(5))
    assert WEIGHT_POOLS.pool_of(case.model.get_parameter("wide.weight")) is not None
    assert WEIGHT_POOLS.pool_of(case.model.get_parameter("fc.weight")) is None
    assert (case.numeric, case.evidence) == (True, "numeric")


def test_structure_needs_no_memory_and_keeps_the_input_as_it_ships() -> None:
    case = build_case("zoo", ModelSpec("net", Net, _images), CaseOptions(5, "abstract"))
    assert all(parameter.is_meta for parameter in case.model.parameters())
    assert (case.numeric, case.evidence, case.inputs.tensors()[0].shape[-1]) == (False, "abstract", 320)


@pytest.mark.parametrize(("least", "size"), [(1, 64), (100, 128), (300, 320)])
def test_numbers_are_computed_on_the_smallest_image_that_a_model_takes(least: int, size: int) -> None:
    case = build_case("zoo", ModelSpec("net", lambda: Net(least), _images), CaseOptions(5))
    assert case.inputs.tensors()[0].shape == (2, 3, size, size)


def test_the_small_form_of_a_spec_is_used_for_numbers_alone() -> None:
    small = ModelSpec("net", Net, lambda _: torch.zeros(2, 3, 16, 16), build_native=lambda count: nn.Linear(1, count))
    spec = ModelSpec("net", Net, _images, small_variant=lambda: small)
    assert build_case("zoo", spec, CaseOptions(5)).spec is small
    assert build_case("zoo", spec, CaseOptions(5, "abstract")).spec is spec
    assert build_case("zoo", spec, CaseOptions(5), materialize=True).spec is spec


def test_auto_is_content_with_structure_where_memory_does_not_allow_more_and_says_why() -> None:
    spec = ModelSpec("net", OwnMemory, _images)
    case = build_case("zoo", spec, CaseOptions(5), tensor_bytes=10**6)
    assert (case.evidence, case.abstract_reason) == (
        "abstract",
        "real values would need 0.0 GiB of separate memory, more than the 0.0 GiB allowed",
    )
    assert build_case("zoo", spec, CaseOptions(5, "numeric"), tensor_bytes=10**6).evidence == "numeric"
    assert build_case("zoo", ModelSpec("lean", Net, _images), CaseOptions(5), tensor_bytes=10**6).evidence == "numeric"
    finding = run_check("state_dict", case)
    assert (finding.outcome, finding.message) == ("passed", case.abstract_reason)


def test_a_model_with_memory_of_its_own_shares_nothing() -> None:
    case = build_case("zoo", ModelSpec("net", Net, _images), CaseOptions(5), materialize=True)
    assert all(WEIGHT_POOLS.pool_of(parameter) is None for parameter in case.model.parameters())
    assert case.inputs.tensors()[0].shape[-1] == 320
    assert {run_check(name, case).outcome for name in ("output_shape", "frozen_backbone")} == {"passed"}


def test_placeholders_become_random_numbers_and_what_has_meaning_stays() -> None:
    ids, mask = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.ones(2, 3, dtype=torch.long)
    boxes = torch.tensor([[0.0, 1.0], [0.5, 1.0]])
    given = Inputs((torch.zeros(2, 3), ids), {"mask": mask, "boxes": boxes})
    made = randomize(given, stable_seed("zoo", "net"))
    assert bool(made.args[0].std() > 0)
    assert made.kwargs is not None
    assert made.args[1] is ids
    assert (made.kwargs["mask"] is mask, made.kwargs["boxes"] is boxes) == (True, True)
    assert torch.equal(randomize(given, stable_seed("zoo", "net")).args[0], made.args[0])
    assert not torch.equal(randomize(given, stable_seed("zoo", "other")).args[0], made.args[0])


def test_the_first_sample_stays_and_its_companions_change() -> None:
    given = Inputs((torch.randn(3, 4), torch.arange(12).reshape(3, 4), torch.tensor(2.0)))
    changed = with_other_samples_replaced(given, 0)
    for before, after in zip(given.args[:2], changed.args[:2], strict=True):
        assert torch.equal(before[0], after[0])
        assert not torch.equal(before[1:], after[1:])
    assert changed.args[2] is given.args[2]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_batch_can_have_another_size(batch: int) -> None:
    given = Inputs((torch.arange(6).reshape(2, 3), torch.tensor(1.0)), {"names": torch.zeros(7)})
    made = with_batch_size(given, batch)
    assert batch_size(made) == batch
    assert made.args[0][0].tolist() == [0, 1, 2]
    assert made.kwargs is not None
    assert made.kwargs["names"].shape == (7,)


def test_only_a_lone_image_is_made_smaller() -> None:
    image = torch.zeros(2, 3, 128, 128)
    assert [made.tensors()[0].shape[-1] for made in smaller_images(Inputs((image,)))] == [64, 96]
    assert list(smaller_images(Inputs((image, image)))) == []
    assert [made.tensors()[0].shape for made in smaller_images(Inputs((torch.zeros(2, 3, 96, 64),)))] == [
        (2, 3, 64, 64)
    ]
    assert [made.tensors()[0].shape for made in smaller_images(Inputs((torch.zeros(2, 3, 4, 96, 96),)))] == [
        (2, 3, 4, 64, 64)
    ]


def test_a_model_without_a_head_is_not_built_again_with_memory() -> None:
    built = []

    def build() -> nn.Module:
        built.append("once")
        return nn.Sequential(nn.ReLU())

    with pytest.raises(NoHeadError):
        build_case("zoo", ModelSpec("net", build, lambda _: torch.zeros(2, 8)), CaseOptions(5, "abstract"))
    assert built == ["once"]


class HeadInTrainMode(nn.Module):
    """Has its only head in train mode, where it computes with values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input in eval mode, logits in train mode."""
        if not self.training:
            return x
        return self.fc(x * (1.0 if x.sum().item() > 0 else 2.0))  # type: ignore[no-any-return]


def test_where_a_mode_was_not_seen_for_lack_of_values_it_is() -> None:
    case = build_case("zoo", ModelSpec("net", HeadInTrainMode, lambda _: torch.zeros(2, 8)), CaseOptions(5, "abstract"))
    assert [head.path for head in case.swap.heads] == ["fc"]
