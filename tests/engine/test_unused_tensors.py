"""Class-sized tensors that forward does not use keep their size, and a warning names them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapWarning, swap_head

X = torch.randn(4, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        out: Tensor = self.fc(self.body(x))
        criterion: Any = getattr(self, "criterion", None)
        return out if labels is None else criterion(out, labels)


def with_class_weights(model: Any) -> list[str]:
    model.criterion = nn.CrossEntropyLoss(weight=torch.rand(10))
    return ["criterion.weight"]


def with_average(model: Any) -> list[str]:
    model.average = copy.deepcopy(model.fc)
    return ["average.weight", "average.bias"]


def with_shadow(model: Any) -> list[str]:
    model.register_buffer("shadow", model.fc.weight.detach().clone(), persistent=False)
    return ["shadow"]


def with_prototypes(model: Any) -> list[str]:
    model.prototypes = nn.Parameter(torch.randn(10, 16))
    return ["prototypes"]


@pytest.mark.parametrize("add", [with_class_weights, with_average, with_shadow, with_prototypes])
def test_a_tensor_of_the_old_count_that_forward_does_not_use_is_named(add: Any) -> None:
    model = Net()
    names = add(model)
    with pytest.warns(HeadSwapWarning, match="no output of this forward uses it"):
        swap = swap_head(model, 5, X)
    assert [note.partition(":")[0] for note in swap.notes] == [", ".join(names)]
    assert all(10 in dict((*model.named_parameters(), *model.named_buffers()))[name].shape for name in names)


def test_a_tensor_of_the_same_size_that_the_backbone_uses_is_not_named() -> None:
    class Ten(Net):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 10), nn.Linear(10, 16))  # type: ignore[assignment]
            self.scale: Tensor
            self.register_buffer("scale", torch.ones(10))

        def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
            out = super().forward(x)
            return out + (self.scale.sum() if self.training else 0)

    assert swap_head(Ten(), 5, X).notes == ()


def test_a_swap_to_the_same_count_names_nothing() -> None:
    model = Net()
    with_average(model)
    assert swap_head(model, 10, X).notes == ()
