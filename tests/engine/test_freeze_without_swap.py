"""A model that already has the right head is frozen without a swap, and its head keeps its values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, freeze_backbone, swap_head


class Heads(nn.Module):
    """A backbone with batch norm, and heads with these class counts."""

    def __init__(self, **heads: int) -> None:
        super().__init__()
        self.body, self.norm = nn.Linear(8, 16), nn.BatchNorm1d(16)
        self.heads = nn.ModuleDict({name: nn.Linear(16, count) for name, count in heads.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.norm(self.body(x)))
        return {name: head(x) for name, head in self.heads.items()}


def batch() -> Tensor:
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model)  # type: ignore[return-value, no-any-return, unused-ignore]


def trained(model: nn.Module) -> set[str]:
    """Take two steps over all parameters and return what has moved."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        model.train()
        outputs = model(batch())
        loss: Any = sum((value**2).mean() for value in (outputs.values() if isinstance(outputs, dict) else [outputs]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def tensors_of(*heads: str) -> set[str]:
    return {f"heads.{head}.{name}" for head in heads for name in ("weight", "bias")}


def plain() -> Any:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5))


def replaced_by_hand() -> Any:
    model = plain()
    model[3] = nn.Linear(16, 7)
    return model


def deeper_head() -> Any:
    model = plain()
    model[3] = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 3))
    return model


@pytest.mark.parametrize("build", [plain, replaced_by_hand, deeper_head])
@pytest.mark.parametrize(
    "wrap",
    [lambda model: model, nn.DataParallel, compiled, lambda model: nn.DataParallel(compiled(model))],
    ids=["plain", "data parallel", "compiled", "both"],
)
def test_the_head_keeps_its_values_and_all_else_is_frozen(build: Callable[[], Any], wrap: Any) -> None:
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = freeze_backbone(wrap(model), batch())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    head = [name for name in before if name.startswith("3.")]
    assert [name for name, value in model.named_parameters() if value.requires_grad] == head
    assert trained(model) == set(head)
    frozen.unfreeze()
    assert all(value.requires_grad for value in model.parameters())


def test_heads_that_predict_the_same_are_trained_together() -> None:
    class Distilled(Heads):
        def forward(self, x: Tensor) -> Any:
            one, other = super().forward(x).values()
            return (one, other) if self.training else (one + other) / 2

    model = Distilled(main=4, distilled=4)
    freeze_backbone(model, batch())
    assert {name for name, value in model.named_parameters() if value.requires_grad} == tensors_of("main", "distilled")


@pytest.mark.parametrize("counts", [{"kind": 10, "colour": 3}, {"kind": 10, "colour": 3, "size": 4}])
@pytest.mark.parametrize("head", ["heads.colour", ["heads.colour", "heads.kind"], ("heads.colour.weight",)])
def test_an_ambiguous_model_names_the_argument_that_the_next_call_takes(counts: dict[str, int], head: Any) -> None:
    model = Heads(**counts)
    with pytest.raises(HeadSwapError, match="Pass head=PATH") as caught:
        freeze_backbone(model, batch())
    assert caught.value.reason == "ambiguous"
    freeze_backbone(model, batch(), head=head)
    assert trained(model) == tensors_of(*(("colour",) if len(head) != 2 else ("colour", "kind")))


def test_a_head_can_be_selected_among_the_heads_of_swaps() -> None:
    model = Heads(kind=10, colour=3)
    swap_head(model, 5, batch(), head="heads.kind")
    swap_head(model, 4, batch(), head="heads.colour")
    freeze_backbone(model, batch(), head="heads.kind")
    assert trained(model) == tensors_of("kind")
    freeze_backbone(model, batch())
    assert trained(model) == tensors_of("kind", "colour")


@pytest.mark.parametrize(
    ("head", "reason", "message"),
    [
        ("heads.color", "unknown_head", "did you mean 'heads.colour'"),
        ("body", "unknown_head", "no head at 'body'"),
        (5, "bad_argument", "head must be a path or a list of paths"),
        ([], "bad_argument", "an empty list"),
        ([None], "bad_argument", "a list with NoneType"),
    ],
)
def test_a_wrong_head_is_refused_and_nothing_is_frozen(head: Any, reason: str, message: str) -> None:
    model = Heads(kind=10, colour=3)
    with pytest.raises(HeadSwapError, match=message) as caught:
        freeze_backbone(model, batch(), head=head)
    assert caught.value.reason == reason
    assert all(value.requires_grad for value in model.parameters())
    assert all(module.training for module in model.modules())


def test_a_swap_takes_no_head_because_it_has_its_own() -> None:
    swap = swap_head(Heads(kind=10, colour=3), 5, batch(), head="heads.kind")
    with pytest.raises(HeadSwapError, match="a swap has its own heads: pass its model") as caught:
        freeze_backbone(swap, head="heads.kind")
    assert caught.value.reason == "bad_argument"
