"""Whatever forward does in train mode, a frozen backbone keeps its promise, or the freeze is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_headswap.engine import FrozenBackbone, HeadSwapError, freeze_backbone, swap_head
from tests.engine.frozen_models import (
    CHANGES,
    WIDTH,
    Net,
    batch_mean,
    differences,
    numpy_held,
    other_samples,
    python_held,
)

BATCH = 6


def broken_promises(model: Any) -> list[str]:
    """Train in train mode. Return the backbone tensors that change, and the samples that depend on their batch."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    features: list[Tensor] = []
    handle = model.fc.register_forward_pre_hook(lambda _, args: features.append(args[0].detach().clone()))
    x = torch.randn(BATCH, 8)
    other_first, other_last = x.clone(), x.clone()
    other_last[1:], other_first[:-1] = torch.randn(2, BATCH - 1, 8)
    for inputs in (x, other_last, other_first, x):
        model.train()
        optimizer.zero_grad()
        (model(inputs) ** 2).mean().backward()
        optimizer.step()
    handle.remove()
    after = model.state_dict()
    broken = list(before.keys() ^ after.keys())
    broken += [key for key in before.keys() & after.keys() if not torch.equal(before[key], after[key])]
    broken = [key for key in broken if not key.startswith("fc.")]
    broken += [
        f"sample {index}"
        for index, other in ((0, 1), (-1, 2), (0, 3), (-1, 3))
        if not torch.allclose(features[0][index], features[other][index], atol=1e-6)
    ]
    return broken


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_forward_does_only_in_train_mode_is_prevented_with_a_note(change: Any) -> None:
    torch.manual_seed(0)
    random.seed(0)
    model = Net(change, always=False)
    swap = swap_head(model, 5, torch.randn(BATCH, 8))
    frozen = freeze_backbone(swap)
    assert "also stay in eval mode" in frozen.notes[0]
    assert broken_promises(model) == []
    frozen.unfreeze()
    assert model.train().training


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_forward_does_in_eval_mode_too_is_refused(change: Any) -> None:
    torch.manual_seed(0)
    random.seed(0)
    model = Net(change, always=True)
    swap = swap_head(model, 5, torch.randn(BATCH, 8))
    with pytest.raises(HeadSwapError, match=r"even in eval mode: .*self\.training") as caught:
        freeze_backbone(swap)
    assert caught.value.reason == "not_freezable"
    assert all(value.requires_grad for value in model.parameters())
    assert all(module.training and "train" not in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("name", ["python", "generator"])
def test_the_verification_leaves_the_generators_of_the_model_as_they_were(name: str) -> None:
    model = Net(numpy_held if name == "generator" else python_held, always=False)
    swap = swap_head(model, 5, torch.randn(BATCH, 8))
    held: dict[str, Any] = {"python": random.Random(3), "generator": np.random.default_rng(3)}
    setattr(model, name, held[name])
    freeze_backbone(swap)
    fresh: dict[str, Any] = {"python": random.Random(3), "generator": np.random.default_rng(3)}
    assert held[name].random() == fresh[name].random()


# --- what must not be refused


def frozen_with(change: Any, x: Tensor | None = None) -> FrozenBackbone:
    model = Net(change, always=True)
    return freeze_backbone(swap_head(model, 5, torch.randn(BATCH, 8) if x is None else x))


@pytest.mark.parametrize("size", [16, 64, 300])
@pytest.mark.parametrize("order", ["C", "F"], ids=["by rows", "by columns"])
def test_a_random_matrix_of_any_size_is_noticed(size: int, order: Any) -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Linear(8, size), nn.Linear(size, 10)

        def forward(self, x: Tensor) -> Tensor:
            matrix = np.asarray(np.random.rand(size, size), np.float32, order)
            return self.fc(self.body(x) @ torch.from_numpy(matrix))  # type: ignore[no-any-return]

    swap = swap_head(Projected(), 5, torch.randn(BATCH, 8))
    with pytest.raises(HeadSwapError, match=r"draws random numbers from numpy\.random even in eval mode") as caught:
        freeze_backbone(swap)
    assert caught.value.reason == "not_freezable"


def seeds_itself(_: Any, f: Tensor) -> Tensor:
    np.random.seed(0)
    return f * torch.as_tensor(np.random.rand(WIDTH), dtype=f.dtype)


def draws_but_does_not_use(_: Any, f: Tensor) -> Tensor:
    random.random()
    return f


def fills_a_cache(model: Any, f: Tensor) -> Any:
    if model.absent is None:
        model.absent = torch.arange(WIDTH, dtype=torch.float32)
    return f + model.absent


def remembers_its_features(model: Any, f: Tensor) -> Tensor:
    model.state["seen"] = model.last_features = f.detach()
    return f


def normalizes_each_sample(_: Any, f: Tensor) -> Tensor:
    f = (f - f.mean(1, keepdim=True)) / (f.std(1, keepdim=True) + 1)
    return f.t().cumsum(0).t().softmax(-1) + f.flip(1) + f.sort(-1).values + f.amax(-1, keepdim=True)


def goes_sample_by_sample(_: Any, f: Tensor) -> Tensor:
    written = torch.zeros_like(f)
    for index in range(len(f)):
        written[index] = f[index] * 2
    return written + torch.stack([f[index] for index in range(len(f))]) + torch.cat([part * 2 for part in f.chunk(3)])


def moves_samples_and_back(_: Any, f: Tensor) -> Tensor:
    order = torch.tensor([3, 1, 2, 0, 5, 4])
    moved = torch.zeros_like(f)
    moved[order] = f[order] * 2
    return f.flip(0).exp().flip(0) + f.roll(1, 0).exp().roll(-1, 0) + f[order].exp()[order.argsort()] + moved


def picks_within_a_sample(_: Any, f: Tensor) -> Tensor:
    parts = f.view(-1, 4, 4)
    largest = parts[torch.arange(len(f)), parts.sum(-1).argmax(-1)]
    mask = torch.zeros_like(f).scatter(1, f.topk(3, 1).indices, 1.0)
    return f * mask + f.gather(1, f.argsort(1)) + largest.repeat(1, 4)


def attends_within_a_sample(_: Any, f: Tensor) -> Tensor:
    parts = f.view(-1, 4, 4)
    folded = f.view(-1, 4)
    return (parts @ parts.transpose(1, 2)).softmax(-1).flatten(1) + (folded * folded.sum(1, keepdim=True)).view_as(f)


def filters_within_a_sample(_: Any, f: Tensor) -> Tensor:
    filtered = nn.functional.conv1d(f[:, None], torch.ones(1, 1, 3), padding=1)[:, 0]
    return filtered + nn.functional.layer_norm(f, [WIDTH]) + nn.functional.group_norm(f, 4)


def patches_of_a_sample(_: Any, f: Tensor) -> Tensor:
    return f + nn.functional.unfold(f.view(-1, 1, 4, 4), 2, stride=2).flatten(1)


def weights_for_each_sample(_: Any, f: Tensor) -> Tensor:
    weight = f.view(-1, 1, 1, 1).expand(-1, 4, 1, 1)  # 16 filters for each sample, one group of channels for each
    image = f.view(1, -1, 2, 2)
    return f + nn.functional.conv2d(image, weight, groups=len(f)).view(len(f), WIDTH, 4).mean(-1)


def compares_samples_and_ignores_the_answer(_: Any, f: Tensor) -> Tensor:
    torch.equal(f[:1], f[1:2])  # operations without a result
    torch._assert_async(f.isfinite().all())
    return f[torch.arange(len(f))]


def attends_to_constants(_: Any, f: Tensor) -> Tensor:
    q = nn.functional.layer_norm(f[:, :4, None], (1,)).squeeze(2)  # a norm of single entries is constant
    return f + torch.softmax(q @ q.T, 1) @ f.new_ones(len(f), 1)


def dropout_of_nothing(_: Any, f: Tensor) -> Tensor:
    q = f.view(-1, 1, 4, 4)
    f = f + nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=0.0).flatten(1)
    return nn.functional.rrelu(nn.functional.dropout(f, 0.0, training=True), training=False)


