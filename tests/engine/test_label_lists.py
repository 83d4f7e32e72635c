"""A head that is a list of layers, one for each label, gets as many layers as there are classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap import HeadSwapError, freeze_backbone, swap_head

X = torch.randn(4, 8)
Combine = Callable[[Iterable[nn.Module], Tensor], Tensor]


class Labels(nn.Module):
    def __init__(self, combine: Combine, layer: Callable[[], nn.Module] = lambda: nn.Linear(16, 1)) -> None:
        super().__init__()
        self.combine = combine
        self.body = nn.Linear(8, 16)
        self.labels = nn.ModuleList(layer() for _ in range(10))
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(self.labels, self.body(x).relu()) + self.bias


COMBINATIONS: dict[str, Combine] = {
    "stacked": lambda labels, f: torch.stack([label(f)[:, 0] for label in labels], 1),
    "stacked in front": lambda labels, f: torch.stack([label(f).squeeze(-1) for label in labels]).t(),
    "concatenated": lambda labels, f: torch.cat([label(f) for label in labels], 1),
    "concatenated after a sigmoid": lambda labels, f: torch.cat([label(f).sigmoid() for label in labels], -1).log(),
}


@pytest.mark.parametrize("classes", [5, 12])
@pytest.mark.parametrize("name", COMBINATIONS)
def test_the_list_gets_one_layer_per_class(name: str, classes: int) -> None:
    model = Labels(COMBINATIONS[name]).eval()
    before, expected = model.labels, model(X)
    swap = swap_head(model, classes, X)
    head = swap.heads[0]
    assert (head.path, head.kind, head.in_features, head.num_classes) == ("labels", "list", 16, classes)
    assert len(model.labels) == classes
    assert len({id(parameter) for parameter in swap.parameters()}) == 2 * classes + 1
    assert model(X).shape == (4, classes)
    model(X).square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in swap.parameters())
    swap.restore()
    assert model.labels is before
    assert torch.equal(model(X), expected)
    swap.reapply()
    assert len(model.labels) == classes


def test_each_layer_may_have_layers_of_its_own() -> None:
    model = Labels(COMBINATIONS["concatenated"], lambda: nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 1)))
    swap = swap_head(model, 5, X)
    assert model(X).shape == (4, 5)
    freeze_backbone(swap)
    trainable = {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert trainable == {"labels", "bias"}


def test_a_class_map_keeps_the_layers_of_old_labels() -> None:
    model = Labels(COMBINATIONS["stacked"])
    old = model.labels[7].get_parameter("weight").detach().clone()
    swap_head(model, 3, X, class_map=[None, 7, None])
    assert torch.equal(model.labels[1].get_parameter("weight"), old)
    assert not torch.equal(model.labels[0].get_parameter("weight"), old)


@pytest.mark.parametrize("init", ["zeros", "prior"])
def test_a_named_initialisation_reaches_every_layer(init: str) -> None:
    model = Labels(COMBINATIONS["stacked"])
    swap_head(model, 5, X, init=init)
    biases = torch.stack([layer.get_parameter("bias") for layer in model.labels])
    assert (biases == biases[0]).all()
    assert (biases == 0).all() == (init == "zeros")


def test_a_list_of_labels_cannot_be_removed_or_replaced() -> None:
    model = Labels(COMBINATIONS["stacked"])
    for arguments in ({"num_classes": 0}, {"num_classes": 5, "new_head": nn.Linear}):
        with pytest.raises(HeadSwapError) as error:
            swap_head(model, example_inputs=X, **arguments)
        assert error.value.reason == "unsupported_layer"
        assert len(model.labels) == 10


def test_a_dictionary_of_labels_is_refused_with_the_reason() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 16)
            self.labels = nn.ModuleDict({name: nn.Linear(16, 1) for name in ("cat", "dog", "owl")})

        def forward(self, x: Tensor) -> Tensor:
            f = self.body(x).relu()
            return torch.cat([label(f) for label in self.labels.values()], 1)

    with pytest.raises(HeadSwapError, match="names of new labels") as error:
        swap_head(Named(), 5, X)
    assert error.value.reason == "unsupported_layer"


def test_a_stack_of_features_is_no_list_of_labels() -> None:
    """The layers set a dimension of their own, which is the class dimension."""

    def ensemble(labels: Iterable[nn.Module], f: Tensor) -> Tensor:
        return torch.stack([label(f) for label in labels], 1).mean(1)

    model = Labels(ensemble, lambda: nn.Linear(16, 10))
    swap = swap_head(model, 5, X)
    assert len(model.labels) == 10
    assert model(X).shape == (4, 5)
    assert {head.kind for head in swap.heads} == {"linear"}


def test_a_function_can_fill_the_layer_of_each_label() -> None:
    def fill(name: str, tensor: Tensor) -> None:
        tensor.fill_(2.0)

    model = Labels(COMBINATIONS["stacked"])
    swap_head(model, 5, X, init=fill)
    assert all((value == 2).all() for layer in model.labels for value in layer.parameters())


def test_labels_that_come_from_two_lists_in_turn_are_refused_as_a_concatenation() -> None:
    class Turns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 16)
            self.near, self.wide = (nn.ModuleList(nn.Linear(16, 1) for _ in range(10)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            f = self.body(x).relu()
            return torch.cat([(self.wide if at % 2 else self.near)[at](f) for at in range(10)], 1)

    with pytest.raises(HeadSwapError, match="sets only part of the class dimension") as error:
        swap_head(Turns(), 5, X)
    assert error.value.reason == "concatenated"
