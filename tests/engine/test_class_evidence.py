"""Arg-max, learned tables and fixed buffers tell which dimension counts classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import HeadSwapError, NoHeadError, find_heads, swap_head

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


class Decoded(nn.Module):
    """Boxes, and what `decode` makes of the logits."""

    def __init__(self, decode: Callable[[Tensor], Any], classes: int = 10) -> None:
        super().__init__()
        self.body, self.cls, self.box = nn.Linear(8, 16), nn.Linear(16, classes), nn.Linear(16, 4)
        self.register_buffer("ids", torch.arange(classes))
        self.decode = decode

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = torch.relu(self.body(x))
        return {"boxes": self.box(x), "result": self.decode(self.cls(x))}


@pytest.mark.parametrize(
    "decode",
    [
        lambda logits: logits.argmax(-1),
        lambda logits: (logits.argmax(-1), logits.softmax(-1).amax(-1)),
        lambda logits: logits.softmax(-1).amax(-1),
        lambda logits: tuple(logits.max(-1)),
        lambda logits: logits.topk(3)[1],
        lambda logits: logits.sort(descending=True)[1][:, 0],
        lambda logits: logits.argmax(1) + 1,
        lambda logits: torch.arange(10).to(logits.device)[logits.argmax(1)],
        lambda logits: logits.argmax(-1).float(),
        lambda logits: torch.multinomial(logits.softmax(-1), 1),
    ],
    ids=["argmax", "labels and scores", "amax", "max", "topk", "sort", "shifted", "mapped", "as floats", "sampled"],
)
@pytest.mark.parametrize("classes", [10, 4])
@pytest.mark.filterwarnings("ignore:with the backbone frozen, no gradient reaches")
def test_the_dimension_that_an_arg_max_goes_over_counts_the_classes(
    decode: Callable[[Tensor], Any], classes: int
) -> None:
    model = Decoded(decode, classes)
    swap = swap_head(model, 5, X)
    assert [head.path for head in swap.heads] == ["cls"]
    assert swap.heads[0].outputs[0].startswith("arg-max behind output['result']")
    assert (model.cls.out_features, model.box.out_features) == (5, 4)
    swap.restore()
    assert model.cls.out_features == classes


def test_an_arg_max_alone_is_enough() -> None:
    class Labels(Decoded):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x)["result"]  # type: ignore[no-any-return]

    model = Labels(lambda logits: logits.argmax(-1))
    with pytest.warns(UserWarning, match="no gradient reaches cls.weight"):
        swap_head(model, 3, X)
    assert model.cls.out_features == 3


@pytest.mark.filterwarnings("ignore:with the backbone frozen, no gradient reaches")
def test_an_arg_max_over_the_sum_of_two_layers_finds_both() -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.local, self.distant = nn.Linear(8, 16), nn.Linear(16, 10), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.body(x))
            return (self.local(x) + self.distant(x)).argmax(1)  # type: ignore[no-any-return]

    model = Summed()
    swap = swap_head(model, 3, X)
    assert {head.path for head in swap.heads} == {"local", "distant"}
    assert model(X).max() < 3


def test_an_arg_max_settles_which_of_two_equal_heads_counts_classes() -> None:
    class Shown(Decoded):
        def forward(self, x: Tensor) -> dict[str, Any]:
            x = torch.relu(self.body(x))
            logits = self.cls(x)
            return {"logits": logits, "boxes": self.box(x), "labels": logits.argmax(-1)}

    assert [head.path for head in swap_head(Shown(torch.relu, 4), 7, X).heads] == ["cls"]


def test_the_choice_of_a_router_is_no_class() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.fc = nn.Linear(8, 3), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            gate = self.gate(x).softmax(-1)
            return self.fc(x * gate.amax(-1, keepdim=True)), gate.argmax(-1)

    assert [head.path for head in swap_head(Routed(), 5, X).heads] == ["fc"]


@pytest.mark.parametrize(
    "decode",
    [
        lambda logits: logits.argmax(),
        lambda logits: logits.sigmoid().flatten().topk(3)[1] % 10,
        lambda logits: (logits > 0).nonzero(),
        lambda logits: logits.softmax(-1)[:, :-1].max(-1)[1],
        lambda logits: logits.argmax(-1)[:, None] == torch.arange(10).to(logits.device),
    ],
    ids=["over all entries", "flattened", "nonzero", "all but the background", "one hot"],
)
def test_a_choice_that_cannot_be_verified_is_refused(decode: Callable[[Tensor], Any]) -> None:
    model = Decoded(decode)
    with pytest.raises(HeadSwapError, match=r"call swap_head on the submodule.*'cls' \(10 classes\)") as caught:
        swap_head(model, 5, X)
    assert caught.value.reason == "decoded_output"
    assert not isinstance(caught.value, NoHeadError)
    assert model.box.out_features == 4
    swap_head(model, 5, X, head="box")
    assert model.box.out_features == 5


class Attending(nn.Module):
    """Learned latents that attend to the input, and a layer for their results."""

    def __init__(self, out: Callable[[Any, Tensor], Any], latents: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.latents, self.out = nn.Parameter(torch.randn(latents, 8)), out
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.to_logits, self.box = nn.Linear(8, classes), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        queries = self.latents.expand(len(x), -1, -1)
        return self.out(self, queries + self.attention(queries, x, x)[0])


def test_latents_are_features() -> None:
    with pytest.raises(NoHeadError, match="returns features") as caught:
        swap_head(Attending(lambda _, latents: latents), 7, TOKENS)
    assert caught.value.reason == "output_is_backbone"


@pytest.mark.parametrize("as_dict", [False, True])
def test_the_number_of_queries_is_no_class_count(as_dict: bool) -> None:
    model = Attending(lambda m, h: {"logits": m.to_logits(h)} if as_dict else m.to_logits(h))
    assert [head.path for head in swap_head(model, 7, TOKENS).heads] == ["to_logits"]
    assert model.latents.shape == (16, 8)


def test_classes_and_boxes_of_queries_are_told_apart_by_a_declared_count() -> None:
    model = Attending(lambda m, h: {"logits": m.to_logits(h), "boxes": m.box(h)})
    with pytest.raises(HeadSwapError, match=r"'to_logits' \(10 classes\), 'box' \(4 classes\)") as caught:
        swap_head(model, 7, TOKENS)
    assert caught.value.reason == "ambiguous"
    model.num_classes = 10  # type: ignore[assignment]
    assert [head.path for head in swap_head(model, 7, TOKENS).heads] == ["to_logits"]


def test_a_table_with_one_query_for_each_class_is_the_head() -> None:
    model = Attending(lambda m, h: m.to_logits(h).squeeze(-1), latents=10, classes=1)
    assert swap_head(model, 7, TOKENS).heads[0].tensors == ("latents",)
    assert model(TOKENS).shape == (2, 7)


class Stacked(nn.Module):
    """An ensemble of three linear layers in one tensor."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.weights, self.product = nn.Linear(8, 16), nn.Parameter(torch.randn(3, 16, 10)), product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(torch.relu(self.body(x)), self.weights)


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: torch.bmm(x.expand(3, -1, -1), w),
        lambda x, w: torch.bmm(x.expand(3, -1, -1), w).mean(0),
        lambda x, w: (x[:, None, None] @ w).squeeze(2),
    ],
    ids=["bmm", "averaged", "matmul"],
)
def test_the_members_of_a_stacked_ensemble_are_no_classes(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Stacked(product)
    swap_head(model, 7, X)
    assert model.weights.shape == (3, 16, 7)


def test_a_stacked_product_that_treats_members_and_classes_alike_is_ambiguous() -> None:
    model: Any = Stacked(lambda x, w: torch.einsum("bi,kio->kbo", x, w))
    with pytest.raises(HeadSwapError, match=r"set model\.num_classes to the class count") as caught:
        swap_head(model, 7, X)
    assert caught.value.reason == "ambiguous"
    model.num_classes = 10
    swap_head(model, 7, X)
    assert model.weights.shape == (3, 16, 7)


def test_a_head_without_a_path_is_listed_and_selected_by_its_tensor() -> None:
    class TwoTasks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.fc = nn.Parameter(torch.randn(12, 8)), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x @ self.table.t(), self.fc(x)

    model = TwoTasks()
    with pytest.raises(HeadSwapError, match=r"'table' \(12 classes\), 'fc' \(3 classes\)"):
        swap_head(model, 5, X)
    swap_head(model, 5, X, head="table")
    assert [tuple(output.shape) for output in model(X)] == [(4, 5), (4, 3)]
    swap_head(model, 7, X, head="fc.weight")
    assert [tuple(output.shape) for output in model(X)] == [(4, 5), (4, 7)]


class Mixed(nn.Module):
    """Class probabilities that a fixed matrix combines."""

    def __init__(self, matrix: Tensor, show: str) -> None:
        super().__init__()
        self.body, self.fc, self.value = nn.Linear(8, 16), nn.Linear(16, 10), nn.Linear(16, 1)
        self.register_buffer("matrix", matrix)
        self.matrix: Tensor
        self.show = show

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.body(x))
        fine = self.fc(x) if "logits" in self.show else self.fc(x).softmax(-1)
        outputs = {"mixed": fine @ self.matrix}
        if "fine" in self.show:
            outputs["fine"] = fine
        if "value" in self.show:
            outputs["value"] = self.value(x)
        return outputs