@pytest.mark.parametrize(
    "change",
    [
        *(seeds_itself, draws_but_does_not_use, fills_a_cache, remembers_its_features, normalizes_each_sample),
        *(dropout_of_nothing, goes_sample_by_sample, moves_samples_and_back, picks_within_a_sample),
        *(attends_within_a_sample, patches_of_a_sample, weights_for_each_sample, filters_within_a_sample),
        *(compares_samples_and_ignores_the_answer, attends_to_constants),
    ],
    ids=lambda item: item.__name__,
)
def test_what_changes_no_feature_is_not_refused(change: Any) -> None:
    assert frozen_with(change).notes == ()


@pytest.mark.parametrize("change", [batch_mean, differences, other_samples], ids=lambda item: item.__name__)
def test_inputs_with_one_sample_are_verified_with_two(change: Any) -> None:
    with pytest.raises(HeadSwapError, match="combines the samples of a batch"):
        frozen_with(change, torch.randn(1, 8))


def one_sample_only(_: Any, f: Tensor) -> Tensor:
    return f.view(1, WIDTH) * 2


def test_a_note_says_that_a_model_runs_only_on_one_sample() -> None:
    assert "runs only on one sample" in frozen_with(one_sample_only, torch.randn(1, 8)).notes[0]


@pytest.mark.parametrize("path", ["", "fc"])
@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_a_note_names_modules_with_backward_hooks(path: str, kind: str) -> None:
    model = Net(batch_mean, always=False)
    getattr(model.get_submodule(path), kind)(lambda *_: None)
    notes = freeze_backbone(swap_head(model, 5, torch.randn(BATCH, 8))).notes
    assert f"backward hooks of {'Linear' if path else 'Net'} did not run" in notes[-1]


