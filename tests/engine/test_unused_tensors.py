"""Class-sized tensors that no output depends on keep their size, and a warning names them."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, HeadSwapWarning, swap_head

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


class Exits(nn.Module):
    """A model with two exits. The values that forward sees decide which one it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.deep = nn.Linear(8, 16), nn.Linear(16, 16)
        self.early, self.late = nn.Linear(16, 10), nn.Linear(16, 10)
        self.takes_early = False

    def is_early(self, h: Tensor) -> bool:
        return self.takes_early

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).relu()
        out: Tensor = self.early(h) if self.is_early(h) else self.late(self.deep(h))
        return out


class ByConfidence(Exits):
    def is_early(self, h: Tensor) -> bool:
        return self.takes_early or bool(self.early(h).softmax(-1).amax(-1).min() > 2)


class ByEntropy(Exits):
    def is_early(self, h: Tensor) -> bool:
        probs = self.early(h).softmax(-1)
        return self.takes_early or float(-(probs * probs.log()).sum(-1).mean()) < 0


class ByIndex(Exits):
    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).relu()
        exits: list[Tensor] = [self.early(h), self.late(self.deep(h))]
        return exits[0 if self.takes_early else 1]


@pytest.mark.parametrize("kind", [Exits, ByConfidence, ByEntropy, ByIndex])
def test_the_head_of_an_exit_that_forward_does_not_take_is_named_and_can_be_swapped_next(kind: type[Exits]) -> None:
    model = kind()
    with pytest.warns(HeadSwapWarning, match=r"early.weight, early.bias: .*head='early'"):
        swap_head(model, 5, X)
    assert (model.early.out_features, model.late.out_features) == (10, 5)
    model.takes_early = True
    swap_head(model, 5, X, head="early")
    assert model(X).shape == (4, 5)


def test_a_table_that_only_an_integer_output_depends_on_is_not_named() -> None:
    class Groups(Net):
        def __init__(self) -> None:
            super().__init__()
            self.groups: Tensor
            self.register_buffer("groups", torch.zeros(10, dtype=torch.long))

        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            return super().forward(x), self.groups.sum() + x.argmax()

    assert swap_head(Groups(), 5, X).notes == ()


def test_a_swap_to_the_same_count_names_nothing() -> None:
    model = Net()
    with_average(model)
    assert swap_head(model, 10, X, class_map=range(10)).notes == ()


class Loss:
    """A loss that is no module."""

    def __init__(self) -> None:
        self.weight = torch.ones(10)

    def __call__(self, out: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(out, labels, self.weight)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (lambda: torch.ones(10), "extra"),
        (lambda: [0.5] * 10, "extra"),
        (lambda: np.ones(10), "extra"),
        (Loss, "extra.weight"),
        (lambda: functools.partial(F.cross_entropy, weight=torch.ones(10)), "extra.keywords['weight']"),
        (lambda: {"loss": {"prior": (0.1,) * 10}}, "extra['loss']['prior']"),
    ],
    ids=["tensor", "list", "array", "object", "partial", "nested"],
)
def test_values_for_each_class_are_named_wherever_they_are(value: Any, label: str) -> None:
    model: Any = Net()
    model.extra = value()
    with pytest.warns(HeadSwapWarning, match="no output of this forward uses it"):
        swap = swap_head(model, 5, X)
    assert [note.partition(": a dim")[0] for note in swap.notes] == [label]


def test_a_head_that_runs_and_that_no_output_shows_is_named() -> None:
    class Hidden(Net):
        last: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.aux = nn.Linear(16, 10)

        def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
            self.last = self.aux(self.body(x))
            return super().forward(x)

    with pytest.warns(HeadSwapWarning, match=r"aux\.weight, aux\.bias"):
        swap_head(Hidden(), 5, X)


def test_numbers_of_a_module_that_forward_does_not_run_are_named() -> None:
    class Crf(nn.Module):
        def __init__(self, tags: int) -> None:
            super().__init__()
            self.tags = tags
            self.transitions = nn.Parameter(torch.zeros(tags + 2, tags + 2))

    class Smoothing(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.n = n

    model: Any = Net()
    model.crf, model.loss, model.plain = Crf(10), Smoothing(10), nn.CrossEntropyLoss(ignore_index=10)
    with pytest.warns(HeadSwapWarning, match="on a module that this forward does not run"):
        swap = swap_head(model, 5, X)
    assert [note.partition(": equal")[0] for note in swap.notes] == ["crf.tags = 10, loss.n = 10"]


class Flagged(Net):
    """An auxiliary head that runs behind a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.aux, self.use_aux = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10)), False

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        features = self.body(x)
        return (self.fc(features), self.aux(features)) if self.use_aux else self.fc(features)


@pytest.mark.parametrize("path", ["aux", "aux.2", "aux.2.weight"])
def test_a_head_behind_a_flag_is_swapped_by_its_path(path: str) -> None:
    model = Flagged()
    with pytest.warns(HeadSwapWarning, match=r"aux\.2: swapped, but not verified"):
        swap = swap_head(model, 5, X, head=["fc", path])
    model.use_aux = True
    weight_only = path.endswith("weight")
    names = {"fc.weight", "fc.bias", "aux.2.weight"} | (set() if weight_only else {"aux.2.bias"})
    assert {name for name, _ in swap.named_parameters()} == names
    if not weight_only:
        assert [out.shape[1] for out in model(X)] == [5, 5]
    swap.restore()
    assert [out.shape[1] for out in model(X)] == [10, 10]


def test_both_dimensions_of_a_transition_matrix_follow_by_path() -> None:
    model: Any = Net()
    model.crf = nn.ParameterDict({"transitions": nn.Parameter(torch.zeros(10, 10))})
    with pytest.warns(HeadSwapWarning, match="not verified"):
        swap_head(model, 5, X, head=["fc", "crf.transitions"])
    assert model.crf["transitions"].shape == (5, 5)


def test_a_layer_of_another_size_is_no_head_to_request() -> None:
    with pytest.raises(HeadSwapError, match=r"there is no head at 'aux\.0'"):
        swap_head(Flagged(), 5, X, head="aux.0")
