"""Tensors of a head that something else uses too: tied embeddings, idle modules, and features that read the weight."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_headswap.engine import HeadSwapError, HeadSwapWarning, freeze_backbone, swap_head

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(0, 10, (4, 6), generator=torch.Generator().manual_seed(0))


class Body(nn.Module):
    """A body and a head. `run` computes the outputs."""

    def __init__(self, run: Callable[[Any, Tensor], Any], bias: bool = True) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10, bias=bias)
        self.run = run

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x))

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


class Language(nn.Module):
    """An output layer that is tied to the embedding."""

    def __init__(self, embed: Callable[[Any, Tensor], Tensor] = lambda model, x: model.emb(x)) -> None:
        super().__init__()
        self.emb, self.mix, self.fc = nn.Embedding(10, 16), nn.Linear(16, 16), nn.Linear(16, 10)
        self.embed = embed
        self.tie_weights()

    def tie_weights(self) -> None:
        self.fc.weight = self.emb.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.mix(self.embed(self, x))))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "embed",
    [lambda model, x: model.emb(x), lambda model, x: functional.embedding(x, model.emb.weight)],
    ids=["by its layer", "by a function"],
)
def test_untying_a_head_is_a_warning_that_names_both_tensors(embed: Callable[[Any, Tensor], Tensor]) -> None:
    model: Any = Language(embed)
    tied = model.emb.weight
    before = tied.detach().clone()
    with pytest.warns(HeadSwapWarning, match=r"fc\.weight was tied to emb\.weight.*tie_weights\(\)") as caught:
        swap = swap_head(model, 5, TOKENS)
    assert [str(item.message) for item in caught] == list(swap.notes)
    assert model.emb.weight is tied
    assert model.fc.weight.shape == (5, 16)
    frozen = freeze_backbone(swap)
    assert not tied.requires_grad
    frozen.unfreeze()
    swap.restore()
    assert model.fc.weight is tied
    assert model.emb.weight is tied
    assert torch.equal(tied, before)


def test_features_that_read_a_tied_weight_from_the_head_are_refused_after_untying() -> None:
    model: Any = Language(lambda model, x: functional.embedding(x, model.fc.weight))
    with pytest.raises(HeadSwapError, match=r"fc\.weight belongs to the head, and aten::embedding") as caught:
        swap_head(model, 12, TOKENS)
    assert caught.value.reason == "unsupported_layer"
    assert model.fc.weight is model.emb.weight
    assert model.fc.weight.shape == (10, 16)


def test_a_head_that_is_still_tied_is_not_frozen() -> None:
    model = Language()
    with pytest.raises(HeadSwapError, match=r"fc\.weight is tied to emb\.weight") as caught:
        freeze_backbone(model, TOKENS)
    assert caught.value.reason == "not_freezable"


@pytest.mark.filterwarnings("ignore:fc.weight was tied")
def test_a_head_that_was_tied_again_is_not_frozen() -> None:
    model = Language()
    swap = swap_head(model, 5, TOKENS)
    model.tie_weights()
    with pytest.raises(HeadSwapError, match="so training the head would change the backbone"):
        freeze_backbone(swap)


def test_an_idle_layer_with_the_same_weight_is_named() -> None:
    model: Any = Body(lambda model, x: model.fc(model.features(x)))
    model.table = nn.Embedding(10, 16)
    model.table.weight = model.fc.weight
    with pytest.warns(HeadSwapWarning, match=r"table\.weight is tied to fc\.weight, so it was replaced as well"):
        swap = swap_head(model, 5, X)
    assert model.table.weight is model.fc.weight
    swap.restore()
    assert model.table.weight is model.fc.weight
    assert model.fc.weight.shape == (10, 16)


def test_a_layer_that_runs_only_in_train_mode_is_not_idle() -> None:
    model: Any = Body(lambda model, x: (model.extra if model.training else model.fc)(model.features(x)))
    model.extra = nn.Linear(16, 10)
    model.extra.weight = model.fc.weight
    with warnings.catch_warnings():
        warnings.simplefilter("error", HeadSwapWarning)
        swap_head(model, 5, X)
    assert model.extra.weight is model.fc.weight
    assert model.extra(torch.zeros(1, 16)).shape == (1, 5)


def attend(model: Any, x: Tensor) -> Tensor:
    features = model.features(x)
    scores = torch.softmax(features @ model.fc.weight.t(), -1)
    return model.fc(features + scores @ model.fc.weight)  # type: ignore[no-any-return]


READERS: dict[str, Callable[[Any, Tensor], Any]] = {
    "added": lambda model, x: model.fc(model.features(x) + model.fc.weight.mean(0)),
    "detached": lambda model, x: model.fc(model.features(x) + model.fc.weight.detach().mean(0)),
    "a norm": lambda model, x: model.fc(model.features(x) * model.fc.weight.norm()),
    "the bias": lambda model, x: model.fc(model.features(x) * model.fc.bias.mean()),
    "in train mode": lambda model, x: model.fc(model.features(x) + model.fc.weight.mean(0) * model.training),
    "the raw weight": lambda model, x: functional.linear(model.features(x) + model.fc.weight.mean(0), model.fc.weight),
    "a first row": lambda model, x: model.fc(model.features(x) * model.fc.weight[0]),
    "attention": attend,
}


@pytest.mark.parametrize("run", READERS.values(), ids=READERS)
def test_a_weight_that_the_features_depend_on_is_refused(run: Callable[[Any, Tensor], Any]) -> None:
    model: Any = Body(run)
    model.num_classes = 10
    weight = model.fc.weight
    for call in (lambda: swap_head(model, 5, X), lambda: freeze_backbone(model, X)):
        with pytest.raises(HeadSwapError, match="give the head its own weight first") as caught:
            call()
        assert caught.value.reason == "unsupported_layer"
    assert model.fc.weight is weight


@pytest.mark.parametrize(
    "run",
    [
        lambda model, x: (model.fc(model.features(x)), (model.fc.weight**2).sum() * x.mean()),
        lambda model, x: model.fc(model.features(x)) / model.fc.weight.norm(),
        lambda model, x: (functional.linear(model.features(x), model.fc.weight), model.fc.weight.norm() * x.mean()),
    ],
    ids=["a penalty", "scaled logits", "a penalty on the raw weight"],
)
def test_a_weight_that_is_used_only_after_the_features_is_swapped(run: Callable[[Any, Tensor], Any]) -> None:
    model: Any = Body(run, bias=False)
    swap_head(model, 5, X)
    outputs = model(X)
    assert (outputs[0] if isinstance(outputs, tuple) else outputs).shape == (4, 5)


class RawSum(nn.Module):
    """Two parameters whose products are summed."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.a, self.b = (nn.Parameter(torch.randn(16, 10)) for _ in range(2))
        self.bias = nn.Parameter(torch.randn(10))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(x))
        return x @ self.a + x @ self.b + self.bias


