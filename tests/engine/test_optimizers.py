"""An optimizer that was made before a swap trains the new head, or warns that it does not."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import _global_optimizer_pre_hooks

from pytest_headswap import HeadSwapError, HeadSwapWarning, swap_head
from pytest_headswap.engine.swapping import optimizers as watched

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.fc = nn.Linear(16, 10)
        self.colour = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> Any:
        features = self.norm(self.body(x).relu())
        return self.fc(features), self.colour(features)


class Tied(nn.Module):
    """A language model whose head shares its weight with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.table(tokens)).relu())  # type: ignore[no-any-return]


def _step(model: nn.Module, optimizer: Optimizer, x: torch.Tensor = X) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        outputs = model(x)
        loss: Any = sum(out.square().mean() for out in (outputs if isinstance(outputs, tuple) else [outputs]))
        loss.backward()
        return loss  # type: ignore[no-any-return]

    optimizer.step(closure)  # type: ignore[arg-type]


def _held(optimizer: Optimizer) -> list[int]:
    return [id(value) for group in optimizer.param_groups for value in group["params"]]


def _check_trains(model: nn.Module, optimizer: Optimizer, x: torch.Tensor = X) -> None:
    """Check that a step changes each parameter of the model, and that no state of others is left."""
    assert sorted(_held(optimizer)) == sorted(map(id, model.parameters()))
    before = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error", HeadSwapWarning)
        _step(model, optimizer, x)
    assert not any(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {id(key) for key in optimizer.state} <= set(_held(optimizer))
    copy.deepcopy(optimizer).load_state_dict(optimizer.state_dict())


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "tensor rate": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1)),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_new_head_is_trained_in_the_place_of_the_old_one(kind: str) -> None:
    model = Net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    _step(model, optimizer)
    options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    swap = swap_head(model, 5, X, head="fc", optimizer=optimizer)
    assert [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups] == options
    assert _held(optimizer) == [id(value) for value in model.parameters()]
    _check_trains(model, optimizer)
    swap.restore()
    assert _held(optimizer) == [id(value) for value in model.parameters()]
    swap.reapply()
    assert _held(optimizer) == [id(value) for value in model.parameters()]


def test_momentum_of_the_old_head_is_dropped_and_returns_with_it() -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    _step(model, optimizer)
    old, state = model.fc.weight, optimizer.state[model.fc.weight]
    swap = swap_head(model, 5, X, head="fc", optimizer=optimizer)
    assert old not in optimizer.state
    assert model.body.weight in optimizer.state
    _step(model, optimizer)
    new = model.fc.weight
    swap.restore()
    assert optimizer.state[old] is state
    assert new not in optimizer.state
    _step(model, optimizer)


def test_groups_keep_their_options() -> None:
    model = Net()
    decayed = [value for value in model.parameters() if value.dim() > 1]
    others = [value for value in model.parameters() if value.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}])
    swap_head(model, {"fc": 5, "colour": 4}, X, optimizer=optimizer)
    groups = [[id(value) for value in group["params"]] for group in optimizer.param_groups]
    assert [id(model.fc.weight) in group for group in groups] == [True, False]
    assert [id(model.colour.bias) in group for group in groups] == [False, True]
    _check_trains(model, optimizer)


def test_a_deeper_head_goes_to_the_group_of_the_old_one() -> None:
    model = Net()
    heads = [{"params": list(layer.parameters()), "lr": rate} for layer, rate in ((model.fc, 0.1), (model.colour, 0.2))]
    body = [*model.body.parameters(), *model.norm.parameters()]
    optimizer = torch.optim.SGD([{"params": body, "lr": 0.01}, *heads], momentum=0.9)

    def build(width: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, classes))

    swap = swap_head(model, {"fc": 5, "colour": 4}, X, new_head=build, optimizer=optimizer)
    held = [set(map(id, group["params"])) for group in optimizer.param_groups]
    assert held[1:] == [set(map(id, layer.parameters())) for layer in (model.fc, model.colour)]
    _check_trains(model, optimizer)
    swap.restore()
    assert _held(optimizer) == list(map(id, model.parameters()))


def test_a_removed_head_leaves_the_optimizer() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))
    optimizer = torch.optim.Adam(model.parameters())
    _step(model, optimizer)
    swap = swap_head(model, 0, X, optimizer=optimizer)
    _check_trains(model, optimizer)
    swap.restore()
    _check_trains(model, optimizer)


