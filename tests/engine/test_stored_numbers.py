"""A class count that the model stores follows under any name: those that forward reads are settled by verification."""

from __future__ import annotations

import dataclasses
import types
import warnings
from collections import namedtuple
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, HeadSwapWarning, swap_head

X = torch.randn(4, 8)


class Config:
    def __init__(self, width: int) -> None:
        self.width = width


class Slots:
    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlots:
    n: int


class AttributeDict(dict[str, Any]):
    """A mapping with items as attributes. As in Lightning, a missing one is a KeyError."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


@dataclasses.dataclass(frozen=True)
class Frozen:
    n: int


Pair = namedtuple("Pair", "batch count")


class Net(nn.Module):
    """A model that stores a value, and may read it in forward."""

    def __init__(self, value: Any = None, read: Callable[[Any, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, 16), nn.Linear(16, 10)
        self._stored, self.read = value, read

    @property
    def stored(self) -> Any:
        return self._stored

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.body(x))
        return y if self.read is None else self.read(self.stored, y)


def notes_of(model: nn.Module, count: int, inputs: Tensor = X) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        swap = swap_head(model, count, inputs)
    assert [str(warning.message) for warning in caught if issubclass(warning.category, HeadSwapWarning)] == list(
        swap.notes
    )
    return swap, list(swap.notes)


@pytest.mark.parametrize("count", [5, 20])
@pytest.mark.parametrize(
    ("value", "read", "after"),
    [
        (lambda: 10, lambda n, y: y.view(-1, n), lambda n: n),
        (lambda: [-1, 10], lambda shape, y: y.view(*shape), lambda shape: shape[1]),
        (lambda: (-1, 10), lambda shape, y: y.view(*shape), lambda shape: shape[1]),
        (lambda: Pair(-1, 10), lambda shape, y: y.view(*shape), lambda shape: shape.count),
        (lambda: torch.Size((10,)), lambda shape, y: y + torch.zeros(shape), lambda shape: shape[0]),
        (lambda: {"k": 10, "z": 3}, lambda c, y: y.view(-1, c["k"]), lambda c: c["k"]),
        (lambda: {"a": {"b": (1, 10)}}, lambda c, y: y.view(-1, c["a"]["b"][1]), lambda c: c["a"]["b"][1]),
        (lambda: Config(10), lambda c, y: y.view(-1, c.width), lambda c: c.width),
        (lambda: Frozen(10), lambda c, y: y.view(-1, c.n), lambda c: c.n),
        (lambda: types.SimpleNamespace(a=Config(10)), lambda c, y: y.view(-1, c.a.width), lambda c: c.a.width),
        (lambda: Slots(10), lambda c, y: y.view(-1, c.n), lambda c: c.n),
        (lambda: FrozenSlots(10), lambda c, y: y.view(-1, c.n), lambda c: c.n),
        (lambda: types.MappingProxyType({"k": 10}), lambda c, y: y.view(-1, c["k"]), lambda c: c["k"]),
        (lambda: AttributeDict(k=10), lambda c, y: y.view(-1, c.k), lambda c: c.k),
        (lambda: np.array(10), lambda n, y: y.view(-1, int(n)), lambda n: n),
        (lambda: 10.0, lambda n, y: y.view(-1, int(n)), lambda n: n),
        (lambda: ([1, 10],), lambda c, y: y.view(-1, c[0][1]), lambda c: c[0][1]),
    ],
    ids=[
        *("attribute", "list", "tuple", "named tuple", "size", "dict", "nested", "object", "dataclass", "namespace"),
        *("slots", "frozen slots", "proxy", "attribute dict", "array", "float", "list in a tuple"),
    ],
)
def test_a_count_that_forward_reads_follows_and_is_restored(
    value: Any, read: Callable[[Any, Tensor], Tensor], after: Callable[[Any], int], count: int
) -> None:
    model = Net(value(), read)
    swap, notes = notes_of(model, count)
    assert model(X).shape == (4, count)
    assert after(model.stored) == count
    assert notes == []
    swap.restore()
    assert after(model.stored) == 10
    assert model(X).shape == (4, 10)


def test_a_count_that_is_a_class_attribute_follows() -> None:
    class Fixed(Net):
        width = 10

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).view(-1, self.width)

    model = Fixed()
    swap, _ = notes_of(model, 5)
    assert (model.width, Fixed.width) == (5, 10)
    swap.restore()
    assert "width" not in model.__dict__


def test_two_numbers_follow_if_both_are_needed_and_a_third_is_left() -> None:
    model = Net({"a": 10, "b": 10, "seed": 10}, lambda c, y: y.view(-1, c["a"]) + torch.zeros(c["b"]))
    _, notes = notes_of(model, 5)
    assert model.stored == {"a": 5, "b": 5, "seed": 10}
    assert notes == [
        "_stored['seed'] = 10: equal to the old class count and not changed. Set a new value if it counts classes"
    ]


class Reshape(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), *self.shape)


def test_a_reshape_behind_the_head_follows_once_the_class_dimension_is_known() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 20), Reshape(2, 10))
    with pytest.raises(HeadSwapError, match=r"set model.num_classes to the class count") as caught:
        swap_head(model, 5, X)
    assert caught.value.reason == "ambiguous"
    model.num_classes = 10
    for count in (5, 20):
        swap = swap_head(model, count, X)
        assert model(X).shape == (4, 2, count)
        assert (model.num_classes, model[2].shape) == (count, (2, count))
        swap.restore()
    assert (model.num_classes, model[2].shape) == (10, (2, 10))


@pytest.mark.parametrize(
    "behind",
    [lambda: nn.LayerNorm((10,)), lambda: nn.Unflatten(1, (10, 1)), lambda: nn.GroupNorm(10, 10)],
    ids=["layer norm", "unflatten", "group norm"],
)
def test_sizes_of_layers_behind_the_head_follow(behind: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 10), behind())
    swap_head(model, 4, X)
    assert model(X).shape[:2] == (4, 4)


def test_a_depthwise_layer_behind_the_head_follows() -> None:
    depthwise = nn.Conv2d(10, 10, 3, padding=1, groups=10)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 1), depthwise)
    images = torch.randn(2, 3, 8, 8)
    swap_head(model, 4, images)
    assert model(images).shape == (2, 4, 6, 6)
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (4, 4, 4)
    assert depthwise.weight.shape == (4, 1, 3, 3)


@pytest.mark.parametrize("name", ["pred_dim", "n_outputs", "c_out", "d_out", "nc"])
def test_a_number_that_forward_does_not_read_is_named(name: str) -> None:
    model = Net()
    setattr(model, name, 10)
    _, notes = notes_of(model, 5)
    assert getattr(model, name) == 10
    assert [note.partition(":")[0] for note in notes] == [f"{name} = 10"]


@pytest.mark.parametrize("store", [dict, types.SimpleNamespace])
def test_a_usual_name_in_a_container_follows(store: Any) -> None:
    model = Net(store(num_classes=10))
    swap, notes = notes_of(model, 5)
    value = model.stored["num_classes"] if isinstance(model.stored, dict) else model.stored.num_classes
    assert (value, notes) == (5, [])
    swap.restore()
    assert (model.stored == store(num_classes=10), model.fc.out_features) == (True, 10)


class Attention(nn.Module):
    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.q = num_heads, nn.Linear(20, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.q(x).view(len(x), self.num_heads, -1).softmax(-1).flatten(1)  # type: ignore[no-any-return]


class Router(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_outputs, self.gate = 10, nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.gate(x).softmax(-1).view(-1, self.num_outputs)
        return x * weights.sum(1, keepdim=True)


class Backbone(nn.Module):
    """Store the number of attention heads, which happens to equal the class count, next to the count itself."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.count = 10, 10
        self.stem, self.attention, self.router = nn.Linear(8, 20), Attention(10), Router()
        self.fc = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).view(len(x), self.num_heads, 2).flatten(1)
        return self.fc(self.router(self.attention(h))).view(-1, self.count)  # type: ignore[no-any-return]