def experts(_: Any, f: Tensor) -> Tensor:
    """Send each sample to one of two experts, by an index that depends on all samples."""
    order = f.argmax(1).gt(7).long().argsort()
    return torch.zeros_like(f).index_copy(0, order, f[order] * 2)


def indexed_by_a_count(_: Any, f: Tensor) -> Tensor:
    """Pick entries by an index that depends on a number computed from all samples, as Longformer does."""
    count = f.gt(0).long().sum(1)
    places = (torch.arange(WIDTH) < count.max() - count[:, None]).long().argmax(1)
    return f + f[torch.arange(len(f)), places, None]


def minibatch_deviation(_: Any, f: Tensor) -> Tensor:
    return f + f.view(2, -1, WIDTH).std(0).repeat(2, 1)


def distinct(_: Any, f: Tensor) -> Tensor:
    values: Tensor = torch.unique(f[:, :1].round(), dim=0)
    return f + values.sum()


class Pair(nn.Module):
    """A model that subtracts the mean of its second input, whose rows may be samples or something else."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.other, self.fc = nn.Linear(8, WIDTH), nn.Linear(8, WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.fc(self.body(x) - self.other(y).mean(0))


@pytest.mark.parametrize("change", [experts, minibatch_deviation, distinct, indexed_by_a_count, None])
def test_what_may_combine_samples_is_named_in_a_note(change: Any) -> None:
    if change is None:
        frozen = freeze_backbone(swap_head(Pair(), 5, (torch.randn(BATCH, 8), torch.randn(BATCH, 8))))
    else:
        frozen = frozen_with(change)
    assert "may combine or exchange the samples of a batch" in frozen.notes[0]


def replaces_a_constant(model: Any, f: Tensor) -> Any:
    model.average = torch.full((WIDTH,), 0.5)
    return f


def test_a_buffer_that_becomes_a_constant_is_named_in_a_note() -> None:
    assert "forward replaces average" in frozen_with(replaces_a_constant).notes[0]


class InPieces(nn.Module):
    """A model that computes the logits of pieces of the batch; `mix` adds what a piece takes from another one."""

    def __init__(self, size: int, mix: Callable[[list[Tensor], int], Tensor | float] = lambda pieces, place: 0) -> None:
        super().__init__()
        self.size, self.mix = size, mix
        self.body, self.fc = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Any:
        pieces = [self.body(piece).relu() for piece in torch.split(x, self.size)]
        return torch.cat([self.fc(piece + self.mix(pieces, place)) for place, piece in enumerate(pieces)])


@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_pieces_of_a_batch_are_not_taken_for_mixed_samples(batch: int, size: int) -> None:
    assert freeze_backbone(swap_head(InPieces(size), 5, torch.randn(batch, 8))).notes == ()


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    "mix",
    [
        lambda pieces, place: pieces[place - 1],
        lambda pieces, place: torch.cat(pieces).mean(0),
        lambda pieces, place: pieces[0][:1],
    ],
    ids=["neighbours", "mean", "first"],
)
def test_pieces_that_take_from_each_other_are_refused(mix: Any, size: int) -> None:
    with pytest.raises(HeadSwapError, match="combines the samples of a batch"):
        freeze_backbone(swap_head(InPieces(size, mix), 5, torch.randn(4, 8)))


def test_each_second_sample_is_a_piece_of_a_batch() -> None:
    class Strided(InPieces):
        def forward(self, x: Tensor) -> Any:
            odd, even = (self.fc(self.body(x[start::2]).relu()) for start in range(2))
            return torch.stack([odd, even], 1).flatten(0, 1)

    assert freeze_backbone(swap_head(Strided(1), 5, torch.randn(4, 8))).notes == ()


def test_a_batch_with_more_rows_behind_it_is_not_refused() -> None:
    class Padded(InPieces):
        def forward(self, x: Tensor) -> Any:
            features = self.body(x).relu()
            return self.fc(torch.cat([features, features[:1]]))[: len(x)]

    assert freeze_backbone(swap_head(Padded(1), 5, torch.randn(4, 8))).notes == ()


class SequenceFirst(nn.Module):
    """Tokens of shape (steps, batch, channels), where steps meet and samples do not."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        self.attention = attention
        self.body, self.fc = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Any:
        f = self.body(x)
        if self.attention:
            scores = torch.einsum("sbc,tbc->bst", f, f).softmax(-1)
            return self.fc(f + torch.einsum("bst,tbc->sbc", scores, f))
        return self.fc(f - f.cumsum(0) + f.mean(0))


