"""The class dimension is followed through the halves of a layer, and to layers that set only a part of it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_headswap.engine import HeadSwapError, swap_head

X = torch.randn(4, 8)
Forward = Callable[["Net", Tensor], object]


class Net(nn.Module):
    def __init__(self, end: Forward, width: int = 10) -> None:
        super().__init__()
        self.body, self.fc, self.end = nn.Linear(8, 16), nn.Linear(16, width), end

    def logits(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).relu())  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> object:
        return self.end(self, x)


def glu(net: Net, x: Tensor) -> Tensor:
    return functional.glu(net.logits(x))


def maxout(net: Net, x: Tensor) -> Tensor:
    return torch.maximum(*net.logits(x).chunk(2, -1))


def gated(net: Net, x: Tensor) -> Tensor:
    value, gate = net.logits(x).chunk(2, dim=1)
    return value * gate.sigmoid()


def halved(net: Net, x: Tensor) -> Tensor:
    logits = net.logits(x)
    value, gate = torch.split(logits, logits.shape[1] // 2, 1)
    return torch.add(value, gate)


@pytest.mark.parametrize("end", [glu, maxout, gated, halved])
def test_a_layer_whose_halves_are_combined_is_a_head_of_twice_the_class_count(end: Forward) -> None:
    model = Net(end, width=20)
    swap = swap_head(model, 5, X)
    assert model(X).shape == (4, 5)
    assert model.fc.weight.shape == (10, 16)
    assert swap.old_heads[0].num_classes == 10
    model(X).sum().backward()
    assert model.fc.weight.grad is not None


@pytest.mark.parametrize("end", [glu, maxout])
def test_both_halves_of_a_kept_class_keep_their_values(end: Forward) -> None:
    model = Net(end, width=20)
    before = model(X)
    swap_head(model, 3, X, class_map=[7, 2, 0])
    assert torch.allclose(model(X), before[:, [7, 2, 0]])


def test_halves_that_are_returned_one_by_one_are_parts() -> None:
    with pytest.raises(HeadSwapError, match=r"fc.weight: it sets only part") as caught:
        swap_head(Net(lambda net, x: net.logits(x).chunk(2, -1), width=20), 5, X)
    assert caught.value.reason == "composite"


def written(net: Net, x: Tensor) -> Tensor:
    out = torch.zeros(len(x), 12)
    out[:, 1:11] = net.logits(x)
    return out


def added(net: Net, x: Tensor) -> Tensor:
    return torch.zeros(len(x), 12).index_add(1, torch.arange(10), net.logits(x))


def scattered(net: Net, x: Tensor) -> Tensor:
    logits = net.logits(x)
    return torch.zeros(len(x), 12).scatter(1, torch.arange(10).expand_as(logits), logits)


@pytest.mark.parametrize("end", [written, added, scattered])
def test_logits_that_are_written_into_a_larger_tensor_name_their_layer(end: Forward) -> None:
    model = Net(end)
    with pytest.raises(
        HeadSwapError, match=r"fc.weight: it sets only part .* return the output of one layer"
    ) as caught:
        swap_head(model, 5, X)
    assert caught.value.reason == "composite"
    model.end = Net.logits  # the advice
    swap_head(model, 5, X)
    assert model(X).shape == (4, 5)


def test_an_adaptive_softmax_names_a_layer_that_sets_a_part_of_the_classes() -> None:
    class Adaptive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out = nn.Linear(8, 16), nn.AdaptiveLogSoftmaxWithLoss(16, 10, [4], div_value=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out.log_prob(self.body(x))

    with pytest.raises(HeadSwapError, match=r"out.tail.0.1.weight: it sets only part"):
        swap_head(Adaptive(), 5, X)


class Recurrent(nn.Module):
    def __init__(self, layer: type[nn.RNNBase], num_classes: int | None = None, layers: int = 1) -> None:
        super().__init__()
        self.rnn = layer(8, 10, num_layers=layers, batch_first=True)  # type: ignore[call-arg, arg-type]
        if num_classes is not None:
            self.num_classes = num_classes

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0][:, -1]  # type: ignore[no-any-return]


@pytest.mark.parametrize("layer", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_hidden_state_of_a_recurrent_layer_is_features_unless_the_model_states_its_width(
    layer: type[nn.RNNBase],
) -> None:
    x = torch.randn(2, 5, 8)
    with pytest.raises(HeadSwapError, match=r"set model\.num_classes to it") as caught:
        swap_head(Recurrent(layer), 5, x)
    assert caught.value.reason == "output_is_backbone"
    model = Recurrent(layer, num_classes=10)
    swap_head(model, 5, x)
    assert model(x).shape == (2, 5)
    assert model.rnn.hidden_size == 5
    model(x).sum().backward()
    swap_head(Recurrent(layer, num_classes=10), 12, x)


def test_a_layer_that_keeps_the_old_count_is_named_rather_than_forward() -> None:
    with pytest.raises(HeadSwapError, match=r"The GRU called at .* needs the old class count") as caught:
        swap_head(Recurrent(nn.GRU, num_classes=10, layers=2), 5, torch.randn(2, 5, 8))
    assert "written into forward" not in caught.value.message


HEAD = nn.Linear(16, 10)
TABLE = torch.randn(16, 10)


class Unregistered(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        head = nn.Linear(16, 10)
        self.body, self.kind = nn.Linear(8, 16), kind
        self.heads, self.stack, self.tables = {"cls": nn.Linear(16, 10)}, [nn.Linear(16, 10)], {"w": torch.ones(16, 10)}
        self.head: Callable[[Tensor], Tensor] = lambda features: head(features).mul(1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        ways = {
            "dict": lambda: self.heads["cls"](features),
            "list": lambda: self.stack[0](features),
            "closure": lambda: self.head(features),
            "global": lambda: HEAD(features),
            "tensor": lambda: features @ self.tables["w"],
        }
        return ways[self.kind]()  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("dict", r"\(10, 16\) \(heads\['cls'\].weight\)"),
        ("list", r"\(10, 16\) \(stack\[0\].weight\)"),
        ("closure", r"\(10, 16\) \(head: head.weight\)"),
        ("global", r"\(10, 16\) "),
        ("tensor", r"\(16, 10\) \(tables\['w'\]\)"),
    ],
)
def test_a_head_that_is_not_registered_is_named_with_its_place(kind: str, place: str) -> None:
    with pytest.raises(HeadSwapError, match=f"a tensor of shape {place}.*Unregistered does not register") as caught:
        swap_head(Unregistered(kind), 5, X)
    assert caught.value.reason == "unsupported_layer"


def test_a_registered_list_is_what_the_message_asks_for() -> None:
    model = Unregistered("list")
    model.stack = nn.ModuleList(model.stack)  # type: ignore[assignment]
    swap_head(model, 5, X)
    assert model(X).shape == (4, 5)


@pytest.mark.parametrize(
    "end",
    [
        lambda net, x: {"logits": net.logits(x), "other": net.fc.weight.norm(dim=1)},
        lambda net, x: {"logits": net.logits(x), "other": net.fc.weight},
        lambda net, x: {"logits": net.logits(x), "other": net.fc.weight @ net.fc.weight.t()},
        lambda net, x: {"logits": net.logits(x), "other": net.logits(x).flatten()},
        lambda net, x: {"logits": net.logits(x), "other": functional.pad(net.logits(x), (1, 0))},
        lambda net, x: {"logits": net.logits(x), "other": net.logits(x)[:, 1:]},
        lambda net, x: {"logits": net.logits(x), "other": torch.einsum("bc,bd->cd", net.logits(x), net.logits(x))},
        lambda net, x: {"logits": net.logits(x), "other": torch.cat([net.logits(x), x], 1)},
    ],
)
def test_outputs_whose_size_follows_from_the_classes_may_change(end: Forward) -> None:
    model = Net(end)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swap = swap_head(model, 5, X)
    assert swap.notes == ()
    assert model(X)["logits"].shape == (4, 5)
    swap.restore()
    assert model(X)["logits"].shape == (4, 10)


@pytest.mark.parametrize(
    ("end", "size"),
    [
        (lambda net, x: {"logits": net.logits(x), "other": net.logits(x)[:, [0, 3]]}, 2),
        (
            lambda net, x: {"logits": net.logits(x), "other": functional.one_hot(net.logits(x).argmax(1), 10).float()},
            10,
        ),
    ],
)
def test_outputs_that_select_from_the_classes_by_constants_are_named(end: Forward, size: int) -> None:
    with pytest.warns(UserWarning, match=rf"output\['other'\], dimension 1 \({size}\): the size did not change"):
        swap_head(Net(end), 5, X)


def test_label_embeddings_that_are_all_looked_up_are_a_head() -> None:
    class Labels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.labels = nn.Linear(8, 16), nn.Embedding(10, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) @ self.labels(torch.arange(self.labels.num_embeddings)).t()  # type: ignore[no-any-return]

    model = Labels()
    before = model(X)
    swap_head(model, 3, X, class_map=[4, 0, 9])
    assert model.labels.num_embeddings == 3
    torch.testing.assert_close(model(X), before[:, [4, 0, 9]])


def test_an_output_that_is_computed_in_another_thread_is_refused_truly() -> None:
    def in_thread(net: Net, x: Tensor) -> Tensor:
        results: list[Tensor] = []
        thread = threading.Thread(target=lambda: results.append(net.logits(x)))
        thread.start()
        thread.join()
        return results[0]

    with pytest.raises(HeadSwapError, match="in the thread that calls forward") as caught:
        swap_head(Net(in_thread), 5, X)
    assert caught.value.reason == "opaque_output"


@pytest.mark.parametrize(
    ("end", "advice"),
    [
        (
            lambda net, x: net.body(x) @ net.table,
            "table: aten::mm multiplies by it, but it is a plain attribute: register it as a parameter",
        ),
        (
            lambda net, x: net.body(x) @ torch.cat([net.fc.weight, net.more.weight]).t(),
            "Store the weight as one parameter",
        ),
    ],
)
def test_a_weight_that_is_no_single_parameter_is_refused_with_the_next_step(end: Forward, advice: str) -> None:
    model = Net(end)
    model.table, model.more = torch.randn(16, 10), nn.Linear(16, 3)
    with pytest.raises(HeadSwapError, match=advice) as caught:
        swap_head(model, 5, X)
    assert caught.value.reason == "unsupported_layer"


def test_an_output_object_that_computes_its_attributes_is_searched() -> None:
    class Record(dict[str, Tensor]):
        def __getattr__(self, name: str) -> Tensor:
            return self[name]  # raises KeyError

    class Holder:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

        def __getattr__(self, name: str) -> Tensor:
            raise KeyError(name)

    for kind in (Record, Holder):
        model = Net(lambda net, x, kind=kind: kind(logits=net.logits(x)))  # type: ignore[misc]
        assert [head.path for head in swap_head(model, 5, X).heads] == ["fc"]


def test_a_layer_that_forward_creates_is_refused_truly() -> None:
    with pytest.raises(HeadSwapError, match=r"that forward creates: create it, or its layer, in __init__"):
        swap_head(Net(lambda net, x: nn.Linear(16, 10)(net.body(x))), 5, X)


def test_a_stated_count_is_not_asked_for_again() -> None:
    class Both(nn.Module):
        num_classes = 10

        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(8, 5, bidirectional=True, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0][:, -1]  # type: ignore[no-any-return]

    with pytest.raises(HeadSwapError, match="Add a head after it") as caught:
        swap_head(Both(), 5, torch.randn(2, 5, 8))
    assert "set model.num_classes" not in caught.value.message