@pytest.mark.parametrize("matrix", [torch.rand(10, 3), torch.rand(10, 10)], ids=["coarse classes", "noise"])
@pytest.mark.parametrize("show", ["", "fine", "fine logits", "value"])
def test_a_fixed_buffer_that_mixes_classes_is_no_head(matrix: Tensor, show: str) -> None:
    model = Mixed(matrix, show)
    for call in (lambda: swap_head(model, 5, X), lambda: find_heads(model, X)):
        with pytest.raises(
            HeadSwapError, match="matrix: it is a fixed buffer that mixes the classes set by fc"
        ) as caught:
            call()
        assert caught.value.reason == "unsupported_layer"
    assert (model.matrix.shape, model.value.out_features) == (matrix.shape, 1)


def test_features_that_a_head_of_the_stated_count_reads_are_no_head() -> None:
    class Cached(nn.Module):
        num_labels = 7

        def __init__(self) -> None:
            super().__init__()
            self.keys, self.mix, self.score = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 7)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            keys = self.keys(x)
            kept = keys.reshape(4, 2, 4).repeat_interleave(2, 1)
            return {"logits": self.score(self.mix(kept[:, ::2].flatten(1)).relu()), "keys": keys.view(4, 2, 4)}

    found = find_heads(Cached(), X)
    assert [head.path for head in found] == ["score"]
    assert "keys" in [item.path for item in found.rejected]
