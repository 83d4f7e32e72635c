"""Features are computed once, and training a head on them is the same as training the frozen model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from pytest_headswap.engine import HeadSwapError, HeadSwapWarning, extract_features, freeze_backbone, swap_head
from pytest_headswap.zoo import load_zoo
from tests.usable import usable_transformers


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))  # type: ignore[no-any-return]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.fc = nn.Linear(8, 16), nn.Linear(6, 16), nn.Linear(16, 10)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.fc(torch.relu(self.left(left) * self.right(right)))  # type: ignore[no-any-return]


def data(count: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 8, generator=generator), torch.randint(0, 5, (count,), generator=generator)


def loader(batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*data()), batch_size)


def state_of(model: nn.Module) -> Any:
    """Return all that a call could leave behind."""
    return (
        [module.training for module in model.modules()],
        [sorted(vars(module)) for module in model.modules()],
        [(name, value.requires_grad, value.grad) for name, value in model.named_parameters()],
        [len(module._forward_pre_hooks) for module in model.modules()],
    )


def steps(parameters: Any, loss: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call, unused-ignore]
        optimizer.step()


def linear() -> Any:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10))


def timm_resnet() -> Any:
    return pytest.importorskip("timm").create_model("resnet10t")


@pytest.mark.parametrize(
    ("build", "shape"),
    [(linear, (8,)), (Net, (8,)), (lambda: nn.DataParallel(linear()), (8,)), (timm_resnet, (3, 32, 32))],
    ids=["linear", "norm in the head", "wrapped", "resnet of timm"],
)
def test_training_on_the_features_is_training_the_frozen_model(build: Callable[[], Any], shape: Any) -> None:
    torch.manual_seed(0)
    model = build()
    x, y = torch.randn(6, *shape), data(6)[1]
    model.train()(x)  # statistics that differ from those of the batch
    swap = swap_head(model, 5, x)
    features, targets = extract_features(swap, [(x[:4], y[:4]), (x[4:], y[4:])])
    assert targets is not None
    assert torch.equal(targets, y)
    head = copy.deepcopy(model.get_submodule(swap.heads[0].path))
    steps(head.parameters(), lambda: functional.cross_entropy(head(features), targets))
    freeze_backbone(swap)
    model.train()
    steps(swap.parameters(), lambda: functional.cross_entropy(model(x), y))
    for one, other in zip(head.parameters(), swap.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_nothing_is_left_behind() -> None:
    model: Any = Net()
    model.body[1].eval()
    swap = swap_head(model, 5, data()[0])
    model.body[0].weight.grad = torch.ones(16, 8)
    before, values = state_of(model), copy.deepcopy(model.state_dict())
    extract_features(swap, loader())
    assert state_of(model) == before
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    frozen = freeze_backbone(swap)
    before = state_of(model)
    extract_features(swap, loader())
    assert state_of(model) == before
    frozen.unfreeze()


def test_statistics_of_a_head_do_not_change() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 10), nn.BatchNorm1d(10))
    extract_features(swap_head(model, 5, data()[0]), loader())
    assert model[2].num_batches_tracked == 0


@pytest.mark.parametrize("as_model", [True, False])
def test_each_kind_of_batch_gives_the_same_features(as_model: bool) -> None:
    model = Net().eval()
    x, y = data(6)
    model.head[1] = nn.Linear(16, 5)
    swap: Any = model if as_model else swap_head(model, 5, x)
    features, targets = extract_features(swap, [x])
    assert targets is None
    assert features.shape == (6, 16)
    assert torch.allclose(features, model.head[0](model.body(x)))
    kinds: list[Any] = [[(x,)], [[x, y]], [((x,), y)], [{"x": x}], [({"x": x}, y)], iter([x]), (b for b in [x])]
    for batches in kinds:
        assert torch.equal(extract_features(swap, batches).features, features)


def test_two_inputs_and_targets_are_told_apart() -> None:
    left, right, y = torch.randn(4, 8), torch.randn(4, 6), torch.arange(4)
    swap = swap_head(Pair(), 5, (left, right))
    expected, _ = extract_features(swap, [(left, right)])
    for batch in ((left, right, y), ((left, right), y), ({"left": left, "right": right}, y)):
        features, targets = extract_features(swap, [batch])
        assert torch.equal(features, expected)
        assert targets is not None
        assert torch.equal(targets, y)


def test_several_heads_give_a_dictionary_by_path() -> None:
    model: Any = load_zoo("builtin")["train_only_aux"].build()
    images = torch.randn(2, 3, 32, 32)
    swap = swap_head(model, 3, images)
    features, _ = extract_features(swap, [images, images])
    assert features.keys() == {head.path for head in swap.heads}
    assert len(features) == 2
    assert all(value.shape[0] == 4 for value in features.values())


def test_a_text_model_of_transformers_takes_mappings() -> None:
    transformers = usable_transformers()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, vocab_size=50, num_labels=7))
    batch = {"input_ids": torch.randint(0, 50, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long)}
    features, _ = extract_features(swap_head(model, 5, batch), [batch, batch])
    assert features.shape == (6, 32)


def test_features_are_stored_where_they_are_wanted() -> None:
    swap = swap_head(Net(), 5, data()[0])
    assert extract_features(swap, loader(), device="meta").features.is_meta
    assert not extract_features(swap, loader()).features.requires_grad


# --- what is refused


class Noisy(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.fc, self.change = nn.Linear(8, 16), nn.Linear(16, 10), change

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.change(self.body(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("change", [functional.dropout, lambda f: f - f.mean(0), lambda f: f + torch.randn_like(f)])
def test_features_that_depend_on_chance_or_the_batch_are_refused(change: Callable[[Tensor], Tensor]) -> None:
    model = Noisy(change)
    swap = swap_head(model, 5, data()[0])
    before = state_of(model)
    with pytest.raises(HeadSwapError, match="even in eval mode") as caught:
        extract_features(swap, loader())
    assert caught.value.reason == "not_freezable"
    assert state_of(model) == before


def test_what_could_not_be_verified_is_a_warning() -> None:
    class EvalOnly(Net):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("targets are needed")
            return super().forward(x)

    swap = swap_head(EvalOnly(), 5, data()[0])
    with pytest.warns(HeadSwapWarning, match="does not run in train mode .* not verified"):
        features, _ = extract_features(swap, loader())
    assert features.shape == (10, 16)


def test_features_that_training_would_change_are_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 10)).requires_grad_(False)
    model[0].bias.requires_grad_(True)
    swap = swap_head(model, 5, data()[0])
    with pytest.raises(HeadSwapError, match=r"such as 0\.bias: call requires_grad_\(False\)") as caught:
        extract_features(swap, loader())
    assert caught.value.reason == "not_freezable"
    model.requires_grad_(False)
    frozen = freeze_backbone(swap)
    frozen.unfreeze("1")
    with pytest.raises(HeadSwapError, match=r"call refreeze\(\) first"):
        extract_features(swap, loader())
    frozen.refreeze()
    assert extract_features(swap, loader()).features.shape == (10, 64)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x)) + self.fc(x.repeat(1, 2))  # type: ignore[no-any-return]


class Product(Twice):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.body(x), self.fc.weight, self.fc.bias)


class Folded(Twice):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).view(-1, 1, 16).repeat(1, 3, 1).flatten(0, 1)).view(len(x), 3, -1)  # type: ignore[no-any-return]


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.weight = nn.Linear(8, 16), nn.Parameter(torch.randn(10, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) @ self.weight.t()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Twice, "forward calls fc 2 times"),
        (Product, "forward does not call fc as a module"),
        (Folded, r"fc receives features of shape \(12, 16\) for 4 samples"),
        (Own, "the head is part of the forward of the model itself"),
    ],
)
def test_a_head_without_one_tensor_of_features_is_refused(build: Callable[[], Any], message: str) -> None:
    swap = swap_head(build(), 5, data(4)[0])
    with pytest.raises(HeadSwapError, match=message) as caught:
        extract_features(swap, [data(4)[0]])
    assert caught.value.reason == "no_features"


@pytest.mark.parametrize(
    ("batches", "reason", "message"),
    [
        ([], "bad_argument", "there are no batches"),
        (torch.randn(4, 8), "bad_argument", "an iterable of batches, not Tensor"),
        ({"x": torch.randn(4, 8)}, "bad_argument", "not dict"),
        (None, "bad_argument", "not NoneType"),
        (5, "bad_argument", "not int"),
        ([None], "bad_inputs", "None"),
        (["text"], "bad_inputs", "contains no tensor"),
        ([torch.randn(4, 9)], "forward_failed", "forward raised RuntimeError on a batch"),
        ([(torch.randn(4, 8), torch.ones(4)), torch.randn(4, 8)], "bad_argument", "others have none"),
    ],
)
def test_bad_batches_raise_and_leave_nothing_behind(batches: Any, reason: str, message: str) -> None:
    model = linear()
    swap = swap_head(model, 5, data()[0])
    before = state_of(model)
    with pytest.raises(HeadSwapError, match=message) as caught:
        extract_features(swap, batches)
    assert caught.value.reason == reason
    assert state_of(model) == before


def test_a_model_without_a_head_or_without_values_is_refused() -> None:
    with pytest.raises(HeadSwapError, match="the heads were removed"):
        extract_features(swap_head(linear(), 0, data()[0]), loader())
    with torch.device("meta"):
        model = linear()
    with pytest.raises(HeadSwapError, match="has no values: load it first"):
        extract_features(swap_head(model, 5, data()[0]), loader())
    with pytest.raises(HeadSwapError, match=r"must be a torch\.nn\.Module"):
        extract_features(None, loader())  # type: ignore[arg-type]


def test_features_of_batches_with_other_lengths_are_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))
    swap = swap_head(model, 5, torch.randn(2, 3, 8))
    with pytest.raises(HeadSwapError, match=r"differ in shape between batches \(\(3, 16\), \(4, 16\)\)"):
        extract_features(swap, [torch.randn(2, 3, 8), torch.randn(2, 4, 8)])