@pytest.mark.parametrize("attention", [True, False])
def test_steps_of_a_sequence_are_not_taken_for_samples(attention: bool) -> None:
    swap = swap_head(SequenceFirst(attention), 5, torch.randn(7, 3, 8))
    assert freeze_backbone(swap).notes == ()


class GraphNet(nn.Module):
    """Nodes that are averaged with their neighbours, and whose mean is subtracted."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor, edges: Tensor) -> Any:
        f = self.body(x)
        f = f.index_add(0, edges[1], f[edges[0]])
        return self.fc(f - f.mean(0))


def test_nodes_of_a_graph_are_not_taken_for_samples() -> None:
    inputs = (torch.randn(9, 8), torch.randint(9, (2, 20)))
    assert freeze_backbone(swap_head(GraphNet(), 5, inputs)).notes == ()


class WithAuxiliaryHead(nn.Module):
    """In train mode, return the logits of another head as well."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc, self.aux = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 10), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Any:
        f = torch.relu(self.body(x))
        if self.training:
            aux = self.aux(f * 2)
        return (self.fc(f), aux) if self.training else self.fc(f)


def test_outputs_that_appear_only_in_train_mode_remain() -> None:
    model = WithAuxiliaryHead()
    assert freeze_backbone(swap_head(model, 5, torch.randn(BATCH, 8))).notes == ()
    assert len(model.train()(torch.randn(BATCH, 8))) == 2


# --- several swaps of one model


class TwoTasks(nn.Module):
    """Two heads with different class counts."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Linear(8, WIDTH), nn.BatchNorm1d(WIDTH)
        self.kind, self.colour = nn.Linear(WIDTH, 10), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        f = torch.relu(self.norm(self.body(x)))
        return {"kind": self.kind(f), "colour": self.colour(f)}


def trainable(model: nn.Module) -> set[str]:
    return {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("frozen", ["a", "b", "a and b", "b and a", "model"])
def test_the_heads_of_every_swap_stay_trainable(frozen: str) -> None:
    model = TwoTasks()
    swaps: dict[str, Any] = {
        "a": swap_head(model, 5, torch.randn(BATCH, 8), head="kind"),
        "b": swap_head(model, 4, torch.randn(BATCH, 8), head="colour"),
        "model": model,
    }
    for name in frozen.split(" and "):
        freeze_backbone(swaps[name])
    assert trainable(model) == {"kind", "colour"}
    assert not model.train().norm.training
    assert {name for name, module in model.named_modules() if module.training} == {"", "kind", "colour"}


def test_the_head_of_a_swap_made_after_a_freeze_is_trainable_after_another_freeze() -> None:
    model = TwoTasks()
    freeze_backbone(swap_head(model, 5, torch.randn(BATCH, 8), head="kind"))

    def dropout_head(width: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Dropout(), nn.Linear(width, classes))

    freeze_backbone(swap_head(model, 4, torch.randn(BATCH, 8), head="colour", new_head=dropout_head))
    assert trainable(model) == {"kind", "colour"}
    assert model.train().colour.get_submodule("0").training


def test_the_head_of_a_swap_that_was_undone_is_frozen() -> None:
    model = TwoTasks()
    a = swap_head(model, 5, torch.randn(BATCH, 8), head="kind")
    b = swap_head(model, 4, torch.randn(BATCH, 8), head="colour")
    b.restore()
    frozen = freeze_backbone(a)
    assert trainable(model) == {"kind"}
    frozen.unfreeze()
    b.reapply()
    freeze_backbone(a)
    assert trainable(model) == {"kind", "colour"}


def test_a_head_that_was_swapped_twice_is_trainable() -> None:
    model = TwoTasks()
    swap_head(model, 5, torch.randn(BATCH, 8), head="kind", new_head=lambda w, n: nn.Sequential(nn.Linear(w, n)))
    freeze_backbone(swap_head(model, 4, torch.randn(BATCH, 8), head="kind.0"))
    assert trainable(model) == {"kind"}
