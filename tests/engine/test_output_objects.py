"""Tensors are found in objects, and an object that cannot be searched is an error."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal

from pytest_headswap.engine import HeadSwapError, flatten_outputs, swap_head
from tests.usable import usable_transformers

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Slots:
    __slots__ = ("_cached", "logits", "unset")

    def __init__(self, logits: Any) -> None:
        self._cached = self.logits = logits


class Plain:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def bound(self) -> None: ...

    @property
    def costly(self) -> Tensor:
        raise AssertionError("properties are not called")


@dataclasses.dataclass
class Record:
    logits: Any
    extra: Any = None


class Pair(NamedTuple):
    first: Any
    second: Any


class Colour(enum.Enum):
    RED = 1


class Head(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.fc, self.wrap = nn.Linear(8, 16), nn.Linear(16, 10), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.fc(torch.relu(self.body(x))))


@pytest.mark.parametrize(
    ("wrap", "label"),
    [
        (lambda y: Categorical(logits=y), "output.logits"),
        (lambda y: Categorical(probs=y.softmax(-1)), "output.probs"),
        (lambda y: Bernoulli(logits=y), "output.logits"),
        (lambda y: Independent(Bernoulli(logits=y), 1), "output.base_dist.logits"),
        (lambda y: Record([types.SimpleNamespace(z=y, n=3)]), "output.logits[0].z"),
        (Slots, "output.logits"),
        (lambda y: Plain(logits=y, name="x", colour=Colour.RED), "output.logits"),
        (lambda y: Pair(Plain(y=y), None), "output.first.y"),
        (lambda y: collections.OrderedDict(y=Plain(_hidden=y)), "output['y']._hidden"),
        (lambda y: collections.deque([y]), "output[0]"),
    ],
    ids=["logits", "probs", "Bernoulli", "Independent", "nested", "slots", "object", "named tuple", "dict", "deque"],
)
def test_logits_in_an_object_are_swapped(wrap: Callable[[Tensor], Any], label: str) -> None:
    model = Head(wrap)
    swap = swap_head(model, 5, X)
    assert (swap.heads[0].path, swap.heads[0].outputs) == ("fc", (label,))
    output = model(X)
    assert eval(label, {"output": output}).shape == (4, 5)


def test_a_tensor_under_several_attributes_is_listed_once() -> None:
    tensor = torch.zeros(2, 3)
    item = Plain(_logits=tensor, logits=tensor, other=tensor.clone())
    item.itself = item  # type: ignore[attr-defined]
    assert [label for label, _ in flatten_outputs(item)] == ["output.logits", "output.other"]
    assert [label for label, _ in flatten_outputs((tensor, tensor))] == ["output[0]", "output[1]"]


@pytest.mark.parametrize(
    "opaque",
    [
        lambda y: (item for item in [y]),
        lambda y: iter([y]),
        lambda y: lambda: y,
        lambda y: functools.partial(torch.add, y),
        lambda y: Plain(y=y).bound,
        lambda y: map(torch.relu, [y]),
    ],
    ids=["generator", "iterator", "closure", "partial", "method", "map"],
)
def test_an_object_that_cannot_be_searched_is_an_error(opaque: Callable[[Tensor], Any]) -> None:
    for wrap in (opaque, lambda y: (y, opaque(y)), lambda y: {"a": Plain(y=y, z=opaque(y))}):
        with pytest.raises(HeadSwapError, match="return the tensors in a tuple") as caught:
            swap_head(Head(wrap), 5, X)
        assert caught.value.reason == "opaque_output"


def test_plain_data_and_modules_hold_no_outputs() -> None:
    plain = (
        1,
        2.0,
        "a",
        None,
        torch.float32,
        torch.Size([1]),
        Colour.RED,
        int,
        len,
        test_plain_data_and_modules_hold_no_outputs,
    )
    layer = nn.Linear(2, 2)
    assert flatten_outputs([plain, layer, {"a": b"x"}]) == []
    layer.last = torch.zeros(1)
    assert [label for label, _ in flatten_outputs(layer)] == ["output.last"]


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.actor, self.critic = nn.Linear(8, 16), nn.Linear(16, 10), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[Categorical, Tensor]:
        x = torch.relu(self.body(x))
        return Categorical(logits=self.actor(x)), self.critic(x)


def test_an_actor_in_a_distribution_is_not_overlooked() -> None:
    model = ActorCritic()
    with pytest.raises(HeadSwapError, match=r"'actor' \(10 classes\), 'critic' \(1 classes\)") as caught:
        swap_head(model, 6, X)
    assert caught.value.reason == "ambiguous"
    swap_head(model, 6, X, head="actor")
    assert (model(X)[0].logits.shape, model(X)[1].shape) == ((4, 6), (4, 1))


def test_the_parts_of_a_mixture_are_ambiguous() -> None:
    class Mixture(ActorCritic):
        def __init__(self) -> None:
            super().__init__()
            self.critic = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> MixtureSameFamily:  # type: ignore[override]
            x = torch.relu(self.body(x))
            return MixtureSameFamily(Categorical(logits=self.actor(x)), Normal(self.critic(x), 1.0))

    with pytest.raises(HeadSwapError) as caught:
        swap_head(Mixture(), 6, X)
    assert caught.value.reason == "ambiguous"


class Decoder(nn.Module):
    """Return logits and a cache with the keys and values of attention, split into several heads or not."""

    def __init__(self, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.embed, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = self.embed(x)
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.mT).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return {"logits": self.fc(x)[:, -1], "cache": Plain(layers=[Plain(keys=k, values=v)])}


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("fused", [True, False])
def test_the_keys_and_values_in_a_cache_lead_to_no_head(heads: int, fused: bool) -> None:
    model, inputs = Decoder(heads, fused), torch.randn(2, 5, 8)
    assert {label for label, _ in flatten_outputs(model(inputs))} > {"output['cache'].layers[0].keys"}
    assert [head.path for head in swap_head(model, 5, inputs).heads] == ["fc"]


def test_the_cache_of_a_transformers_model_leads_to_no_head() -> None:
    transformers = usable_transformers()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    config = transformers.LlamaConfig(**sizes, vocab_size=50, num_labels=3, pad_token_id=0)
    model = transformers.LlamaForSequenceClassification(config)
    inputs = {"input_ids": torch.ones(2, 6, dtype=torch.long), "use_cache": True}
    assert any(".layers[0]" in label for label, _ in flatten_outputs(model(**inputs)))
    assert [head.path for head in swap_head(model, 5, inputs).heads] == ["score"]
