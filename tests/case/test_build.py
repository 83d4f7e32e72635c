"""A case has the evidence that memory allows, the smallest input, and reproducible numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pytest_headswap.case.build import build_case
from pytest_headswap.case.options import CaseOptions
from pytest_headswap.case.sample_inputs import (
    batch_size,
    randomize,
    smaller_images,
    stable_seed,
    with_batch_size,
    with_first_sample_last,
)
from pytest_headswap.case.weight_pool import WEIGHT_POOLS
from pytest_headswap.checks import run_check
from pytest_headswap.engine import NoHeadError
from pytest_headswap.engine.pytorch.inputs import Inputs
from pytest_headswap.zoo import ModelSpec


class Net(nn.Module):
    """A model with one large layer that accepts images of at least `least` pixels."""

    def __init__(self, least: int = 1) -> None:
        super().__init__()
        self.least = least
        self.stem = nn.Conv2d(3, 128, 16, 16)
        self.wide = nn.Linear(128, 256)
        self.fc = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        assert x.shape[-1] >= self.least, f"{self.least} pixels at least"
        return self.fc(self.wide(self.stem(x).mean((2, 3))).relu())  # type: ignore[no-any-return]


class OwnMemory(Net):
    """A model that reads its weights while it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(256, 1024)
        self.scale = float(self.wide.weight.detach().std())


def _images(_: nn.Module) -> torch.Tensor:
    return torch.zeros(2, 3, 320, 320)


def test_only_parameters_of_the_backbone_share_a_weight_pool() -> None:
    case = build_case("zoo", ModelSpec("net", Net, _images), CaseOptions(5))
    assert WEIGHT_POOLS.pool_of(case.model.get_parameter("wide.weight")) is not None
    assert WEIGHT_POOLS.pool_of(case.model.get_parameter("fc.weight")) is None
    assert (case.numeric, case.evidence) == (True, "numeric")


def test_abstract_evidence_needs_no_memory_and_keeps_the_input_size() -> None:
    case = build_case("zoo", ModelSpec("net", Net, _images), CaseOptions(5, "abstract"))
    assert all(parameter.is_meta for parameter in case.model.parameters())
    assert (case.numeric, case.evidence, case.inputs.tensors()[0].shape[-1]) == (False, "abstract", 320)


@pytest.mark.parametrize(("least", "size"), [(1, 64), (100, 128), (300, 320)])
def test_numeric_evidence_uses_the_smallest_image_that_a_model_accepts(least: int, size: int) -> None:
    case = build_case("zoo", ModelSpec("net", lambda: Net(least), _images), CaseOptions(5))
    assert case.inputs.tensors()[0].shape == (2, 3, size, size)


def test_the_small_variant_of_a_spec_is_used_only_for_numeric_evidence() -> None:
    small = ModelSpec("net", Net, lambda _: torch.zeros(2, 3, 16, 16), build_native=lambda count: nn.Linear(1, count))
    spec = ModelSpec("net", Net, _images, small_variant=lambda: small)
    assert build_case("zoo", spec, CaseOptions(5)).spec is small
    assert build_case("zoo", spec, CaseOptions(5, "abstract")).spec is spec
    assert build_case("zoo", spec, CaseOptions(5), materialize=True).spec is spec


def test_auto_falls_back_to_abstract_evidence_with_a_reason_if_memory_is_short() -> None:
    spec = ModelSpec("net", OwnMemory, _images)
    case = build_case("zoo", spec, CaseOptions(5), tensor_bytes=10**6)
    assert (case.evidence, case.abstract_reason) == (
        "abstract",
        "real values would need 3 MiB of separate memory, more than the 1 MiB allowed",
    )
    assert build_case("zoo", spec, CaseOptions(5, "numeric"), tensor_bytes=10**6).evidence == "numeric"
    assert build_case("zoo", ModelSpec("lean", Net, _images), CaseOptions(5), tensor_bytes=10**6).evidence == "numeric"
    finding = run_check("state_dict", case)
    assert (finding.outcome, finding.message) == ("passed", case.abstract_reason)


def test_a_materialized_model_shares_no_memory() -> None:
    case = build_case("zoo", ModelSpec("net", Net, _images), CaseOptions(5), materialize=True)
    assert all(WEIGHT_POOLS.pool_of(parameter) is None for parameter in case.model.parameters())
    assert case.inputs.tensors()[0].shape[-1] == 320
    assert {run_check(name, case).outcome for name in ("output_shape", "frozen_backbone")} == {"passed"}


def test_only_constant_inputs_become_random_numbers() -> None:
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


def test_the_first_sample_moves_to_the_end_and_the_others_change() -> None:
    given = Inputs((torch.randn(3, 4), torch.arange(12).reshape(3, 4), torch.tensor(2.0)))
    changed = with_first_sample_last(given, 0)
    for before, after in zip(given.args[:2], changed.args[:2], strict=True):
        assert torch.equal(before[0], after[-1])
        assert before.shape == after.shape
        assert not any(torch.equal(one, other) for one in before for other in after[:-1])
    assert changed.args[2] is given.args[2]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_size_can_be_changed(batch: int) -> None:
    given = Inputs((torch.arange(6).reshape(2, 3), torch.tensor(1.0)), {"names": torch.zeros(7)})
    made = with_batch_size(given, batch)
    assert batch_size(made) == batch
    assert made.args[0][0].tolist() == [0, 1, 2]
    assert made.kwargs is not None
    assert made.kwargs["names"].shape == (7,)


def test_only_a_single_image_is_made_smaller() -> None:
    image = torch.zeros(2, 3, 128, 128)
    assert [made.tensors()[0].shape[-1] for made in smaller_images(Inputs((image,)))] == [64, 96]
    assert list(smaller_images(Inputs((image, image)))) == []
    assert [made.tensors()[0].shape for made in smaller_images(Inputs((torch.zeros(2, 3, 96, 64),)))] == [
        (2, 3, 64, 64)
    ]
    assert [made.tensors()[0].shape for made in smaller_images(Inputs((torch.zeros(2, 3, 4, 96, 96),)))] == [
        (2, 3, 4, 64, 64)
    ]


def test_a_model_without_a_head_is_built_only_once() -> None:
    built = []

    def build() -> nn.Module:
        built.append("once")
        return nn.Sequential(nn.ReLU())

    with pytest.raises(NoHeadError):
        build_case("zoo", ModelSpec("net", build, lambda _: torch.zeros(2, 8)), CaseOptions(5, "abstract"))
    assert built == ["once"]


class HeadInTrainMode(nn.Module):
    """A model whose only head runs in train mode and computes with values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input in eval mode, and logits in train mode."""
        if not self.training:
            return x
        return self.fc(x * (1.0 if x.sum().item() > 0 else 2.0))  # type: ignore[no-any-return]


def test_a_model_whose_train_mode_needs_values_is_built_again() -> None:
    case = build_case("zoo", ModelSpec("net", HeadInTrainMode, lambda _: torch.zeros(2, 8)), CaseOptions(5, "abstract"))
    assert [head.path for head in case.swap.heads] == ["fc"]


def test_the_documentation_states_the_default_class_count() -> None:
    text = (Path(__file__).parents[2] / "docs" / "options.md").read_text("utf-8")
    assert f"class count of the new heads; default: {CaseOptions().num_classes} |" in text