class LayerSum(nn.Module):
    """Three layers whose results are summed."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.a, self.b, self.c = (nn.Linear(16, 10) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(x))
        return self.a(x) + self.b(x) + self.c(x)  # type: ignore[no-any-return]


class ListSum(nn.Module):
    """Two parameters of a list, for two parts of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.parts = nn.ParameterList(nn.Parameter(torch.randn(10, 8)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        one, two = torch.relu(self.body(x)).chunk(2, 1)
        return functional.linear(one, self.parts[0]) + functional.linear(two, self.parts[1])


@pytest.mark.parametrize("init", ["default", "zeros", "prior", lambda _, tensor: tensor.data.fill_(3.0)])
@pytest.mark.parametrize("make", [RawSum, LayerSum, ListSum])
def test_every_summand_keeps_the_rows_of_the_class_map(make: Callable[[], nn.Module], init: Any) -> None:
    model = make()
    before = model(X)
    swap = swap_head(model, 6, X, init=init, class_map=[9, 8, 7])
    torch.testing.assert_close(model(X)[:, :3], before[:, [9, 8, 7]])
    assert len({id(parameter) for parameter in swap.parameters()}) == len(list(model.parameters())) - 2
    tensors = [name for head in swap.heads for name in head.tensors]
    assert len(tensors) == len(set(tensors))
    swap.restore()
    assert torch.equal(model(X), before)


def test_a_weight_with_two_names_is_listed_by_its_first_and_found_by_both() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.other = nn.Linear(8, 16), nn.Linear(16, 7)
            self.classes = self.labels = nn.Parameter(torch.randn(10, 16))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.body(x).relu()
            return x @ self.classes.T, self.other(x)

    with pytest.raises(HeadSwapError, match=r"'classes' \(10 classes\), 'other' \(7 classes\)"):
        swap_head(Named(), 5, X)
    for name in ("classes", "labels"):
        model = Named()
        swap_head(model, 5, X, head=name)
        assert model(X)[0].shape == (4, 5)
        assert model.labels is model.classes


def weight_on_the_model(model: Any) -> None:
    model.first, model.fc = model.fc.weight, model._modules.pop("fc")


def both_on_the_model(model: Any) -> None:
    model.first, model.second, model.fc = model.fc.weight, model.fc.bias, model._modules.pop("fc")


def in_a_list(model: Any) -> None:
    model.kept = nn.ParameterList(model.fc.parameters())


def in_a_layer_that_does_not_run(model: Any) -> None:
    own = model._modules.pop("fc")
    model.unused, model.fc = nn.Linear(16, 10), own
    own.weight = model.unused.weight


@pytest.mark.parametrize("register", [weight_on_the_model, both_on_the_model, in_a_list, in_a_layer_that_does_not_run])
def test_a_head_is_named_after_the_layer_that_runs(register: Callable[[Any], None]) -> None:
    model: Any = Body(lambda self, x: self.fc(self.features(x)))
    register(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadSwapWarning)
        (head,) = swap_head(model, 5, X).heads
    assert (head.path, head.aliases) == ("fc", ())
    assert dict(model.named_parameters())[head.tensors[0]] is model.fc.weight


def test_a_note_tells_both_names_of_a_weight_in_a_layer_that_does_not_run() -> None:
    model: Any = Body(lambda self, x: self.fc(self.features(x)))
    in_a_layer_that_does_not_run(model)
    with pytest.warns(HeadSwapWarning, match=r"unused\.weight is tied to fc\.weight, so it was replaced as well"):
        swap_head(model, 5, X)