def test_a_tied_embedding_stays_and_the_new_head_comes_in() -> None:
    model, tokens = Tied(), torch.randint(0, 20, (4, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    _step(model, optimizer, tokens)
    with pytest.warns(HeadSwapWarning, match="was tied"):
        swap = swap_head(model, 5, tokens, optimizer=optimizer)
    assert model.table.weight in optimizer.state
    assert sorted(_held(optimizer)) == sorted(map(id, model.parameters()))
    _step(model, optimizer, tokens)
    swap.restore()
    assert _held(optimizer) == list(map(id, model.parameters()))


def test_schedulers_go_on() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    schedulers = [lr_scheduler.StepLR(optimizer, 1, gamma=0.5), lr_scheduler.ReduceLROnPlateau(optimizer)]
    _step(model, optimizer)
    swap_head(model, 5, X, head="fc", optimizer=optimizer)
    _check_trains(model, optimizer)
    for scheduler in schedulers:
        scheduler.step(1.0)  # type: ignore[arg-type]
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_several_optimizers_are_exchanged_where_they_hold_the_head() -> None:
    model = Net()
    body = torch.optim.SGD([*model.body.parameters(), *model.norm.parameters()], lr=0.1)
    heads = torch.optim.AdamW([*model.fc.parameters(), *model.colour.parameters()])
    before = _held(body)
    swap_head(model, {"fc": 5, "colour": 4}, X, optimizer=[body, heads])
    assert _held(body) == before
    assert _held(heads) == [*map(id, model.fc.parameters()), *map(id, model.colour.parameters())]


def test_names_of_parameters_follow() -> None:
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        pytest.skip("optimizers have names of parameters from torch 2.6 on")
    model = Net()
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
    swap = swap_head(model, 5, X, head="fc", new_head=lambda i, o: nn.Sequential(nn.Linear(i, o)), optimizer=optimizer)
    named = {id(value): name for name, value in model.named_parameters()}
    for group in optimizer.param_groups:
        assert group["param_names"] == [named[id(value)] for value in group["params"]]
    swap.restore()
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]


def test_swaps_of_two_heads_are_undone_in_any_order() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    first = swap_head(model, 5, X, head="fc", optimizer=optimizer)
    second = swap_head(model, 4, X, head="colour", optimizer=optimizer)
    _check_trains(model, optimizer)
    first.restore()
    _check_trains(model, optimizer)
    second.restore()
    first.reapply()
    _check_trains(model, optimizer)


def test_a_loaded_state_does_not_break_restore() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    swap = swap_head(model, 5, X, head="fc", optimizer=optimizer)
    _step(model, optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    swap.restore()
    assert _held(optimizer) == list(map(id, model.parameters()))


def test_a_failed_swap_leaves_the_optimizer_as_it_was() -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    _step(model, optimizer)
    before = copy.deepcopy(optimizer.state_dict())
    states = dict(optimizer.state)
    for new_head in (nn.Linear(15, 5), nn.Linear(16, 6)):
        with pytest.raises(HeadSwapError):
            swap_head(model, 5, X, head="fc", new_head=new_head, optimizer=optimizer)
    other = torch.optim.SGD(model.body.parameters(), lr=0.1)
    with pytest.raises(HeadSwapError, match="none of the optimizers holds a parameter of the old head"):
        swap_head(model, 5, X, head="fc", optimizer=[other])
    assert model.fc.out_features == 10
    assert _held(optimizer) == list(map(id, model.parameters()))
    assert all(optimizer.state[key] is value for key, value in states.items())
    assert repr(optimizer.state_dict()) == repr(before)


@pytest.mark.parametrize("given", [[], "adam", torch.optim.Adam, 3, {"optimizer": 1}])
def test_what_is_no_optimizer_is_refused(given: Any) -> None:
    with pytest.raises(HeadSwapError, match=r"optimizer must be a torch\.optim\.Optimizer or a list") as caught:
        swap_head(Net(), 5, X, head="fc", optimizer=given)
    assert caught.value.reason == "bad_argument"


def test_a_scheduler_is_refused_with_what_to_pass() -> None:
    model = Net()
    scheduler: Any = lr_scheduler.StepLR(torch.optim.SGD(model.parameters(), lr=0.1), 1)
    with pytest.raises(HeadSwapError, match=r"not StepLR\. A scheduler keeps its optimizer, so pass that one"):
        swap_head(model, 5, X, head="fc", optimizer=scheduler)


def test_an_optimizer_with_one_state_for_all_parameters_is_refused() -> None:
    model = Net()
    with pytest.raises(HeadSwapError, match="LBFGS has one state for all parameters together"):
        swap_head(model, 5, X, head="fc", optimizer=torch.optim.LBFGS(model.parameters()))


def test_an_optimizer_with_the_old_head_warns_once_at_its_next_step() -> None:
    model = Net()
    stale, fresh = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    swap = swap_head(model, 5, X, head="fc", optimizer=fresh)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _step(model, fresh)
    with pytest.warns(
        HeadSwapWarning, match=r"this SGD holds fc\.weight, fc\.bias of a head that was swapped"
    ) as caught:
        _step(model, stale)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _step(model, stale)
        swap.restore()
        _step(model, stale)


def test_a_restored_head_is_not_warned_about() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    swap_head(model, 5, X, head="fc").restore()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _step(model, optimizer)


def test_nothing_is_watched_once_no_one_holds_an_old_head() -> None:
    model = Net()
    swap = swap_head(model, 5, X, head="fc")
    del swap, model
    gc.collect()
    watched._replaced.clear()
    _step(other := nn.Linear(8, 2), torch.optim.SGD(other.parameters(), lr=0.1))
    assert not watched._hook
    assert watched._warn_once not in _global_optimizer_pre_hooks.values()
