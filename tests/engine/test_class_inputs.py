"""Inputs that have the class count as a size: a swap cannot change them, so the error or warning names them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_headswap.engine import HeadSwapError, HeadSwapWarning, NoHeadError, swap_head
from pytest_headswap.engine.pytorch.inputs import Inputs, read_inputs

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
ONE_HOT, LABELS = torch.eye(10)[:4], torch.tensor([0, 1, 2, 9])


class Body(nn.Module):
    """A body and a head, with tensors of the size of the classes. `run` computes the outputs."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)
        self.embed, self.read = nn.Embedding(10, 16), nn.Linear(10, 16)
        self.centers = nn.Parameter(torch.randn(10, 16))
        self.run = run

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x))

    def logits(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))  # type: ignore[no-any-return]

    def forward(self, x: Tensor, prev: Any) -> Any:
        return self.run(self, x, prev)


READ: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "one-hot": (lambda m, x, prev: m.fc(m.features(x) + m.read(prev)), ONE_HOT, "read.weight"),
    "index": (lambda m, x, prev: m.fc(m.features(x) + m.embed(prev)), LABELS, "embed.weight"),
    "centres": (lambda m, x, prev: (m.logits(x), (m.features(x) - m.centers[prev]).norm(dim=1)), LABELS, "centers"),
    "one-hot times centres": (
        lambda m, x, prev: (m.logits(x), (m.features(x) - prev @ m.centers).norm(dim=1)),
        ONE_HOT,
        "centers",
    ),
    "selected": (lambda m, x, prev: (m.logits(x), m.centers.index_select(0, prev)), LABELS, "centers"),
    "reshaped": (lambda m, x, prev: m.fc(m.features(x) + m.embed(prev.squeeze(1))), LABELS[:, None], "embed.weight"),
}


@pytest.mark.filterwarnings("ignore:.*this forward does not use the tensor")
@pytest.mark.parametrize(("run", "prev", "reader"), READ.values(), ids=READ)
def test_a_warning_names_the_input_and_the_tensor_that_reads_it(run: Any, prev: Any, reader: str) -> None:
    model = Body(run)
    with pytest.warns(HeadSwapWarning, match=f"{reader} still has 10 entries.*input 'prev' selects or weighs"):
        swap_head(model, 5, (X, prev))
    outputs = model(X, prev)
    assert (outputs[0] if isinstance(outputs, tuple) else outputs).shape == (4, 5)


@pytest.mark.parametrize(
    ("run", "prev"),
    [
        (lambda m, x, prev: m.logits(x) * prev.mean(), ONE_HOT),
        (lambda m, x, prev: m.fc(m.features(x) + prev), torch.randn(4, 16)),
        (lambda m, x, prev: m.fc(m.features(x) * prev.sum(1, keepdim=True)), ONE_HOT),
    ],
    ids=["a mean", "another size", "a sum"],
)
@pytest.mark.filterwarnings("ignore:.*this forward does not use the tensor")
def test_other_inputs_are_not_named(run: Any, prev: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*input 'prev'")
        assert swap_head(Body(run), 5, (X, prev)).num_classes == 5


def test_the_only_input_is_not_named() -> None:
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 10))
    assert not swap_head(model, 5, torch.zeros(4, 10)).notes


@pytest.mark.parametrize(
    ("run", "prev"),
    [
        (lambda m, x, prev: m.logits(x) + prev, ONE_HOT),
        (lambda m, x, prev: m.logits(x) * prev, torch.ones(10)),
        (lambda m, x, prev: m.logits(x).masked_fill(prev, -9), torch.zeros(4, 10, dtype=torch.bool)),
        (lambda m, x, prev: m.logits(x) + prev["prior"], {"prior": torch.ones(10)}),
        (lambda m, x, prev: torch.where(prev > 0, m.logits(x), 0.0), ONE_HOT),
    ],
    ids=["added", "a mask", "filled", "in a dictionary", "chosen"],
)
def test_an_input_that_meets_the_logits_is_named_in_the_error(run: Any, prev: Any) -> None:
    with pytest.raises(
        NoHeadError, match=r"input 'prev' too, which is combined with the result of fc\.weight"
    ) as error:
        swap_head(Body(run), 5, (X, prev))
    assert error.value.reason == "output_from_input"


def test_labels_that_do_not_fit_after_the_swap_are_named() -> None:
    model = Body(lambda m, x, prev: (functional.cross_entropy(m.logits(x), prev), m.logits(x)))
    with pytest.raises(HeadSwapError, match=r"the input 'prev' \(4, 10\) equals the old class count") as error:
        swap_head(model, 5, (X, ONE_HOT))
    assert error.value.reason == "verification_failed"
    assert model.fc.out_features == 10
    swap_head(model, 5, (X, torch.zeros(4, dtype=torch.long)))


class Images(Body):
    """A model that takes one list of images."""

    def forward(self, images: Any) -> Tensor:  # type: ignore[override]
        return torch.stack([self.logits(image).mean(0) for image in images])


class ImagesAndTargets(Images):
    """A model whose second argument is optional."""

    def forward(self, images: Any, targets: Any = None) -> Tensor:
        if not isinstance(images, list):
            raise TypeError("expected a list")
        return super().forward(images) if targets is None else targets


@pytest.mark.filterwarnings("ignore:.*this forward does not use the tensor")
@pytest.mark.parametrize("make", [Images, ImagesAndTargets])
def test_a_list_for_a_model_that_takes_one_list_says_how_to_pass_it(make: type[Body]) -> None:
    with pytest.raises(HeadSwapError, match=r"use example_inputs=\(\[\.\.\.\],\)") as error:
        swap_head(make(lambda: None), 5, [X, X])
    assert error.value.reason == "forward_failed"
    swap_head(make(lambda: None), 5, ([X, X],))


def test_other_failures_do_not_advise_a_list() -> None:
    with pytest.raises(HeadSwapError) as error:
        swap_head(Body(lambda m, x, prev: m.logits(x @ prev)), 5, (X, torch.zeros(3)))
    assert "([...],)" not in str(error.value)


def test_each_tensor_has_the_name_of_its_argument() -> None:
    def forward(x: Any, pair: Any, *rest: Any, key: Any = None) -> None: ...

    inputs = Inputs((X, (X, [X]), X), {"key": {"a": X}})
    assert inputs.tensor_names(forward) == ["x", "pair", "pair", "number 2", "key"]
    given = read_inputs({"key": X})
    assert given is not None
    assert given.tensor_names(forward) == ["key"]
    assert Inputs((X,)).tensor_names(max) == ["number 0"]


@pytest.mark.filterwarnings("ignore:.*this forward does not use the tensor")
@pytest.mark.parametrize(("run", "prev", "reader"), READ.values(), ids=READ)
def test_no_tensor_is_named_if_the_class_count_stays(run: Any, prev: Any, reader: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*input 'prev'")
        assert swap_head(Body(run), 10, (X, prev)).num_classes == 10