def test_numbers_of_the_backbone_that_happen_to_be_equal_are_left_alone() -> None:
    model = Backbone()
    _, notes = notes_of(model, 5)
    assert (model.num_heads, model.attention.num_heads, model.router.num_outputs) == (10, 10, 10)
    assert (model.count, notes) == (5, [])
    assert model(X).shape == (4, 5)


def test_a_count_deep_in_nested_containers_follows() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 10)
            self.settings = types.SimpleNamespace(heads={"classes": [("first", 10)]})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x).reshape(-1, self.settings.heads["classes"][0][1])  # type: ignore[no-any-return]

    model = Nested()
    swap_head(model, 5, torch.randn(4, 8))
    assert model.settings.heads == {"classes": [("first", 5)]}


@pytest.mark.parametrize(
    "store",
    [
        lambda model: setattr(model, "config", Slots10()),
        lambda model: setattr(model, "num_classes", 10.0),
        lambda model: setattr(model, "num_classes", np.float32(10)),
        lambda model: setattr(model, "config", {"num_classes": torch.tensor(10)}),
        lambda model: model.register_buffer("num_classes", torch.tensor(10)),
        lambda model: setattr(model, "_hub_mixin_config", {"num_classes": 10}),
        lambda model: setattr(model, "_hparams", AttributeDict(num_classes=10)),
    ],
    ids=["slots", "float", "NumPy float", "tensor", "buffer", "hub", "hparams"],
)
def test_a_usual_name_follows_in_every_type(store: Callable[[Any], None]) -> None:
    model: Any = Net()
    store(model)
    _, notes = notes_of(model, 5)
    found = [*model.__dict__.values(), *model._buffers.values()]
    values = [getattr(item, "num_classes", item) for item in found]
    values += [item["num_classes"] for item in found if isinstance(item, dict) and "num_classes" in item]
    assert notes == []
    assert 5 in [value for value in values if isinstance(value, (int, float, np.number, torch.Tensor))]


