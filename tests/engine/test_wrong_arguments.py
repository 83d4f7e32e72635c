"""A wrong argument is refused with what to pass instead, and the model is unchanged."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from pytest_headswap.engine import HeadSwapError, find_heads, freeze_backbone, swap_head

X = torch.randn(4, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).relu())  # type: ignore[no-any-return]


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 16, 3), nn.BatchNorm1d(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x).mean((2, 3))))  # type: ignore[no-any-return]


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(20, 16), nn.Linear(16, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.embed(tokens).mean(1))  # type: ignore[no-any-return]


def refused(model: nn.Module, call: Callable[[], object]) -> HeadSwapError:
    """Return the error of a call that must leave the model unchanged."""
    before = {name: (id(value), value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    modes = [module.training for module in model.modules()]
    with pytest.raises(HeadSwapError) as caught:
        call()
    after = model.state_dict(keep_vars=True)
    assert after.keys() == before.keys()
    assert all(id(after[name]) == own and torch.equal(after[name], value) for name, (own, value) in before.items())
    assert [module.training for module in model.modules()] == modes
    return caught.value


NET = Net()
WRAPPED = types.SimpleNamespace(model=NET)


@pytest.mark.parametrize("function", [find_heads, lambda model, x: swap_head(model, 5, x), freeze_backbone])
@pytest.mark.parametrize(
    ("model", "advice"),
    [
        (Net, r"not the class Net: pass an instance, such as Net\(\.\.\.\)"),
        (nn.Linear, r"not the class Linear: pass an instance"),
        (NET.state_dict(), "load the state with model.load_state_dict"),
        (functional.relu, "call it in the forward method of a module"),
        (lambda x: x, "call it in the forward method of a module"),
        (NET.forward, "pass the Net that has this method"),
        (None, "check that the function that builds the model returns it"),
        (torch.optim.SGD(NET.parameters(), 0.1), "not SGD: pass the model itself"),
        ([NET, NET], "pass the module that runs them"),
        ({"a": NET}, "pass the module that runs them"),
        (NET.parameters(), "pass the model itself"),
        (X, "pass the model itself"),
        ("resnet18", "build the model first"),
        (WRAPPED, "pass its attribute 'model'"),
    ],
)
def test_what_is_not_a_model_is_refused_with_what_to_pass(
    function: Callable[[Any, Any], object], model: Any, advice: str
) -> None:
    error = refused(NET, lambda: function(model, X))
    assert error.reason == "not_a_module"
    assert advice.replace("\\", "") in error.message


@pytest.mark.parametrize("model", [nn.ModuleList([Net()]), nn.ModuleDict({"a": Net()}), nn.Module()])
def test_a_module_without_forward_is_refused_with_what_to_pass(model: nn.Module) -> None:
    error = refused(model, lambda: find_heads(model, X))
    assert "Pass the module whose forward method runs it" in error.message


@pytest.mark.parametrize(
    "count",
    [True, False, "5", b"5", 5.0, float("nan"), -1, None, [5], {"fc": -5}, torch.tensor(5.0), np.array([5]), 10**12],
)
def test_a_class_count_that_is_no_count_is_refused(count: Any) -> None:
    model = Net()
    assert refused(model, lambda: swap_head(model, count, X)).reason == "bad_num_classes"


@pytest.mark.parametrize(
    ("head", "reason", "advice"),
    [
        ("fcc", "unknown_head", "did you mean 'fc'? This model has 'fc' (10 classes)"),
        ("fc.weigth", "unknown_head", "did you mean 'fc.weight'?"),
        (["fc", "fcs"], "unknown_head", "no head at 'fcs': did you mean 'fc'?"),
        ("body", "unknown_head", "no head at 'body'. This model has 'fc'"),
        (3, "bad_argument", "a path or a list of paths, not int"),
        ([], "bad_argument", "not an empty list"),
        (["fc", 3], "bad_argument", "not a list with int"),
        ({"fc": 3}, "bad_argument", "not dict"),
        (NET.fc, "bad_argument", "not Linear"),
        (torch.zeros(2), "bad_argument", "not Tensor"),
    ],
)
def test_a_head_that_does_not_exist_is_refused_with_the_nearest(head: Any, reason: str, advice: str) -> None:
    model = Net()
    error = refused(model, lambda: swap_head(model, 5, X, head=head))
    assert error.reason == reason
    assert advice in error.message


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"class_map": [0] * 6}, "class_map has 6 entries for 5 new classes"),
        ({"class_map": [-1]}, "from 0 to 9"),
        ({"class_map": [10]}, "from 0 to 9"),
        ({"class_map": {5: 0}}, "from 0 to 4"),
        ({"class_map": {-1: 0}}, "from 0 to 4"),
        ({"class_map": "abc"}, "class_map must be a mapping"),
        ({"class_map": 3}, "class_map must be a mapping"),
        ({"class_map": [True]}, "from 0 to 9"),
        ({"class_map": [0.0]}, "from 0 to 9"),
        ({"class_map": ["cat"]}, "it stores no class names"),
        ({"class_map": {0, 1}}, "class_map must be a mapping"),
        ({"init": "xavier"}, "init must be one of default, zeros, prior"),
        ({"init": nn.init.zeros_}, "init must take two arguments"),
        ({"new_head": lambda: nn.Linear(16, 5)}, "new_head must take two arguments"),
        ({"new_head": lambda _, __: None}, "new_head returned NoneType"),
        ({"new_head": nn.Identity()}, "new_head must take 16 features and return 5 values"),
        ({"new_head": nn.Linear(16, 7)}, "new_head must take 16 features and return 5 values"),
        ({"new_head": nn.Linear(9, 5)}, "new_head must take 16 features and return 5 values"),
        ({"class_names": "abcde"}, "class_names must contain 5 names in a list"),
        ({"class_names": 3}, "class_names must contain 5 names in a list"),
        ({"class_names": set("abcde")}, "class_names must contain 5 names in a list"),
        ({"class_names": dict(enumerate("abcde"))}, "class_names must contain 5 names in a list"),
        ({"class_names": [1, 2, 3, 4, 5]}, "class_names must contain 5 names in a list of str"),
        ({"activation": None}, "activation must be 'keep' or 'drop'"),
    ],
)
def test_a_wrong_option_is_refused(arguments: dict[str, Any], advice: str) -> None:
    model = Net()
    assert advice in refused(model, lambda: swap_head(model, 5, X, **arguments)).message


IMAGES = torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("kind", "inputs", "reason", "advice"),
    [
        (Tokens, torch.rand(2, 5), "forward_failed", "scalar types: Long, Int"),
        (Tokens, IMAGES, "forward_failed", "scalar types: Long, Int"),
        (Images, torch.rand(3, 8, 8), "forward_failed", "Pass example_inputs that the model accepts"),
        (Images, torch.rand(2, 1, 8, 8), "forward_failed", "to have 3 channels"),
        (Images, IMAGES.double(), "forward_failed", "Pass example_inputs that the model accepts"),
        (Images, {"image": IMAGES}, "forward_failed", "forward takes (x: "),
        (Images, [IMAGES, torch.zeros(2)], "forward_failed", "forward takes (x: "),
        (Images, IMAGES.numpy(), "bad_inputs", "torch.as_tensor(array)"),
        (Images, (IMAGES.numpy(),), "bad_inputs", "torch.as_tensor(array)"),
        (Images, (2, 3, 224, 224), "bad_inputs", "torch.zeros(2, 3, 224, 224)"),
        (Images, "image.png", "bad_inputs", "of type str"),
        (Images, (), "bad_inputs", "a tuple of positional inputs"),
        (Images, DataLoader(TensorDataset(IMAGES)), "bad_inputs", "is a DataLoader: pass one batch of it"),
        (Images, TensorDataset(IMAGES), "bad_inputs", "is a TensorDataset: pass one batch of it"),
        (Images, iter([IMAGES]), "bad_inputs", "pass one batch of it"),
        (Net, torch.nested.nested_tensor([torch.ones(3, 8), torch.ones(5, 8)]), "bad_inputs", "pass a padded batch"),
        (
            Net,
            torch.nested.nested_tensor([torch.ones(3, 8), torch.ones(5, 8)], layout=torch.jagged),
            "bad_inputs",
            "pass a padded batch",
        ),
    ],
)
def test_wrong_inputs_are_refused(kind: type[nn.Module], inputs: Any, reason: str, advice: str) -> None:
    model = kind()
    for call in (lambda: swap_head(model, 5, inputs), lambda: find_heads(model, inputs)):
        error = refused(model, call)
        assert error.reason == reason
        assert advice in error.message


@pytest.mark.parametrize("batch", [0, 1])
def test_an_empty_batch_and_a_batch_of_one_do_for_a_swap(batch: int) -> None:
    model = Images()
    swap_head(model, 5, IMAGES[:batch])
    assert model(IMAGES).shape == (2, 5)


def test_inputs_that_do_not_fit_are_refused_by_freeze_backbone() -> None:
    swap = swap_head(Net(), 5, X)
    error = refused(swap.model, lambda: freeze_backbone(swap, torch.randn(2, 9)))
    assert error.reason == "forward_failed"
    assert all(parameter.requires_grad for parameter in swap.model.parameters())


@pytest.mark.parametrize(
    "state", [None, 3, [1], "head.pt", X, {"fc.weight": 3, "fc.bias": 4}, {"fc.weight": np.zeros((5, 16))}, {1: X}, {}]
)
def test_a_state_that_is_not_that_of_the_head_is_refused(state: Any) -> None:
    swap = swap_head(Net(), 5, X)
    assert refused(swap.model, lambda: swap.load_state_dict(state)).reason == "bad_argument"


def test_a_nested_tensor_inside_of_forward_is_no_obstacle() -> None:
    class Inside(Net):
        def forward(self, x: Tensor) -> Tensor:
            rows = torch.nested.nested_tensor([x[:2], x[2:]], layout=torch.jagged)
            return super().forward(rows).values()

    model = Inside()
    swap_head(model, 5, X)
    assert model(X).shape == (4, 5)


def test_a_model_that_fails_on_all_inputs_names_its_line() -> None:
    class Unready(Net):
        scale: Any = None

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.scale(self.body(x)))  # type: ignore[no-any-return]

    model = Unready()
    error = refused(model, lambda: swap_head(model, 5, X))
    assert "or correct the model: it was raised at 'test_wrong_arguments.py:" in error.message
    assert "return self.fc(self.scale(self.body(x)))" in error.message


def test_a_head_that_cannot_be_removed_is_refused_with_the_next_step() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 20), nn.GLU())
    error = refused(model, lambda: swap_head(model, 0, X))
    assert "does not pass on what it returns unchanged: change that part first" in error.message


def test_a_new_head_that_does_not_fit_a_slot_is_named() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Identity())
    model.num_classes = 0  # type: ignore[assignment]
    error = refused(model, lambda: swap_head(model, 5, X, new_head=nn.Linear(9, 5)))
    assert "new_head must take 16 features and return 5 values" in error.message
