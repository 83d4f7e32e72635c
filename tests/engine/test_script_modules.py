"""Script modules may be part of a backbone. A head in one, and an exported program, are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, find_heads, freeze_backbone, swap_head

X = torch.randn(4, 8)

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")


def backbone() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Dropout(0.5))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.scale = nn.Linear(8, 16), nn.Linear(8, 16), torch.ones(16)

    def forward(self, x: Tensor) -> Tensor:
        if bool((x.sum() > 0).item()):
            return torch.mul(self.one(x), self.scale)
        return torch.relu(self.two(x))


def scripted(module: nn.Module) -> nn.Module:
    return torch.jit.script(module)  # type: ignore[no-any-return, no-untyped-call, unused-ignore]


def traced(module: nn.Module) -> nn.Module:
    return torch.jit.trace(module.eval(), X)  # type: ignore[no-any-return, no-untyped-call, unused-ignore]


@pytest.mark.parametrize(
    "make", [lambda: scripted(backbone()), lambda: traced(backbone()), lambda: scripted(Branches())]
)
def test_a_head_after_a_script_module_is_swapped_and_the_script_module_is_unchanged(
    make: Callable[[], nn.Module],
) -> None:
    model = nn.Sequential(make(), nn.Linear(16, 10)).train()
    before = copy.deepcopy(model[0].state_dict())
    parameters, modes = list(model[0].parameters()), [module.training for module in model[0].modules()]
    swap = swap_head(model, 5, X)
    assert [head.path for head in swap.heads] == ["1"]
    assert model(X).shape == (4, 5)
    assert [module.training for module in model[0].modules()] == modes
    assert all(one is other for one, other in zip(parameters, model[0].parameters(), strict=True))
    swap.restore()
    model.eval()
    find_heads(model, X)
    assert all(torch.equal(before[name], value) or "running" in name or "batches" in name for name, value in
               model[0].state_dict().items())  # fmt: skip


def test_find_heads_leaves_the_statistics_of_a_script_module_alone() -> None:
    model = nn.Sequential(scripted(backbone()), nn.Linear(16, 10)).train()
    before, attributes = copy.deepcopy(model.state_dict()), dict(vars(model[0]))
    find_heads(model, X)
    assert vars(model[0]) == attributes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_frozen_script_module_does_not_change_and_a_note_names_its_copies() -> None:
    model = nn.Sequential(scripted(backbone()), nn.Linear(16, 10))
    frozen = freeze_backbone(swap_head(model, 5, X))
    assert "copies and pickles of script modules" in frozen.notes[0]
    before = copy.deepcopy(model[0].state_dict())
    model.train()
    model(X).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in model[0].state_dict().items())
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == [
        "1.weight",
        "1.bias",
    ]


def test_an_activation_that_is_a_script_module_can_be_dropped() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 10), scripted(nn.Softmax(-1)))
    swap_head(model, 5, X, activation="drop")
    assert type(model[2]) is nn.Identity


@pytest.mark.parametrize(
    "make",
    [
        lambda: scripted(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 10))),
        lambda: nn.Sequential(nn.Linear(8, 16), scripted(nn.Linear(16, 10))),
        lambda: nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 10), scripted(nn.BatchNorm1d(10))),
    ],
)
def test_a_head_in_a_script_module_is_refused(make: Callable[[], nn.Module]) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(HeadSwapError, match="swap the head of the Python model, then script it") as caught:
        swap_head(model, 5, X)
    assert caught.value.reason == "unsupported_model"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_exported_program_is_refused() -> None:
    program = torch.export.export(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 10)), (X,))
    with pytest.raises(HeadSwapError, match="swap the head of the Python model, then export it") as caught:
        swap_head(program.module(), 5, X)
    assert caught.value.reason == "unsupported_model"