class Slots10:
    __slots__ = ("num_classes",)

    def __init__(self) -> None:
        self.num_classes = 10


def test_a_container_of_the_class_is_not_changed_for_other_models() -> None:
    class Shared(Net):
        options: ClassVar[dict[str, Any]] = {"num_classes": 10, "k": [10]}

    model, other = Shared(), Shared()
    swap, _ = notes_of(model, 5)
    assert model.options["num_classes"] == 5
    assert other.options["num_classes"] == 10
    swap.restore()
    assert model.options is other.options


@pytest.mark.parametrize("value", [10, {"k": 10}], ids=["attribute", "item"])
def test_a_number_that_a_property_returns_as_the_class_count_follows(value: Any) -> None:
    class Stated(Net):
        @property
        def num_classes(self) -> int:
            count: int = self.stored if isinstance(self.stored, int) else self.stored["k"]
            return count

    model = Stated(value)
    _, notes = notes_of(model, 5)
    assert (model.num_classes, notes) == (5, [])


def test_a_property_that_cannot_follow_is_named() -> None:
    class Stated(Net):
        @property
        def num_classes(self) -> int:
            return int(self.stored) + 1

    _, notes = notes_of(Stated(9), 5)
    assert notes == ["num_classes: a property that still returns the old class count. Correct what it reads"]


def test_a_module_of_the_backbone_keeps_the_count_of_its_own_tensor() -> None:
    class Router(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n_classes = 10
            self.proj = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.proj(x).softmax(-1)  # type: ignore[no-any-return]

    class Routed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.body = Router(), nn.Linear(10, 16)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.router(x))

    model = Routed()
    assert notes_of(model, 5)[1] == []
    assert model.router.n_classes == 10


def test_a_count_that_two_heads_share_is_named_if_only_one_is_swapped() -> None:
    class Tasks(Net):
        num_classes: int

        def __init__(self) -> None:
            super().__init__({"kind": {"num_classes": 10}, "colour": {"num_classes": 10}})
            self.colour = nn.Linear(16, 10)
            self.num_classes = 10

        def forward(self, x: Tensor) -> Any:
            features = self.body(x)
            return self.fc(features), self.colour(features)

    model = Tasks()
    with pytest.warns(HeadSwapWarning, match="several heads had this class count and now differ"):
        swap = swap_head(model, 5, X, head="fc")
    assert model.num_classes == 10
    assert "_stored['kind']['num_classes'] = 10" in swap.notes[0]


@pytest.mark.parametrize(
    ("old", "new", "before", "after"),
    [
        (3, 1, "single_label_classification", None),
        (1, 4, "regression", None),
        (3, 4, "single_label_classification", "single_label_classification"),
        (3, 1, "multi_label_classification", "multi_label_classification"),
    ],
)
def test_a_problem_type_for_another_count_is_reset(old: int, new: int, before: str, after: str | None) -> None:
    model: Any = Net()
    model.fc = nn.Linear(16, old)
    model.config = types.SimpleNamespace(problem_type=before)
    swap, notes = notes_of(model, new)
    assert model.config.problem_type == after
    assert [note.partition(" was")[0] for note in notes] == (["config.problem_type"] if after is None else [])
    swap.restore()
    assert model.config.problem_type == before


def test_tying_the_weights_again_keeps_the_new_head() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(10, 16), nn.Linear(16, 10, bias=False)
            self.config = types.SimpleNamespace(tie_word_embeddings=True)
            self.tie_weights()

        def tie_weights(self) -> None:
            if self.config.tie_word_embeddings:
                self.head.weight = self.words.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.words(x))
            return out

    model = Tied()
    swap, notes = notes_of(model, 5, torch.randint(0, 10, (2, 3)))
    model.tie_weights()
    assert model.head.weight.shape == (5, 16)
    assert notes == [
        "config.tie_word_embeddings is now False: tied weights would put the old head back",
        "head.weight was tied to words.weight and is now a separate tensor",
    ]
    swap.restore()
    assert model.config.tie_word_embeddings
