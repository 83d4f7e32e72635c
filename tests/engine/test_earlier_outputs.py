"""A layer that reads the classes to compute another output is no head: the classes are swapped, and it follows them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, HeadSwapWarning, find_heads, swap_head
from pytest_headswap.engine.pytorch.outputs import flatten_outputs

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
OLD, NEW = 10, 5


class Net(nn.Module):
    """Features of width 16 and a Linear to the classes. `follow` computes the outputs from the model and both."""

    def __init__(self, follow: Callable[[Any, Tensor, Tensor], Any], count: int, **widths: tuple[int, ...]) -> None:
        super().__init__()
        self.follow = follow
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, count)
        for name, sizes in widths.items():
            layers = [nn.Linear(a or count, b or count) for a, b in itertools.pairwise(sizes)]
            steps = [step for layer in layers for step in (layer, nn.ReLU())][:-1]
            setattr(self, name, nn.Sequential(*steps) if len(layers) > 1 else layers[0])

    def forward(self, x: Tensor) -> Any:
        features = F.relu(self.body(x))
        return self.follow(self, features, self.fc(features))


def shapes(model: nn.Module) -> dict[str, Any]:
    outputs = {label: tuple(tensor.shape) for label, tensor in flatten_outputs(model(X))}
    return outputs | {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def calibrated(model: Any, _: Tensor, z: Tensor) -> Any:
    temperature = model.extra(z)
    return z, z / temperature.exp(), temperature


def both_heads(model: Any, h: Tensor, z: Tensor) -> Any:
    mean = (z + model.other(h)) / 2
    return {"first": z, "mean": mean, "risk": model.extra(mean)}


NUMBER = (0, 1)
FOLLOWING: dict[str, tuple[Callable[[Any, Tensor, Tensor], Any], dict[str, tuple[int, ...]]]] = {
    "a number": (lambda m, h, z: {"logits": z, "risk": m.extra(z)}, {"extra": NUMBER}),
    "a number first": (lambda m, h, z: (m.extra(z), z), {"extra": NUMBER}),
    "a number of a perceptron": (lambda m, h, z: (z, m.extra(z)), {"extra": (0, 4, 1)}),
    "a number without dimension": (lambda m, h, z: (z, m.extra(z)[:, 0]), {"extra": NUMBER}),
    "a number of a normalised layer": (
        lambda m, h, z: (z, m.other(F.layer_norm(m.extra(z), (4,)))),
        {"extra": (0, 4), "other": (4, 1)},
    ),
    "a squeezed number": (lambda m, h, z: [z, m.extra(z).squeeze(-1)], {"extra": NUMBER}),
    "a number of a second call": (lambda m, h, z: (z, m.extra(m.fc(h))), {"extra": NUMBER}),
    "two numbers": (lambda m, h, z: [z, m.extra(z), m.other(z)], {"extra": NUMBER, "other": NUMBER}),
    "a number from probabilities": (lambda m, h, z: (z.softmax(-1), m.extra(z.softmax(-1))), {"extra": NUMBER}),
    "a number from scores of each class": (lambda m, h, z: (z.sigmoid(), m.extra(z.sigmoid())), {"extra": NUMBER}),
    "a number from sorted scores": (lambda m, h, z: (z, m.extra(z.sort(-1).values)), {"extra": NUMBER}),
    "a temperature": (calibrated, {"extra": NUMBER}),
    "the number of an ensemble": (both_heads, {"extra": NUMBER, "other": (16, 0)}),
    "a number beside the label": (lambda m, h, z: {"label": z.argmax(-1), "risk": m.extra(z)}, {"extra": NUMBER}),
    "refined classes": (lambda m, h, z: (z, m.extra(z)), {"extra": (0, 0)}),
    "refined classes, added": (lambda m, h, z: (z, z + m.extra(z)), {"extra": (0, 0)}),
}


@pytest.mark.filterwarnings("ignore::pytest_headswap.engine.HeadSwapWarning")
@pytest.mark.parametrize("name", FOLLOWING)
def test_the_classes_are_swapped_and_what_reads_them_follows(name: str) -> None:
    follow, widths = FOLLOWING[name]
    model = Net(follow, OLD, **widths)
    before = shapes(model)
    swap = swap_head(model, NEW, X)
    assert "fc" in [head.path for head in swap.heads]
    assert shapes(model) == shapes(Net(follow, NEW, **widths))
    swap.restore()
    assert shapes(model) == before


def test_a_number_that_is_the_head_after_all_can_be_selected() -> None:
    model = Net(lambda m, h, z: (z, m.extra(z)), OLD, extra=NUMBER)
    with pytest.warns(HeadSwapWarning, match=r"fc: its 10 results are taken for classes, and extra.weight .*head=PATH"):
        swap_head(model, NEW, X).restore()
    swap = swap_head(model, NEW, X, head="extra")
    assert swap.notes == ()
    assert [tuple(output.shape) for output in model(X)] == [(4, OLD), (4, NEW)]


@pytest.mark.parametrize("model_count", [None, OLD])
def test_probabilities_and_a_stated_count_leave_no_doubt(model_count: int | None) -> None:
    model = Net(lambda m, h, z: (z if model_count else z.softmax(-1), m.extra(z)), OLD, extra=NUMBER)
    if model_count:
        model.num_classes = model_count  # type: ignore[assignment]
    notes = swap_head(model, NEW, X).notes
    assert [note for note in notes if not note.startswith("a softmax stays after fc")] == []
    assert model.fc.out_features == NEW


AMBIGUOUS: dict[str, tuple[Callable[[Any, Tensor, Tensor], Any], dict[str, tuple[int, ...]]]] = {
    "coarser classes": (lambda m, h, z: {"fine": z, "coarse": m.extra(z)}, {"extra": (0, 3)}),
    "coarser classes from probabilities": (lambda m, h, z: (z, m.extra(z.softmax(-1))), {"extra": (0, 3)}),
    "a reconstruction": (lambda m, h, z: (z, m.extra(z)), {"extra": (0, 20)}),
    "as many from a perceptron": (lambda m, h, z: (z, m.extra(z)), {"extra": (0, 7, 0)}),
    "a number next to features": (lambda m, h, z: (z, m.extra(torch.cat([h, z], -1))), {"extra": (26, 1)}),
    "a number from wider features": (
        lambda m, h, z: (m.last(h), m.extra(m.last(h))),
        {"last": (16, 20), "extra": (20, 1)},
    ),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_other_outputs_computed_from_classes_are_ambiguous(name: str) -> None:
    follow, widths = AMBIGUOUS[name]
    model = Net(follow, OLD, **widths)
    before = shapes(model)
    with pytest.raises(HeadSwapError, match="Pass head=PATH") as caught:
        swap_head(model, NEW, X)
    assert caught.value.reason == "ambiguous"
    assert shapes(model) == before


@pytest.mark.parametrize("head", ["fc", "extra"])
def test_either_level_of_a_hierarchy_can_be_selected(head: str) -> None:
    model = Net(lambda m, h, z: (z, m.extra(z)), OLD, extra=(0, 3))
    swap_head(model, NEW, X, head=head)
    outputs = [tuple(output.shape) for output in model(X)]
    assert outputs == ([(4, NEW), (4, 3)] if head == "fc" else [(4, OLD), (4, NEW)])


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Linear(16, OLD)

    def forward(self, x: Tensor) -> Any:
        early = self.first(x)
        late = F.relu(self.second(F.relu(early)))
        return self.fc(late.mean((2, 3))), [early, late]


FEATURES: dict[str, tuple[str, Callable[[Any, Tensor, Tensor], Any]]] = {
    "behind an activation": ("fc", lambda m, h, z: {"features": h, "logits": z}),
    "of the input": ("fc", lambda m, h, z: (m.body(m.x), m.fc(m.body(m.x)))),
    "normalised": ("last", lambda m, h, z: (m.narrow(h), m.last(F.normalize(m.narrow(h))))),
    "in a layer norm": ("last", lambda m, h, z: (m.narrow(h), m.last(F.layer_norm(m.narrow(h), (12,))))),
    "with a residual": ("last", lambda m, h, z: (m.narrow(h), m.last(m.narrow(h) + h[:, :12]))),
}


class KeepsInput(Net):
    """A model whose outputs may be computed from its input too."""

    def forward(self, x: Tensor) -> Any:
        self.x = x
        try:
            return super().forward(x)
        finally:
            del self.x


@pytest.mark.parametrize("name", FEATURES)
def test_features_that_are_returned_beside_the_classes_stay(name: str) -> None:
    path, follow = FEATURES[name]
    model = KeepsInput(follow, OLD, narrow=(16, 12), last=(12, 0))
    widths = [tensor.shape[1] for _, tensor in flatten_outputs(model(X))]
    assert [head.path for head in swap_head(model, NEW, X).heads] == [path]
    assert [tensor.shape[1] for _, tensor in flatten_outputs(model(X))] == [widths[0], NEW]


def test_feature_maps_stay_and_those_before_an_activation_are_named() -> None:
    model = Pooled()
    swap = swap_head(model, NEW, torch.randn(2, 3, 8, 8))
    assert [head.path for head in swap.heads] == ["fc"]
    narrow = Net(lambda m, h, z: (z, m.extra(F.relu(z))), OLD, extra=(0, 3))
    with pytest.warns(HeadSwapWarning, match=r"extra: it reads output\[0\].*an activation follows"):
        assert [head.path for head in swap_head(narrow, NEW, X).heads] == ["extra"]


@pytest.mark.parametrize("probabilities", [False, True])
def test_classes_of_an_earlier_stage_of_a_cascade_are_named(probabilities: bool) -> None:
    def cascade(m: Any, h: Tensor, z: Tensor) -> Tensor:
        return m.last(torch.cat([h, z.softmax(-1) if probabilities else z], -1))  # type: ignore[no-any-return]

    model = Net(cascade, OLD, last=(26, 0))
    with pytest.warns(HeadSwapWarning, match=r"last: it reads the 10 results of fc\.weight"):
        swap = swap_head(model, NEW, X)
    assert [head.path for head in swap.heads] == ["last"]
    assert any("results of fc.weight" in note for note in find_heads(Net(cascade, OLD, last=(26, 0)), X).notes)
    assert swap_head(Net(cascade, OLD, last=(26, 3)), NEW, X).notes == ()


@pytest.mark.parametrize("hidden", [(), (0,)], ids=["one layer", "two layers"])
def test_a_residual_block_at_the_end_without_a_stated_count_is_named(hidden: tuple[int, ...]) -> None:
    def refined(m: Any, h: Tensor, z: Tensor) -> Tensor:
        return z + m.extra(z)  # type: ignore[no-any-return]

    model = Net(refined, OLD, extra=(0, *hidden, 0))
    with pytest.warns(HeadSwapWarning, match="as in a residual block of a backbone"):
        swap = swap_head(model, NEW, X)
    assert any("Only the widths suggest" in sentence for sentence in swap.old_heads[0].evidence)
    stated = Net(refined, OLD, extra=(0, 0))
    stated.num_classes = OLD  # type: ignore[assignment]
    assert swap_head(stated, NEW, X).notes == ()
